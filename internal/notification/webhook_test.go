package notification

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/testkit"
)

// verified says whether a call carries a signature by the key: written from the specification, not from our own code.
func verified(c call, key string) bool {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "whsec_"))
	if err != nil || !strings.HasPrefix(key, "whsec_") || len(secret) < 24 || len(secret) > 64 {
		return false
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(c.header.Get("Webhook-Id") + "." + c.header.Get("Webhook-Timestamp") + "." + string(c.body)))
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for one := range strings.SplitSeq(c.header.Get("Webhook-Signature"), " ") {
		if hmac.Equal([]byte(one), []byte(want)) {
			return true
		}
	}
	return false
}

// The vector is that of the libraries of Standard Webhooks.
func TestOPS06_SignatureAsOthersMakeIt(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := signatures([]signingKey{{Key: key}}, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMET14_NetworkManagementTakesWebhooks(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	p.lead()
	nms := newHook(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	_, key := p.receiver(nms.URL + "/hook")
	p.send(p.message("a"))
	p.send(p.message("a"))
	row := p.eventually("", stateSent, 1)[0]
	g.Expect(row.Attempts).To(BeEquivalentTo(2))
	calls := nms.got()
	g.Expect(calls).To(HaveLen(2))
	for _, c := range calls {
		g.Expect(verified(c, key)).To(BeTrue())
		g.Expect(c.header.Get("Webhook-Id")).To(Equal(row.ID), "the same in each attempt")
		g.Expect(c.header.Get("Content-Type")).To(Equal("application/json"))
	}
	var body map[string]any
	g.Expect(json.Unmarshal(calls[1].body, &body)).To(Succeed())
	g.Expect(body).To(HaveKeyWithValue("id", row.ID))
	g.Expect(body).To(HaveKeyWithValue("topic", topicLeave))
	g.Expect(body).To(HaveKeyWithValue("tenant", p.tenant))
	g.Expect(body).To(HaveKeyWithValue("title", HaveKeyWithValue("zh", "申请 a 已批准")))
	g.Expect(body).To(HaveKeyWithValue("title", HaveKeyWithValue("en", "Request a is approved")))
	g.Expect(body).To(HaveKeyWithValue("text", HaveKeyWithValue("en", "Request a: 可以")))
	g.Expect(body).To(HaveKeyWithValue("link", "https://yunfan.example.com/console/requests/a"))
	g.Expect(body).To(HaveKeyWithValue("data", HaveKeyWithValue("comment", "可以")))
	at, err := time.Parse(time.RFC3339, body["time"].(string))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(time.Since(at)).To(BeNumerically("<", time.Hour))
}

// The program that docs/notification.md shows in Python takes what we send, and refuses what was changed.
func TestOPS06_PythonOfTheDocumentation(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 here")
	}
	script := documented(t, "python") + `
import sys
body = sys.stdin.buffer.read()
headers = {"webhook-id": sys.argv[2], "webhook-timestamp": sys.argv[3], "webhook-signature": sys.argv[4]}
print(verify(sys.argv[1], headers, body))
`
	p := start(t, sqlite(t))
	p.lead()
	nms := newHook(t, nil)
	_, key := p.receiver(nms.URL)
	p.send(p.message("a"))
	p.eventually("", stateSent, 1)
	c := nms.got()[0]
	for body, want := range map[string]string{string(c.body): "True", string(c.body) + " ": "False"} {
		cmd := exec.CommandContext(t.Context(), python, "-c", script, key, c.header.Get("Webhook-Id"), c.header.Get("Webhook-Timestamp"), c.header.Get("Webhook-Signature"))
		cmd.Stdin = strings.NewReader(body)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("got %s (%v), want %s", out, err, want)
		}
	}
}

func TestOPS06_WebhookFailures(t *testing.T) {
	type answer = func(w http.ResponseWriter, r *http.Request, n int)
	for name, tc := range map[string]struct {
		reason string
		answer answer
		state  string
		says   string
		calls  int
	}{
		"Gone":    {"It is never called again", func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusGone) }, stateDead, "410", 1},
		"Refused": {"A message that it does not want is tried again, and given up", func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(http.StatusBadRequest) }, stateDead, "400", 2},
		"Redirect": {"Redirects are not followed, least of all to the metadata of a cloud", func(w http.ResponseWriter, r *http.Request, _ int) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		}, stateDead, "redirects are not followed", 2},
		"Flood": {"An answer without end", func(w http.ResponseWriter, _ *http.Request, _ int) {
			_, _ = w.Write([]byte(strings.Repeat("x", 1<<20)))
		}, stateSent, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			p := start(t, sqlite(t), func(o *Options) { o.Schedule.GiveUp = 40 * time.Millisecond })
			p.lead()
			nms := newHook(t, tc.answer)
			p.receiver(nms.URL)
			p.send(p.message("a"))
			row := p.eventually("", tc.state, 1)[0]
			g.Expect(row.Error).To(ContainSubstring(tc.says), tc.reason)
			g.Expect(len(nms.got())).To(And(BeNumerically(">=", 1), BeNumerically("<=", tc.calls)), tc.reason)
		})
	}
}

