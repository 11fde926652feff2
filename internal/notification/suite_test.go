package notification

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/right"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// wait is how long tests wait for what takes a moment, on a machine that is busy.
const wait = 30 * time.Second

const topicLeave = "request.approved"

// leave is a topic as capabilities bring it.
func leave() outbound.Topic {
	return outbound.Topic{
		Name:  topicLeave,
		Title: map[string]string{"zh": "申请 {{.name}} 已批准", "en": "Request {{.name}} is approved"},
		Text:  map[string]string{"zh": "申请 {{.name}}：{{.comment}}", "en": "Request {{.name}}: {{.comment}}"},
	}
}

// platform is the capability on a hub and a database of its own, with one tenant.
type platform struct {
	*Service

	t      *testing.T
	tenant string
	mgr    manager.Manager
}

func sqlite(t *testing.T) string {
	t.Helper()
	return "sqlite://" + filepath.Join(t.TempDir(), "records.db")
}

func opened(t *testing.T, location string) *record.Database {
	t.Helper()
	records, err := record.Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	return records
}

// start makes a platform that sends nothing yet.
func start(t *testing.T, location string, changes ...func(*Options)) *platform {
	t.Helper()
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Records: opened(t, location), Authorizer: rest.NewAuthorizer(set), Namespace: testkit.PlatformNamespace,
		Policy: outbound.Policy{Allow: outbound.Prefixes{netip.MustParsePrefix("127.0.0.1/32")}},
		URL:    &url.URL{Scheme: "https", Host: "yunfan.example.com"}, Topics: []outbound.Topic{leave()},
		Schedule: Schedule{First: 50 * time.Millisecond, Longest: 200 * time.Millisecond, GiveUp: time.Hour, Attempt: 10 * time.Second},
	}
	for _, change := range changes {
		change(&o)
	}
	p := &platform{t: t}
	p.mgr = testkit.StartManagerWith(t, hub, manager.Options{Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}}},
		func(mgr manager.Manager) error {
			index, err := right.NewIndex(t.Context(), mgr.GetClient(), mgr.GetFieldIndexer())
			if err != nil {
				return err
			}
			o.Members = right.Absent{Index: index}.Members
			if p.Service, err = New(mgr, o); err != nil {
				return err
			}
			for _, kind := range []client.Object{
				&v1alpha1.User{}, &v1alpha1.UserGroup{}, &v1alpha1.Membership{}, &v1alpha1.Tenant{}, &v1alpha1.NotificationProvider{}, &v1alpha1.NotificationReceiver{},
			} {
				if _, err := mgr.GetCache().GetInformer(t.Context(), kind); err != nil {
					return err
				}
			}
			return p.migrate(t.Context())
		})
	p.tenant = testkit.Namespace(t, hub.Client)
	p.create(&v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: p.tenant}})
	return p
}

// lead sends until the function that it gives is called, which waits for the end as a server does that is stopped.
func (p *platform) lead() (stop func()) {
	p.t.Helper()
	return p.run(&sender{Service: p.Service})
}

func (p *platform) run(s *sender) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				p.t.Error(err)
			}
		})
	}
	p.t.Cleanup(stop)
	return stop
}

// create makes an object, which goes with the test, and waits until the cache has it.
func (p *platform) create(o client.Object) {
	p.t.Helper()
	testkit.Create(p.t, hub.Client, o)
	p.t.Cleanup(func() { _ = hub.Client.Delete(context.Background(), o) })
	seen := o.DeepCopyObject().(client.Object)
	NewWithT(p.t).Eventually(func() error {
		return p.hub.Get(p.t.Context(), client.ObjectKeyFromObject(o), seen)
	}, wait).Should(Succeed())
}

// change updates an object and waits until the cache has it.
func (p *platform) change(o client.Object, change func()) {
	p.t.Helper()
	g := NewWithT(p.t)
	g.Eventually(func() error {
		if err := hub.Client.Get(p.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change()
		return hub.Client.Update(p.t.Context(), o)
	}, wait).Should(Succeed())
	seen := o.DeepCopyObject().(client.Object)
	g.Eventually(func() string {
		_ = p.hub.Get(p.t.Context(), client.ObjectKeyFromObject(o), seen)
		return seen.GetResourceVersion()
	}, wait).Should(Equal(o.GetResourceVersion()))
}

func (p *platform) user(change ...func(*v1alpha1.User)) *v1alpha1.User {
	p.t.Helper()
	u := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(p.t)}, Spec: v1alpha1.UserSpec{DisplayName: "李雷"}}
	for _, c := range change {
		c(u)
	}
	p.create(u)
	return u
}

