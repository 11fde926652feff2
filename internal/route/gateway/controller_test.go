package gateway

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/testkit"
)

// world is a hub with a running server, one member with a gateway, and an application in a partition of it.
type world struct {
	t        testing.TB
	traefik  *traefik
	cluster  *v1alpha1.Cluster
	set      *member.Set
	member   *member.Member
	gateways *Gateways

	partition *v1alpha1.Partition
	delivery  *v1alpha1.Delivery
	route     *v1alpha1.Route

	// delay of the gateway's answers to the platform.
	delay atomic.Int64
	// connections that the gauge tells.
	gauge atomic.Value
}

func portOf(t testing.TB, address string) int32 {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(n)
}

// on serves something at an address of this machine that pods can have, and gives the port.
func on(t testing.TB, handler http.Handler) int32 {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(hostAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return portOf(t, l.Addr().String())
}

func to(t testing.TB, address string, before func()) http.Handler {
	t.Helper()
	target, err := url.Parse("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before()
		proxy.ServeHTTP(w, r)
	})
}

// newWorld starts all of it, with the components given, and a Route whose rules are given.
func newWorld(t testing.TB, spec string, components ...string) *world {
	t.Helper()
	w := &world{t: t, traefik: startTraefik(t)}
	w.gauge.Store(`{}`)
	ports := Ports{
		Web: on(t, to(t, w.traefik.web, func() {
			select {
			case <-time.After(time.Duration(w.delay.Load())):
			case <-t.Context().Done():
			}
		})),
		Internal: on(t, to(t, w.traefik.internal, func() {})),
		Gauge:    on(t, http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { _, _ = out.Write([]byte(w.gauge.Load().(string))) })),
	}
	w.pod("gateway-"+testkit.Name(t), v1alpha1.GatewayNamespace, nil)
	w.cluster = &v1alpha1.Cluster{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}, Spec: v1alpha1.ClusterSpec{
		Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "none"}}, Gateway: v1alpha1.Gateway{Mode: v1alpha1.GatewayManaged},
	}}
	testkit.Create(t, hub.Client, w.cluster)
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if w.set, err = member.NewSet(mgr); err != nil {
			return err
		}
		w.gateways = New(mgr.GetClient(), w.set, nil).With(ports)
		w.set.Register(NewController(w.gateways))
		return nil
	})
	w.join()
	w.fill(spec, components)
	return w
}

func (w *world) join() {
	w.t.Helper()
	m, err := w.set.Connect(w.cluster.Name, testkit.Name(w.t), beijing.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	NewWithT(w.t).Eventually(func() bool { answering, _ := m.Answering(); return answering }, patience, quick).Should(BeTrue())
	w.set.Admit(w.cluster.Name)
	w.member = m
}

// pod makes a pod that is ready, at this machine's address.
func (w *world) pod(name, namespace string, labels map[string]string) {
	w.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Spec: corev1.PodSpec{
		NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "c:1"}},
	}}
	testkit.Create(w.t, beijing.Client, p)
	w.t.Cleanup(func() { _ = beijing.Client.Delete(context.Background(), p, client.GracePeriodSeconds(0)) })
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: hostAddress(w.t), PodIPs: []corev1.PodIP{{IP: hostAddress(w.t)}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	if err := beijing.Client.Status().Update(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
}

// fill makes tenant, partition, application and Route.
func (w *world) fill(spec string, components []string) {
	t := w.t
	tenant, ns := testkit.Namespace(t, hub.Client), testkit.Namespace(t, beijing.Client)
	w.partition = &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "prod"}, Spec: v1alpha1.PartitionSpec{Cluster: w.cluster.Name, Namespace: ns}}
	testkit.Create(t, hub.Client, w.partition)
	account := metav1.ObjectMeta{Namespace: ns, Name: v1alpha1.DeliveryServiceAccount}
	testkit.Create(t, beijing.Client,
		&rbacv1.Role{ObjectMeta: account, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"gateway.networking.k8s.io"}, Verbs: []string{"*"}, Resources: []string{"httproutes"}},
			{APIGroups: []string{"traefik.io"}, Verbs: []string{"*"}, Resources: []string{"middlewares", "serverstransports", "traefikservices"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: account, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: account.Name, Namespace: ns}}})
	w.partition.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now()}}
	if err := hub.Client.Status().Update(t.Context(), w.partition); err != nil {
		t.Fatal(err)
	}
	revision := &v1alpha1.ApplicationRevision{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "shop-1"}, Spec: v1alpha1.ApplicationRevisionSpec{Application: "shop", Number: 1}}
	for _, c := range components {
		one := component(c)
		one.Workload = v1alpha1.WorkloadDeployment
		revision.Spec.Components = append(revision.Spec.Components, *one)
	}
	w.route = &v1alpha1.Route{}
	*w.route = *readRoute(t, "shop", spec)
	w.route.Namespace = tenant
	w.delivery = &v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: v1alpha1.DeliveryName("shop", "prod"), Labels: map[string]string{
			v1alpha1.LabelApplication: "shop", v1alpha1.LabelPartition: "prod", v1alpha1.LabelCluster: w.cluster.Name,
		}},
		Spec: v1alpha1.DeliverySpec{Application: "shop", Partition: "prod", Cluster: w.cluster.Name, Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: "shop-1"}}},
	}
	testkit.Create(t, hub.Client, revision, w.delivery, w.route)
}