func TestOPS06_GoneReceiverIsClosedUntilItIsChanged(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	p.lead()
	nms := newHook(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			w.WriteHeader(http.StatusGone)
		}
	})
	r, _ := p.receiver(nms.URL)
	p.send(p.message("a"))
	p.eventually("", stateDead, 1)
	g.Eventually(func() int64 {
		_ = p.hub.Get(t.Context(), client.ObjectKeyFromObject(r), r)
		return r.Status.GoneGeneration
	}, wait).Should(BeEquivalentTo(r.Generation))
	g.Expect(r.Status.Message).To(ContainSubstring("410"))
	p.send(p.message("b"))
	g.Expect(p.rows("")).To(HaveLen(1), "nothing more is sent to it")
	p.change(r, func() { r.Spec.DisplayName = "back again" })
	p.send(p.message("c"))
	g.Eventually(nms.names, wait).Should(Equal([]string{"a", "c"}))
}

func TestOPS06_ForbiddenAddresses(t *testing.T) {
	p := start(t, sqlite(t), func(o *Options) { o.Policy = outbound.Policy{} })
	p.lead()
	nms := newHook(t, nil)
	for i, address := range []string{"http://169.254.169.254/latest", "http://[fe80::1]/", nms.URL, "http://localhost:1/", "http://[::ffff:127.0.0.1]:1/"} {
		t.Run(address, func(t *testing.T) {
			r, _ := p.receiver(address, func(r *v1alpha1.NotificationReceiver) { r.Spec.Topics = nil })
			var tried Tried
			p.must(admin, "POST", "/api/v1/tenants/"+p.tenant+"/notification-receivers/"+r.Name+"/test", "", &tried)
			if tried.Sent || !strings.Contains(tried.Error, "refused") {
				t.Errorf("a test of it: %+v", tried)
			}
			p.send(p.message(string(rune('a'+i)), outbound.Recipient{Receiver: r.Name}))
			p.eventually("&name="+r.Name, stateDead, 1)
		})
	}
	if got := nms.got(); len(got) != 0 {
		t.Errorf("an address that is not allowed was called: %v", got)
	}
}

