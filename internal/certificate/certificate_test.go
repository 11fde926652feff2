package certificate

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// kubeconfig is one for the hub itself, in place of a member.
func kubeconfig(t *testing.T, mark string) []byte {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: hub.Config.Host, CertificateAuthorityData: hub.Config.CAData}
	c.AuthInfos["u"+mark] = &clientcmdapi.AuthInfo{ClientCertificateData: hub.Config.CertData, ClientKeyData: hub.Config.KeyData}
	c.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u" + mark}
	c.CurrentContext = "c"
	text, err := clientcmd.Write(*c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSEC07_EveryCertificate(t *testing.T) {
	g := NewWithT(t)
	joined, lost := &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "joined"}}, &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "lost"}}
	for _, c := range []*v1alpha1.Cluster{joined, lost} {
		c.Spec.Connection.KubeconfigSecretRef = &v1alpha1.SecretReference{Name: c.Name + "-kubeconfig"}
		testkit.Create(t, hub.Client, c)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: testkit.PlatformNamespace, Name: "joined-kubeconfig"}, Data: map[string][]byte{"kubeconfig": kubeconfig(t, "")}}
	testkit.Create(t, hub.Client, secret)
	dir := t.TempDir()
	for _, folder := range []string{"clusters/hub/pki", "kubeconfig"} {
		g.Expect(os.MkdirAll(filepath.Join(dir, folder), 0o700)).To(Succeed())
	}
	g.Expect(os.WriteFile(filepath.Join(dir, "clusters/hub/pki/admin.crt"), hub.Config.CertData, 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "clusters/hub/pki/broken.crt"), []byte("nothing"), 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "kubeconfig/joined.kubeconfig"), kubeconfig(t, "-renewed"), 0o600)).To(Succeed())

	l := &List{Hub: hub.Client, HubConfig: hub.Config, Namespace: testkit.PlatformNamespace, URL: &url.URL{Scheme: "https", Host: "127.0.0.1:1"}, InstanceDir: dir}
	rows := map[string]Row{}
	for _, r := range l.All(t.Context()) {
		rows[r.Cluster+" "+r.Component] = r
	}
	for _, seen := range []string{"hub serving certificate", "hub client certificate", "hub admin", "joined client certificate", "joined serving certificate", "joined authority"} {
		g.Expect(rows).To(HaveKey(seen))
		g.Expect(rows[seen].NotAfter).To(HaveValue(BeTemporally(">", time.Now())), seen)
		g.Expect(rows[seen].Subject+rows[seen].Issuer).NotTo(BeEmpty(), seen)
	}
	g.Expect(rows["hub admin"].RenewedBy).To(Equal(byEngine))
	g.Expect(rows["joined client certificate"].RenewedBy).To(Equal(byEngine), "the engine writes its kubeconfig")
	for _, unseen := range []string{"server serving certificate", "server authority", "lost kubeconfig", "hub broken"} {
		g.Expect(rows).To(HaveKey(unseen))
		g.Expect(rows[unseen].NotAfter).To(BeNil(), unseen)
		g.Expect(rows[unseen].Message).NotTo(BeEmpty(), "it says why")
	}
	first, days, missing := l.FirstToEnd(t.Context())
	g.Expect(first).NotTo(BeEmpty())
	g.Expect(days).To(BeNumerically(">=", 0))
	g.Expect(missing).To(ContainElement("lost kubeconfig"))

	refresh := &Refresh{Hub: hub.Client, Namespace: testkit.PlatformNamespace, InstanceDir: dir}
	g.Expect(refresh.once(t.Context())).To(Succeed())
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), secret)).To(Succeed())
	g.Expect(bytes.Contains(secret.Data["kubeconfig"], []byte("u-renewed"))).To(BeTrue(), "the hub has the renewed one")
	other := bytes.ReplaceAll(kubeconfig(t, "-other"), []byte(hub.Config.Host), []byte("https://192.0.2.1:6443"))
	g.Expect(os.WriteFile(filepath.Join(dir, "kubeconfig/joined.kubeconfig"), other, 0o600)).To(Succeed())
	g.Expect(refresh.once(t.Context())).To(Succeed())
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), secret)).To(Succeed())
	g.Expect(bytes.Contains(secret.Data["kubeconfig"], []byte("u-other"))).To(BeFalse(), "another cluster of the same name is left alone")
}
