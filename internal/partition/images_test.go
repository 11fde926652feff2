package partition_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestSEC10_ImagesOfOtherTenants(t *testing.T) {
	w := start(t)
	tenant, other := w.tenant(nil), w.tenant(nil)
	ns := w.ready(tenant, "prod").Status.Namespace
	image := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Image = name }
	}
	refusedOnce(w, pod(ns, image("registry.yunfan.internal/"+other+"/app:v1")))
	const foreign, unnamed = "belongs to another tenant", "named by its repository"
	id := "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	cases := map[string]struct {
		reason string
		change func(*corev1.Pod)
		rule   string // empty if it is allowed
	}{
		"Own":         {"the tenant's own", image("registry.yunfan.internal/" + tenant + "/app:v1"), ""},
		"Common":      {"everybody's", image("registry.yunfan.internal/library/app@sha256:" + id), ""},
		"Short":       {"the hub's library", image("nginx"), ""},
		"ShortNamed":  {"the hub's library, whatever it is called", image(other + ":v1"), ""},
		"Foreign":     {"another tenant's", image("registry.yunfan.internal/" + other + "/app:v1"), foreign},
		"Digest":      {"the same by digest", image("registry.yunfan.internal/" + other + "/app@sha256:" + id), foreign},
		"Deep":        {"the same deeper down", image("registry.yunfan.internal/" + other + "/a/b:v1"), foreign},
		"OnePart":     {"the repository of that very name", image("registry.yunfan.internal/" + other + ":v1"), foreign},
		"OtherPort":   {"the registry by its address", image("198.18.0.1:5000/" + other + "/app"), foreign},
		"Mirror":      {"another registry's name, which leads to ours", image("docker.io/" + other + "/app"), foreign},
		"MirrorShort": {"the same without a registry", image(other + "/app"), foreign},
		"Localhost":   {"the same by another name", image("localhost/" + other + "/app"), foreign},
		"Inside":      {"a name further down", image("registry.yunfan.internal/library/" + other + "/app"), ""},
		"Identity":    {"whatever is on the node", image("sha256:" + id), unnamed},
		"Init": {"another tenant's, before the start", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: other + "/app"}}
		}, foreign},
		"Volume": {"another tenant's, as files", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: other + "/app"}}}}
		}, foreign},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := client.NewDryRunClient(w.member.Client).Create(t.Context(), pod(ns, tc.change))
			if tc.rule == "" && err != nil || tc.rule != "" && !contains(err, tc.rule) {
				t.Errorf("%s: want %q, got %v", tc.reason, tc.rule, err)
			}
		})
	}
	running := pod(ns)
	testkit.Create(t, w.member.Client, running)
	t.Run("Update", func(t *testing.T) {
		changed := running.DeepCopy()
		changed.Spec.Containers[0].Image = other + "/app"
		if err := w.member.Client.Update(t.Context(), changed); !contains(err, foreign) {
			t.Errorf("an image that is put in later: want a refusal, got %v", err)
		}
	})
	t.Run("Ephemeral", func(t *testing.T) {
		changed := running.DeepCopy()
		changed.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: other + "/app"}}}
		if err := w.member.Client.SubResource("ephemeralcontainers").Update(t.Context(), changed); !contains(err, foreign) {
			t.Errorf("an image of a container for debugging: want a refusal, got %v", err)
		}
	})
	t.Run("NewTenant", func(t *testing.T) {
		late := w.tenant(nil)
		NewWithT(t).Eventually(func() error {
			return client.NewDryRunClient(w.member.Client).Create(t.Context(), pod(ns, image(late+"/app")))
		}, "10s").Should(MatchError(ContainSubstring(foreign)))
	})
}

func TestRES13_ExternalAddresses(t *testing.T) {
	w := start(t)
	ns := w.ready(w.tenant(nil), "prod").Status.Namespace
	try := func(address string) error {
		return client.NewDryRunClient(w.member.Client).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
			Spec:       corev1.ServiceSpec{ExternalIPs: []string{address}, Ports: []corev1.ServicePort{{Port: 80}}},
		})
	}
	g := NewWithT(t)
	g.Eventually(func() error { return try("203.0.113.17") }, "10s").Should(MatchError(ContainSubstring("not among those")))
	cluster := &v1alpha1.Cluster{}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Name: w.cluster}, cluster)).To(Succeed())
	cluster.Spec.ExternalIPs = []string{"203.0.113.16/28", "198.51.100.7/32"}
	g.Expect(hub.Client.Update(t.Context(), cluster)).To(Succeed())
	g.Eventually(func() error { return try("203.0.113.17") }, "10s").Should(Succeed())
	g.Expect(try("198.51.100.7")).To(Succeed())
	g.Expect(try("10.96.0.10")).To(MatchError(ContainSubstring("not among those")))
}