func TestOPS06_RetryAfter(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	p.lead()
	nms := newHook(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	p.receiver(nms.URL)
	p.send(p.message("a"))
	p.eventually("", stateSent, 1)
	calls := nms.got()
	g.Expect(calls[1].at.Sub(calls[0].at)).To(BeNumerically(">=", 1900*time.Millisecond))
}

func TestOPS06_KeyRotates(t *testing.T) {
	g := NewWithT(t)
	now := time.Now()
	p := start(t, sqlite(t), func(o *Options) { o.Now = func() time.Time { return now } })
	nms := newHook(t, nil)
	r, first := p.receiver(nms.URL)
	path := "/api/v1/tenants/" + p.tenant + "/notification-receivers/" + r.Name
	try := func() call {
		t.Helper()
		var tried Tried
		p.must(admin, "POST", path+"/test", "", &tried)
		g.Expect(tried).To(Equal(Tried{Sent: true}))
		calls := nms.got()
		return calls[len(calls)-1]
	}
	g.Expect(verified(try(), first)).To(BeTrue())
	var second, third Key
	p.must(admin, "POST", path+"/key", "", &second)
	g.Expect(second.FormerUntil).NotTo(BeNil())
	c := try()
	g.Expect(verified(c, first)).To(BeTrue(), "both are used for a while")
	g.Expect(verified(c, second.Key)).To(BeTrue())
	p.must(admin, "POST", path+"/key", "", &third)
	c = try()
	g.Expect(verified(c, first)).To(BeFalse(), "two at most")
	g.Expect(verified(c, second.Key)).To(BeTrue())
	now = now.Add(overlap)
	c = try()
	g.Expect(verified(c, second.Key)).To(BeFalse(), "its time is over")
	g.Expect(verified(c, third.Key)).To(BeTrue())
	c.body = append(c.body, ' ')
	g.Expect(verified(c, third.Key)).To(BeFalse(), "what was changed on the way is found out")

	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(r), r)).To(Succeed())
	g.Expect(r.Status.KeyTime).NotTo(BeNil())
	shown, err := json.Marshal(r)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(shown)).NotTo(ContainSubstring(strings.TrimPrefix(third.Key, "whsec_")))

	g.Expect(hub.Client.Delete(t.Context(), r)).To(Succeed())
	r.ResourceVersion, r.UID = "", ""
	p.create(r)
	var tried Tried
	p.must(admin, "POST", path+"/test", "", &tried)
	g.Expect(tried.Error).To(ContainSubstring("no signing key"), "another receiver of the same name has none of these keys")
	now = now.Add(time.Hour)
	g.Eventually(func(g Gomega) { // the cache may not know yet that it is another
		g.Expect(p.dropKeys(t.Context())).To(Succeed())
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: testkit.PlatformNamespace, Name: receiverSecret(r)}, &corev1.Secret{})).NotTo(Succeed())
	}, wait).Should(Succeed())
}

// One target that hangs, and one that nobody listens at, cost the others nothing.
func TestOPS06_DeadTargetsDelayNobody(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t), func(o *Options) { o.Schedule.Attempt = 20 * time.Second })
	stop := p.lead()
	release := make(chan struct{})
	hanging := newHook(t, func(http.ResponseWriter, *http.Request, int) { <-release })
	defer close(release)
	dead := newHook(t, nil)
	dead.Close()
	good := newHook(t, nil)
	for _, h := range []*hook{hanging, dead, good} {
		p.receiver(h.URL)
	}
	began := time.Now()
	want := []string{}
	for i := range 20 {
		name := string(rune('a' + i))
		want = append(want, name)
		p.send(p.message(name))
	}
	g.Eventually(good.names, wait, "20ms").Should(Equal(want), "in order")
	g.Expect(time.Since(began)).To(BeNumerically("<", p.Schedule.Attempt), "none has waited for the one that hangs")
	g.Expect(hanging.got()).To(HaveLen(1))
	began = time.Now()
	stop()
	g.Expect(time.Since(began)).To(BeNumerically("<", 10*time.Second), "a server that is stopped does not wait either")
}

func TestOPS06_OrderIsKeptWhileATargetIsSick(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	p.lead()
	nms := newHook(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n <= 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p.receiver(nms.URL)
	for _, name := range []string{"a", "b", "c"} {
		p.send(p.message(name))
	}
	p.eventually("", stateSent, 3)
	g.Expect(nms.names()).To(Equal([]string{"a", "a", "a", "a", "b", "c"}))
}
