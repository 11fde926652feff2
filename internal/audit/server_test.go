package audit_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/server"
	"yunfan.io/yunfan/internal/testkit"
)

const patience = 2 * time.Minute

// platform is a hub with the whole server on it.
type platform struct {
	hub     *testkit.Member
	records string
	// through is the way to the hub's API through the server, as the hub's administrator.
	through *rest.Config
	url     string
	stop    func() error
}

func startPlatform(t *testing.T, hub *testkit.Member, records string) *platform {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, server.Options{Hub: hub.Config, Listen: address, Records: records}) }()
	p := &platform{hub: hub, records: records, url: "https://" + address}
	stopped := false
	p.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("running the server: %v", err)
		}
	})
	p.through = rest.CopyConfig(hub.Config)
	p.through.Host, p.through.QPS = p.url, -1
	g := NewWithT(t)
	g.Eventually(func() error {
		where := &corev1.ConfigMap{}
		if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: server.Namespace, Name: server.ConfigMapName}, where); err != nil {
			return err
		}
		p.through.CAData = []byte(where.Data[server.KeyCA])
		c, err := rest.HTTPClientFor(p.through)
		if err != nil {
			return err
		}
		answer, err := c.Get(p.url + "/readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				err = fmt.Errorf("not ready: %s", answer.Status)
			}
		}
		return err
	}).WithTimeout(patience).Should(Succeed())
	return p
}

func (p *platform) call(t *testing.T, method, path, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	c, err := rest.HTTPClientFor(p.through)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header
}

// rows gives the rows that a query shows, with states.
func (p *platform) rows(t *testing.T, query url.Values) []audit.Row {
	t.Helper()
	code, text, _ := p.call(t, http.MethodGet, "/api/v1/audit/export?"+query.Encode(), "")
	if code != http.StatusOK {
		t.Fatalf("got %d %s", code, text)
	}
	var rows []audit.Row
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		var row audit.Row
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// row waits for the one row of a query that has a result.
func (p *platform) row(t *testing.T, query url.Values) (row audit.Row) {
	t.Helper()
	NewWithT(t).Eventually(func() string {
		rows := p.rows(t, query)
		if len(rows) != 1 {
			return fmt.Sprintf("%d rows", len(rows))
		}
		row = rows[0]
		return row.Result
	}).WithTimeout(patience).ShouldNot(Or(Equal(audit.ResultPending), HaveSuffix("rows")), "one row with a result for %v", query)
	return row
}

func TestAUD01_Server(t *testing.T) {
	p := startPlatform(t, testkit.StartMember(t), filepath.Join(t.TempDir(), "records.db"))
	clients, err := kubernetes.NewForConfig(p.through)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	maps := clients.CoreV1().ConfigMaps("default")

	t.Run("Lifetime", func(t *testing.T) {
		g := NewWithT(t)
		made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "life"}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		made.Data["a"] = "2"
		made, err = maps.Update(ctx, made, metav1.UpdateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(maps.Delete(ctx, "life", metav1.DeleteOptions{})).To(Succeed())

		create := p.row(t, url.Values{"name": {"life"}, "action": {"create"}})
		g.Expect(create).To(And(HaveField("User", "admin"), HaveField("Origin", "hub"), HaveField("Via", "certificate"), HaveField("Address", "127.0.0.1"),
			HaveField("Resource", "configmaps"), HaveField("Namespace", "default"), HaveField("UID", string(made.UID)), HaveField("Code", 201), HaveField("Before", ""), HaveField("After", ContainSubstring(`"a":"1"`))))
		update := p.row(t, url.Values{"name": {"life"}, "action": {"update"}})
		g.Expect(update).To(And(HaveField("Result", audit.ResultSucceeded), HaveField("Before", ContainSubstring(`"a":"1"`)), HaveField("After", ContainSubstring(`"a":"2"`)),
			HaveField("VersionBefore", create.VersionAfter), HaveField("VersionAfter", made.ResourceVersion)))
		remove := p.row(t, url.Values{"name": {"life"}, "action": {"delete"}})
		g.Expect(remove).To(And(HaveField("Before", ContainSubstring(`"a":"2"`)), HaveField("After", "")))
	})

	t.Run("GenerateName", func(t *testing.T) {
		made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "some-"}}, metav1.CreateOptions{})
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		if row := p.row(t, url.Values{"name": {made.Name}}); row.UID != string(made.UID) {
			t.Errorf("got %+v", row)
		}
	})

	t.Run("DryRun", func(t *testing.T) {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dry"}}, metav1.CreateOptions{DryRun: []string{"All"}})
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		if row := p.row(t, url.Values{"name": {"dry"}}); !row.DryRun {
			t.Errorf("got %+v, want it marked", row)
		}
	})

	t.Run("Secrets", func(t *testing.T) {
		g := NewWithT(t)
		secrets := clients.CoreV1().Secrets("default")
		_, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hidden"}, StringData: map[string]string{"password": "hunter2"}}, metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		_, err = secrets.Get(ctx, "hidden", metav1.GetOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(secrets.Delete(ctx, "hidden", metav1.DeleteOptions{})).To(Succeed())
		for _, action := range []string{"create", "get", "delete"} {
			text := fmt.Sprint(p.row(t, url.Values{"resource": {"secrets"}, "name": {"hidden"}, "action": {action}}))
			g.Expect(text).NotTo(Or(ContainSubstring("hunter2"), ContainSubstring("aHVudGVyMg")), "what nobody may read")
		}
	})

	t.Run("DeleteCollection", func(t *testing.T) {
		g := NewWithT(t)
		for i := range 3 {
			_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("many-", i), Labels: map[string]string{"many": "yes"}}}, metav1.CreateOptions{})
			g.Expect(err).NotTo(HaveOccurred())
		}
		g.Expect(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "many=yes"})).To(Succeed())
		g.Expect(p.row(t, url.Values{"action": {"deletecollection"}}).Before).To(And(ContainSubstring(`"count":3`), ContainSubstring("many-2"), ContainSubstring("many=yes")))
	})

	t.Run("Protobuf", func(t *testing.T) {
		g := NewWithT(t)
		config := rest.CopyConfig(p.through)
		config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
		clients, err := kubernetes.NewForConfig(config)
		g.Expect(err).NotTo(HaveOccurred())
		made, err := clients.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "proto"}, Data: map[string]string{"a": "proto"}}, metav1.CreateOptions{})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(p.row(t, url.Values{"name": {"proto"}})).To(And(HaveField("UID", string(made.UID)), HaveField("After", ContainSubstring(`"a":"proto"`))))
	})

	t.Run("Refused", func(t *testing.T) { refusalsHaveRows(t, p) })
	t.Run("Kubectl", func(t *testing.T) { kubectlHasRows(t, p) })
	t.Run("Sizes", func(t *testing.T) { sizesAreBounded(t, p, maps) })
	t.Run("Pages", func(t *testing.T) { pagesAreWhole(t, p) })
	t.Run("Nobody", func(t *testing.T) { nobodyDeletes(t, p) })
}