func (w *world) ns() string { return w.partition.MemberNamespace() }

// move changes the Delivery's spec.
func (w *world) move(change func(*v1alpha1.DeliverySpec)) {
	w.t.Helper()
	before := w.delivery.DeepCopy()
	change(&w.delivery.Spec)
	if err := hub.Client.Patch(w.t.Context(), w.delivery, client.MergeFrom(before)); err != nil {
		w.t.Fatal(err)
	}
}

// waiting says who does not serve what the Delivery, as it is here, and the Routes want.
func (w *world) waiting() (string, error) {
	in, err := ReadInput(w.t.Context(), w.gateways.hub, w.partition, w.delivery)
	if err != nil {
		return "", err
	}
	objects, err := Render(in)
	if err != nil {
		return "", err
	}
	if objects.Generation == "" {
		return "nothing is there", nil
	}
	return w.gateways.Waiting(w.t.Context(), w.member, w.cluster, w.ns(), objects.Generation)
}

func (w *world) settled() {
	w.t.Helper()
	NewWithT(w.t).Eventually(w.waiting, patience, quick).Should(BeEmpty())
}

func (w *world) besides(weight int32) {
	w.t.Helper()
	w.move(func(spec *v1alpha1.DeliverySpec) {
		spec.Tracks = append(spec.Tracks[:1], v1alpha1.Track{Role: v1alpha1.TrackCandidate, Revision: "shop-1", Suffix: "abc"})
		spec.Traffic = &v1alpha1.Traffic{Weight: weight}
	})
}

const simple = `{hosts: [shop.example.com], rules: [{name: all, backends: [{application: shop, component: web}]}]}`

// hammer asks all the time until the function that it gives is called, which tells how many answers there were by backend,
// and those that were no good.
func (w *world) hammer() (stop func() (got map[string]int, failed []string)) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var mu sync.Mutex
	got := map[string]int{}
	var failed []string
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				a, err := w.traefik.try(context.WithoutCancel(ctx), w.ns(), "/x", "Host: shop.example.com")
				mu.Lock()
				got[a.Backend]++
				if err != nil {
					failed = append(failed, err.Error())
				} else if a.Status != http.StatusOK {
					failed = append(failed, strconv.Itoa(a.Status))
				}
				mu.Unlock()
			}
		})
	}
	return func() (map[string]int, []string) {
		cancel()
		all.Wait()
		return got, failed
	}
}

