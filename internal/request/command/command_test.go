package command

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/request"
)

func TestONB04_RequestByFlags(t *testing.T) {
	g := NewWithT(t)
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	wish := &Wish{
		Type: "New", Partition: "prod", Until: "90d", Items: map[string]string{"vm": "2", "host": "1"}, Quota: map[string]string{"requests.cpu": "4"},
		Form: v1alpha1.RequestForm{ProjectGroup: "教务处"}, ServerType: "MPP", Storage: "500Gi",
	}
	req := &v1alpha1.ResourceRequest{}
	g.Expect(wish.write(req, now)).To(Succeed())
	g.Expect(req.GenerateName).To(Equal("request-"))
	g.Expect(req.Spec.Wanted.Items).To(Equal([]v1alpha1.RequestItem{{Product: "host", Count: 1}, {Product: "vm", Count: 2}}))
	g.Expect(req.Spec.Wanted.Quota).To(HaveKeyWithValue(corev1.ResourceName("requests.cpu"), resource.MustParse("4")))
	g.Expect(req.Spec.Wanted.Until.Time).To(Equal(now.AddDate(0, 0, 90)))
	g.Expect(req.Spec.Form.ServerType).To(Equal(v1alpha1.ServerMPP))
	for want, wrong := range map[string]*Wish{
		"--until":   {Until: "soon"},
		"--storage": {Storage: "much"},
		"--quota":   {Quota: map[string]string{"cpu": "many"}},
		"--product": {Items: map[string]string{"vm": "2x"}},
	} {
		err := wrong.write(&v1alpha1.ResourceRequest{}, now)
		g.Expect(err).To(MatchError(ContainSubstring(want)))
		g.Expect(cli.ExitCode(err)).To(Equal(cli.ExitUsage))
	}
}

func TestONB04_RequestFromFile(t *testing.T) {
	g := NewWithT(t)
	c := &Command{In: strings.NewReader("kind: Pod\n")}
	req := &v1alpha1.ResourceRequest{}
	g.Expect(c.read(filepath.Join("..", "..", "..", "examples", "request", "new.yaml"), req)).To(Succeed())
	g.Expect(req.Spec.Wanted.Partition).To(Equal("score-prod"))
	g.Expect(c.read("-", &v1alpha1.ResourceRequest{})).To(MatchError(ContainSubstring(`write a ResourceRequest`)))
	g.Expect(c.read("missing.yaml", req)).To(MatchError(ContainSubstring("missing.yaml")))
}

func TestONB05_LedgerOnTheCommandLine(t *testing.T) {
	g := NewWithT(t)
	var out bytes.Buffer
	c := &Command{Out: &out}
	req := &v1alpha1.ResourceRequest{}
	req.Name, req.Namespace, req.Status.Phase, req.Status.Comment = "score", "edu", v1alpha1.RequestRejected, "no\nbudget"
	g.Expect(c.show(&request.Detail{
		Request: req, Notes: []string{"note"}, Steps: []v1alpha1.StepStatus{{Name: "approve", Phase: v1alpha1.StepFailed}},
		Ledger: []request.LedgerRow{{Event: "Rejected", Tenant: "edu", Asked: corev1.ResourceList{"requests.cpu": resource.MustParse("4"), "pods": resource.MustParse("9")}}},
	})).To(Succeed())
	for _, text := range []string{"Request score of tenant edu: Rejected", "no budget", "approve", "pods=9,requests.cpu=4"} {
		g.Expect(out.String()).To(ContainSubstring(text))
	}
}