// refusalsHaveRows is refused in every way.
func refusalsHaveRows(t *testing.T, p *platform) {
	t.Helper()
	ctx := t.Context()
	t.Run("Token", func(t *testing.T) {
		g := NewWithT(t)
		config := rest.AnonymousClientConfig(p.through)
		config.BearerToken = "forged"
		clients, err := kubernetes.NewForConfig(config)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = clients.CoreV1().ConfigMaps("default").Get(ctx, "forged", metav1.GetOptions{})
		g.Expect(err).To(HaveOccurred())
		_, err = clients.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "forged"}}, metav1.CreateOptions{})
		g.Expect(err).To(HaveOccurred())
		g.Expect(p.row(t, url.Values{"result": {audit.ResultRefused}, "action": {"get"}, "name": {"forged"}})).To(And(HaveField("Code", 401), HaveField("User", "")))
		g.Expect(p.row(t, url.Values{"result": {audit.ResultRefused}, "action": {"create"}, "resource": {"configmaps"}})).To(HaveField("Code", 401))
	})

	t.Run("SignIn", func(t *testing.T) {
		g := NewWithT(t)
		code, _, _ := p.call(t, http.MethodPost, "/api/v1/session", `{"user":"mallory","password":"letmein"}`, "Content-Type", "application/json")
		g.Expect(code).To(Equal(http.StatusUnauthorized))
		row := p.row(t, url.Values{"user": {"mallory"}})
		g.Expect(row).To(And(HaveField("Action", "signIn"), HaveField("Result", audit.ResultRefused), HaveField("After", "")))
	})

	t.Run("Reviews", func(t *testing.T) {
		code, _, header := p.call(t, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
			`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`, "Content-Type", "application/json")
		if rows := p.rows(t, url.Values{"search": {header.Get("X-Request-ID")}}); code != http.StatusCreated || len(rows) > 0 {
			t.Errorf("asking what one may is no change: %d %v", code, rows)
		}
	})

}