// TestREL05_StepAtTheGateway measures a canary's step: from the Delivery's weight to the first request at the new one, and
// proves that no request fails meanwhile, nor when what Routes refer to changes.
func TestREL05_StepAtTheGateway(t *testing.T) {
	w := newWorld(t, simple, "web")
	serve(t, w.ns(), "web", 1)
	serve(t, w.ns(), "web-abc", 1)
	w.settled()
	NewWithT(t).Eventually(func() string { return w.traefik.ask(t, w.ns(), "/", "Host: shop.example.com").Backend }, patience, quick).Should(Equal("web"))
	stop := w.hammer()
	for _, weight := range []int32{10, 50, 100, 0} {
		begin := time.Now()
		w.besides(weight)
		w.settled()
		t.Logf("weight %d is served after %d ms", weight, time.Since(begin).Milliseconds())
	}
	// Timeouts, mirrors and retries are objects of their own, which must be there before the route is.
	for _, rule := range []string{
		`{name: all, timeout: 5s, backends: [{application: shop, component: web}]}`,
		`{name: all, timeout: 6s, retries: 2, backends: [{application: shop, component: web}]}`,
		`{name: all, mirror: {component: web, percent: 10}, circuitBreaker: {errorPercent: 50}, backends: [{application: shop, component: web}]}`,
		`{name: all, backends: [{application: shop, component: web}]}`,
	} {
		before := w.route.DeepCopy()
		w.route.Spec = readRoute(t, "shop", `{hosts: [shop.example.com], rules: [`+rule+`]}`).Spec
		if err := hub.Client.Patch(t.Context(), w.route, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		NewWithT(t).Eventually(func() (int64, error) {
			in, err := ReadInput(t.Context(), w.gateways.hub, w.partition)
			if err != nil || len(in.Routes) == 0 {
				return 0, err
			}
			return in.Routes[0].Generation, nil
		}, patience, quick).Should(Equal(w.route.Generation))
		w.settled()
	}
	got, failed := stop()
	t.Logf("answers: %v", got)
	if len(failed) > 0 {
		t.Errorf("%d requests failed: %v", len(failed), failed[:min(len(failed), 10)])
	}
	if got["web-abc"] == 0 {
		t.Error("the candidate got nothing")
	}
	// What no route refers to any more goes.
	NewWithT(t).Eventually(w.count, patience, quick).Should(Equal(map[string]int{"HTTPRoute": 3}))
}

// count counts the objects of the partition by kind.
func (w *world) count() (map[string]int, error) {
	out := map[string]int{}
	for _, kind := range Kinds() {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := beijing.Client.List(w.t.Context(), list, client.InNamespace(w.ns()), client.HasLabels{LabelRoute}); err != nil {
			return nil, err
		}
		if len(list.Items) > 0 {
			out[kind.Kind] = len(list.Items)
		}
	}
	return out, nil
}

// TestFaults: objects that somebody edits or deletes, gateways that are slow or begin anew, changes in quick succession,
// a member that goes and comes, and Routes that go.
func TestFaults(t *testing.T) {
	w := newWorld(t, simple, "web")
	serve(t, w.ns(), "web", 1)
	serve(t, w.ns(), "web-abc", 1)
	w.settled()
	g := NewWithT(t)
	backend := func() string {
		a, err := w.traefik.try(t.Context(), w.ns(), "/", "Host: shop.example.com")
		if err != nil {
			return err.Error()
		}
		return a.Backend
	}
	g.Eventually(backend, patience, quick).Should(Equal("web"))

	routes := func() *unstructured.Unstructured {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kindHTTPRoute.GroupVersion().WithKind("HTTPRouteList"))
		if err := beijing.Client.List(t.Context(), list, client.InNamespace(w.ns()), client.MatchingLabels{LabelRoute: "shop"}); err != nil || len(list.Items) != 1 {
			t.Fatalf("%v: %d HTTPRoutes of the Route", err, len(list.Items))
		}
		return &list.Items[0]
	}
	edited := routes()
	if err := unstructured.SetNestedStringSlice(edited.Object, []string{"other.example.com"}, "spec", "hostnames"); err != nil {
		t.Fatal(err)
	}
	if err := beijing.Client.Update(t.Context(), edited); err != nil {
		t.Fatal(err)
	}
	g.Eventually(func() []string {
		hosts, _, _ := unstructured.NestedStringSlice(routes().Object, "spec", "hostnames")
		return hosts
	}, patience, quick).Should(Equal([]string{"shop.example.com"}), "an edited route was not put back")
	if err := beijing.Client.Delete(t.Context(), routes()); err != nil {
		t.Fatal(err)
	}
	g.Eventually(w.count, patience, quick).Should(Equal(map[string]int{"HTTPRoute": 3}), "a deleted route was not put back")
	g.Eventually(backend, patience, quick).Should(Equal("web"))

	// A gateway that is slow to answer is waited for.
	w.delay.Store(int64(time.Hour))
	w.besides(100)
	g.Eventually(w.waiting, patience, quick).Should(ContainSubstring("gateway "+w.cluster.Name+"/n1 does not answer"), "a gateway that is slow")
	w.delay.Store(0)
	w.settled()
	if got := backend(); got != "web-abc" {
		t.Errorf("all requests are the candidate's, but %s answered", got)
	}

	// Of two changes in a row the newest counts.
	w.besides(50)
	w.besides(0)
	w.settled()
	if got := backend(); got != "web" {
		t.Errorf("no requests are the candidate's, but %s answered", got)
	}

	// A gateway that begins anew serves the same.
	w.traefik.stop()
	g.Eventually(w.waiting, patience, quick).Should(ContainSubstring("gateway "+w.cluster.Name+"/n1"), "a gateway that is gone")
	w.besides(100)
	w.traefik = restartTraefik(t, w.traefik)
	w.settled()
	g.Eventually(backend, patience, quick).Should(Equal("web-abc"))

	// The member goes in the middle of a change, and comes back.
	w.set.Disconnect(w.cluster.Name)
	w.besides(0)
	w.join()
	w.settled()
	if got := backend(); got != "web" {
		t.Errorf("after the member is back %s answered", got)
	}

	if err := hub.Client.Delete(t.Context(), w.route); err != nil {
		t.Fatal(err)
	}
	g.Eventually(w.count, patience, quick).Should(BeEmpty(), "objects of a Route that is gone")
}

