package application

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// Three clusters: the core network and the DMZ of one data centre, and a second data centre. What is restricted to the
// DMZ lands only there, though the tenant has partitions everywhere; a large tenant has the second data centre's cluster
// for itself while a small one has a partition in the core.
func TestCLU04_ZonesSelectWhereApplicationsGo(t *testing.T) {
	g := NewWithT(t)
	small := newTenant(t)
	zones := map[string]map[string]string{
		"core": {"yunfan.io/network": "core", "yunfan.io/zone": "dc1"},
		"dmz":  {"yunfan.io/network": "DMZ", "yunfan.io/zone": "dc1"},
		"dc2":  {"yunfan.io/network": "core", "yunfan.io/zone": "dc2"},
	}
	at := map[string]string{}
	for name, labels := range zones {
		at[name] = small.namespace + "-" + name
		testkit.Create(t, hub.Client, &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: at[name], Labels: labels}, Spec: v1alpha1.ClusterSpec{
			Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}},
		}})
		small.partition("in-"+name, at[name])
	}
	large := bareTenant(t)
	large.partition("everything", at["dc2"])
	restricted := func(tn *tenant, name string, labels map[string]string) *v1alpha1.Application {
		return tn.create(&v1alpha1.Application{
			ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: name},
			Spec: v1alpha1.ApplicationSpec{
				Components: []v1alpha1.Component{{Name: "web", Template: template(corev1.Container{Name: "web", Image: "i"})}},
				Placement: v1alpha1.Placement{Partitions: []v1alpha1.PartitionChoice{{
					Selector: &metav1.LabelSelector{MatchLabels: labels},
				}}},
			},
		})
	}
	for _, tc := range []struct {
		tenant *tenant
		name   string
		labels map[string]string
		want   string
	}{
		{small, "proxy", map[string]string{"yunfan.io/network": "DMZ"}, "dmz/in-dmz"},
		{small, "backend", map[string]string{"yunfan.io/network": "core", "yunfan.io/zone": "dc1"}, "core/in-core"},
		{small, "region", map[string]string{"yunfan.io/zone": "dc2"}, "dc2/in-dc2"},
		{large, "warehouse", map[string]string{"yunfan.io/zone": "dc2"}, "dc2/everything"},
	} {
		app := restricted(tc.tenant, tc.name, tc.labels)
		g.Eventually(func() string {
			var list v1alpha1.DeliveryList
			g.Expect(hub.Client.List(t.Context(), &list, client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: app.Name})).To(Succeed())
			var where []string
			for i := range list.Items {
				where = append(where, strings.TrimPrefix(list.Items[i].Spec.Cluster, small.namespace+"-")+"/"+list.Items[i].Spec.Partition)
			}
			return strings.Join(where, " ")
		}, wait).Should(Equal(tc.want), tc.name)
	}
	small.becomes(restricted(small, "nowhere", map[string]string{"yunfan.io/zone": "dc3"}), v1alpha1.ReasonPartitionNotFound, "yunfan.io/zone=dc3", "matches no partition")
}