// sizesAreBounded sends more than is taken, and more than is kept.
func sizesAreBounded(t *testing.T, p *platform, maps typedcorev1.ConfigMapInterface) {
	t.Helper()
	ctx := t.Context()
	t.Run("TooLarge", func(t *testing.T) {
		body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"huge"},"data":{"a":"` + strings.Repeat("x", 5<<20) + `"}}`
		code, text, header := p.call(t, http.MethodPost, "/api/v1/namespaces/default/configmaps", body, "Content-Type", "application/json")
		if code != http.StatusRequestEntityTooLarge {
			t.Fatalf("got %d %.200s", code, text)
		}
		if row := p.row(t, url.Values{"search": {header.Get("X-Request-ID")}}); row.Result != audit.ResultFailed || row.Code != code {
			t.Errorf("got %+v", row)
		}
	})

	t.Run("LargeState", func(t *testing.T) {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string]string{"a": strings.Repeat("船", 100<<10)}}, metav1.CreateOptions{})
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		if row := p.row(t, url.Values{"name": {"large"}}); len(row.After) > 64<<10 || !strings.Contains(row.After, "bytes in all") {
			t.Errorf("kept %d bytes: …%s", len(row.After), row.After[max(0, len(row.After)-50):])
		}
	})

}

// nobodyDeletes finds no way to rows without a user, or to change them with one.
func nobodyDeletes(t *testing.T, p *platform) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	answer, err := (&http.Client{Transport: transport}).Get(p.url + "/api/v1/audit")
	if err != nil || answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %v %v, want 401", answer, err)
	}
	for _, method := range []string{http.MethodDelete, http.MethodPut, http.MethodPatch, http.MethodPost} {
		if code, _, _ := p.call(t, method, "/api/v1/audit", "{}"); code < http.StatusBadRequest {
			t.Errorf("%s of audit: got %d", method, code)
		}
	}
}

// kubectlHasRows does with the real kubectl what people do.
func kubectlHasRows(t *testing.T, p *platform) {
	t.Helper()
	g := NewWithT(t)
	folder := t.TempDir()
	kubeconfig := filepath.Join(folder, "kubeconfig")
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: p.url, CertificateAuthorityData: p.through.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {ClientCertificateData: p.through.CertData, ClientKeyData: p.through.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}
	g.Expect(clientcmd.WriteToFile(config, kubeconfig)).To(Succeed())
	manifest := filepath.Join(folder, "manifest.yaml")
	g.Expect(os.WriteFile(manifest, []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: kept}\nstringData: {a: hunter2}\n"), 0o600)).To(Succeed())
	for _, args := range [][]string{
		{"create", "configmap", "byhand", "--from-literal=a=1"},
		{"label", "configmap", "byhand", "b=2"},
		{"apply", "--server-side", "-f", manifest},
		{"apply", "--server-side=false", "-f", manifest},
		{"delete", "configmap", "byhand"},
	} {
		cmd := exec.CommandContext(t.Context(), "kubectl", append(args, "--kubeconfig", kubeconfig)...)
		out, err := cmd.CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred(), "kubectl %v: %s", args, out)
	}
	for _, want := range []struct{ name, action string }{{"byhand", "create"}, {"byhand", "patch"}, {"byhand", "delete"}, {"kept", "apply"}, {"kept", "patch"}} {
		row := p.row(t, url.Values{"name": {want.name}, "action": {want.action}})
		g.Expect(row.UserAgent).To(HavePrefix("kubectl"))
		g.Expect(row.Result).To(Equal(audit.ResultSucceeded))
		g.Expect(row.Before + row.After).NotTo(BeEmpty())
		g.Expect(row.Before + row.After).NotTo(Or(ContainSubstring("hunter2"), ContainSubstring("aHVudGVyMg")))
	}
}

// pagesAreWhole reads all rows page by page, and finds what the export has, the newest first.
func pagesAreWhole(t *testing.T, p *platform) {
	t.Helper()
	g := NewWithT(t)
	var ids []string
	for next := ""; ; {
		code, text, _ := p.call(t, http.MethodGet, "/api/v1/audit?resource=configmaps&pageSize=4&next="+next, "")
		g.Expect(code).To(Equal(http.StatusOK), text)
		var page audit.Page
		g.Expect(json.Unmarshal([]byte(text), &page)).To(Succeed())
		for _, row := range page.Items {
			ids = append(ids, row.ID)
			g.Expect(row.Before+row.After).To(BeEmpty(), "lists are short")
		}
		if next = page.Next; next == "" {
			break
		}
	}
	rows := p.rows(t, url.Values{"resource": {"configmaps"}})
	g.Expect(ids).To(HaveLen(len(rows)))
	for i, row := range rows {
		g.Expect(ids[i]).To(Equal(row.ID))
	}
	g.Expect(slices.IsSortedFunc(rows, func(a, b audit.Row) int { return strings.Compare(b.ID, a.ID) })).To(BeTrue())
	code, text, _ := p.call(t, http.MethodGet, "/api/v1/audit/export?format=csv&resource=configmaps", "")
	g.Expect(code).To(Equal(http.StatusOK))
	g.Expect(strings.Count(text, "\n")).To(Equal(len(rows) + 1))
	for _, query := range []string{"colour=red", "from=yesterday", "pageSize=0", "next=x"} {
		code, _, _ := p.call(t, http.MethodGet, "/api/v1/audit?"+query, "")
		g.Expect(code).To(Equal(http.StatusBadRequest), query)
	}
}