// TestAnswersAboutTraffic: what gateways reach, what is under way, and what was counted.
func TestAnswersAboutTraffic(t *testing.T) {
	w := newWorld(t, `{hosts: [shop.example.com], health: {path: /healthy}, rules: [
		{name: slow, matches: [{path: {value: /slow}}], timeout: 5s, backends: [{application: shop, component: web}]},
		{name: all, backends: [{application: shop, component: web}]}]}`, "web")
	web := serve(t, w.ns(), "web", 1)
	w.besides(0)
	w.settled()
	g := NewWithT(t)
	candidate := func() (string, error) {
		return w.gateways.Reaches(t.Context(), w.member, w.ns(), "shop", "web", v1alpha1.TrackCandidate)
	}
	if missing, err := candidate(); err != nil || !strings.Contains(missing, "does not know the way yet") {
		t.Errorf("a track without its Service: %q, %v", missing, err)
	}
	serve(t, w.ns(), "web-abc", 0)
	g.Eventually(func() (string, error) {
		return w.gateways.Reaches(t.Context(), w.member, w.ns(), "shop", "web", v1alpha1.TrackStable)
	}, patience, quick).Should(BeEmpty())
	if probes := web.requests(); len(probes) == 0 || probes[0].Path != "/healthy" || probes[0].Host != "shop.example.com" || probes[0].Header.Get(HeaderProbe) != "" {
		t.Errorf("the pods were asked %+v", probes)
	}
	g.Eventually(candidate, patience, quick).Should(ContainSubstring("status 503"), "a track without pods")
	// Nobody but the platform gets there.
	if a := w.traefik.ask(t, w.ns(), ProbePath(w.ns(), "shop", "web", v1alpha1.TrackStable), "Host: other.example.com"); a.Status != http.StatusNotFound {
		t.Errorf("a client got %d for a probe's path", a.Status)
	}

	in, err := ReadInput(t.Context(), w.gateways.hub, w.partition, w.delivery)
	if err != nil {
		t.Fatal(err)
	}
	counted := func(track v1alpha1.TrackRole) *Counters {
		c, err := w.gateways.Count(t.Context(), w.member, in, "shop", track)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := counted(v1alpha1.TrackStable)
	if before.Requests != 0 {
		t.Errorf("questions of the platform count as %d requests", before.Requests)
	}
	for range 10 {
		w.traefik.ask(t, w.ns(), "/", "Host: shop.example.com")
	}
	for range 5 {
		w.traefik.ask(t, w.ns(), "/slow", "Host: shop.example.com", "X-Status: 500")
	}
	w.traefik.ask(t, w.ns(), "/slow", "Host: shop.example.com", "X-Wait: 400ms")
	g.Eventually(func() uint64 { return counted(v1alpha1.TrackStable).Requests }, patience, 200*time.Millisecond).Should(Equal(uint64(16)))
	after := counted(v1alpha1.TrackStable)
	if after.Failures != 5 || after.Began == "" || len(after.Bounds) == 0 || after.Slower[0] != 1 {
		t.Errorf("counted %+v", after)
	}
	w.traefik.ask(t, w.ns(), "/", "Host: shop.example.com", "Yunfan-Track: Candidate")
	if got := counted(v1alpha1.TrackCandidate); got.Requests != 0 && got.Failures != got.Requests {
		t.Errorf("the candidate has no pods, but %+v were counted", got)
	}

	w.gauge.Store(`{"` + net.JoinHostPort(hostAddress(t), "8080") + `": 3, "` + net.JoinHostPort(hostAddress(t), "9090") + `": 1, "[2001:db8::1]:80": 2}`)
	g.Eventually(func() (map[string]int, error) { return w.gateways.Connections(t.Context(), w.member) }, patience, quick).
		Should(Equal(map[string]int{hostAddress(t): 4, "2001:db8::1": 2}))
	if got := in.Workloads("shop"); len(got[v1alpha1.TrackStable]) != 1 || got[v1alpha1.TrackStable][0] != "web" || len(got[v1alpha1.TrackCandidate]) != 1 || got[v1alpha1.TrackCandidate][0] != "web-abc" {
		t.Errorf("workloads %v", got)
	}
}