func mailTo(address string) func(*v1alpha1.User) {
	return func(u *v1alpha1.User) { u.Spec.Email = address }
}

// receiver makes a receiver of webhooks for all topics, with its key.
func (p *platform) receiver(address string, change ...func(*v1alpha1.NotificationReceiver)) (*v1alpha1.NotificationReceiver, string) {
	p.t.Helper()
	r := &v1alpha1.NotificationReceiver{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant, Name: testkit.Name(p.t)},
		Spec:       v1alpha1.NotificationReceiverSpec{Type: v1alpha1.ReceiverWebhook, URL: address, Topics: []string{"*"}},
	}
	for _, c := range change {
		c(r)
	}
	p.create(r)
	if r.Spec.Type != v1alpha1.ReceiverWebhook {
		return r, ""
	}
	var key Key
	p.must(admin, "POST", "/api/v1/tenants/"+p.tenant+"/notification-receivers/"+r.Name+"/key", "", &key)
	return r, key.Key
}

// message is one of topicLeave to a receiver or user.
func (p *platform) message(key string, to ...outbound.Recipient) outbound.Message {
	return outbound.Message{
		Key: p.tenant + "/" + key, Tenant: p.tenant, Topic: topicLeave, To: to,
		Data: map[string]string{"name": key, "comment": "可以", "path": "/console/requests/" + key},
	}
}

func (p *platform) send(m outbound.Message) {
	p.t.Helper()
	if err := p.Send(p.t.Context(), m); err != nil {
		p.t.Fatal(err)
	}
}

var admin = rest.User{Name: "root", Groups: []string{"system:masters"}}

func as(u *v1alpha1.User) rest.User {
	return rest.User{Name: v1alpha1.UserPrefix + u.Name, UID: string(u.UID)}
}

// ask sends a request through the frame, as a user.
func (p *platform) ask(user rest.User, method, path, body string) (code int, answer string) {
	p.t.Helper()
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		p.t.Fatal(err)
	}
	identity := func(*http.Request) (rest.User, bool, error) { return user, true, nil }
	handler := rest.Routes(rest.NewAuthenticator(set), rest.Parts{Routes: p.Routes(), Identities: []rest.Identity{identity}})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(p.t.Context(), method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func (p *platform) must(user rest.User, method, path, body string, into any) {
	p.t.Helper()
	code, answer := p.ask(user, method, path, body)
	if code != http.StatusOK {
		p.t.Fatalf("%s %s: %d %s", method, path, code, answer)
	}
	if err := json.Unmarshal([]byte(answer), into); err != nil {
		p.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
}

// rows are the tenant's deliveries, the newest first, as an administrator of the platform sees them.
func (p *platform) rows(query string) []Row {
	p.t.Helper()
	var page rest.Page[Row]
	p.must(admin, "GET", "/api/v1/notifications?pageSize=500&tenant="+p.tenant+query, "", &page)
	return page.Items
}

// eventually waits until all deliveries that the query means are in a state, as many as are wanted.
func (p *platform) eventually(query, state string, count int) []Row {
	p.t.Helper()
	var rows []Row
	NewWithT(p.t).Eventually(func(g Gomega) {
		rows = p.rows(query)
		g.Expect(rows).To(HaveLen(count))
		for _, row := range rows {
			g.Expect(row.State).To(Equal(state), "%s: %s", row.ID, row.Error)
		}
	}, wait, "50ms").Should(Succeed())
	return rows
}

// hook is a program that takes webhooks.
type hook struct {
	*httptest.Server

	mu    sync.Mutex
	calls []call
	// answer decides; 204 if nil.
	answer func(w http.ResponseWriter, r *http.Request, n int)
}

type call struct {
	header http.Header
	body   []byte
	at     time.Time
}

func newHook(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *hook {
	t.Helper()
	h := &hook{answer: answer}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		h.calls = append(h.calls, call{r.Header.Clone(), body, time.Now()})
		n := len(h.calls)
		h.mu.Unlock()
		if h.answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.answer(w, r, n)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) got() []call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]call{}, h.calls...)
}

func (h *hook) names() []string {
	var out []string
	for _, c := range h.got() {
		var w Webhook
		_ = json.Unmarshal(c.body, &w)
		out = append(out, w.Data["name"])
	}
	return out
}
