package nodeport

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestRES12_ReporterOnMembersThatWantIt(t *testing.T) {
	j := join(t, time.Hour)
	g := NewWithT(t)
	if err := (&Reporter{Hub: j.manager.GetClient(), Members: j.ports.Members}).SetupWithManager(j.manager); err != nil {
		t.Fatal(err)
	}
	set := func(mode v1alpha1.PortReport) {
		t.Helper()
		cluster := &v1alpha1.Cluster{}
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Name: j.cluster}, cluster)).To(Succeed())
		cluster.Spec.PortReport = mode
		g.Expect(hub.Client.Update(t.Context(), cluster)).To(Succeed())
	}
	pods := func() (*corev1.PodSpec, error) {
		d := &appsv1.DaemonSet{}
		err := j.Client.Get(t.Context(), client.ObjectKey{Namespace: reportNamespace, Name: reporterName}, d)
		return &d.Spec.Template.Spec, err
	}
	for mode, programs := range map[v1alpha1.PortReport]bool{v1alpha1.PortReportPorts: false, v1alpha1.PortReportPrograms: true} {
		set(mode)
		g.Eventually(func(g Gomega) {
			spec, err := pods()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(spec.HostNetwork).To(BeTrue())
			g.Expect(spec.HostPID).To(Equal(programs), "processes are seen only for their names")
			g.Expect(spec.Containers[0].SecurityContext.Capabilities.Add).To(HaveLen(map[bool]int{true: 2}[programs]))
		}, "20s").Should(Succeed())
	}
	testkit.Create(t, j.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: reportNamespace, Name: "ports-n1", Labels: map[string]string{LabelReport: "true"}}})
	set(v1alpha1.PortReportOff)
	g.Eventually(func() error { _, err := pods(); return err }, "20s").Should(MatchError(ContainSubstring("not found")))
	g.Eventually(func() int {
		var reports corev1.ConfigMapList
		g.Expect(j.Client.List(t.Context(), &reports, client.InNamespace(reportNamespace), client.HasLabels{LabelReport})).To(Succeed())
		return len(reports.Items)
	}, "10s").Should(BeZero())
}
