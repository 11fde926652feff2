package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
	"yunfan.io/yunfan/internal/testkit"
)

var (
	hub     *testkit.Hub
	beijing *testkit.Member
)

func TestMain(m *testing.M) { testkit.MainWithMember(m, &hub, &beijing, "serviceaccount-controller") }

const (
	patience = 60 * time.Second
	quick    = 20 * time.Millisecond
)

var (
	defined sync.Once
	// web is where the gateway listens: its port is that of the Gateway.
	web string
)

// define makes the kinds of the gateway known to the member, with the Gateway that Routes belong to.
func define(t testing.TB) {
	t.Helper()
	defined.Do(func() {
		files, err := filepath.Glob("install/crds/*.yaml")
		if err != nil || len(files) == 0 {
			t.Fatalf("finding the definitions: %v", err)
		}
		if _, err := envtest.InstallCRDs(beijing.Config, envtest.CRDInstallOptions{Paths: files}); err != nil {
			t.Fatal(err)
		}
		create(t, `{apiVersion: v1, kind: Namespace, metadata: {name: yunfan-gateway}}`)
		create(t, `{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: yunfan}, spec: {controllerName: traefik.io/gateway-controller}}`)
		web = freePort(t)
		_, port, _ := net.SplitHostPort(web)
		create(t, `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: yunfan, namespace: yunfan-gateway}, spec: {gatewayClassName: yunfan,
			listeners: [{name: web, protocol: HTTP, port: `+port+`, allowedRoutes: {namespaces: {from: All}}}]}}`)
	})
}

func create(t testing.TB, text string) {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := utilyaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	testkit.Create(t, beijing.Client, o)
}

// traefik is a running gateway: the real program, on ports of its own.
type traefik struct {
	web, internal       string
	program, kubeconfig string
	stop                func()
}

// startTraefik runs the gateway until the test ends. More are arguments besides those that the platform gives it.
func startTraefik(t testing.TB, more ...string) *traefik {
	t.Helper()
	define(t)
	program := filepath.Join("..", "..", "..", "bin", "gateway", "traefik")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run make engine", err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, beijing.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	tr := &traefik{web: web, internal: freePort(t)}
	tr.start(t, program, kubeconfig, more)
	return tr
}

// restartTraefik starts the gateway again, at the same ports.
func restartTraefik(t testing.TB, was *traefik) *traefik {
	t.Helper()
	was.start(t, was.program, was.kubeconfig, nil)
	return was
}

func (tr *traefik) start(t testing.TB, program, kubeconfig string, more []string) {
	t.Helper()
	tr.program, tr.kubeconfig = program, kubeconfig
	args := append([]string{
		"--global.checkNewVersion=false", "--global.sendAnonymousUsage=false", "--log.level=WARN",
		"--entryPoints.web.address=" + tr.web, "--entryPoints.web.forwardedHeaders.insecure=true",
		"--entryPoints.traefik.address=" + tr.internal, "--api.insecure=true", "--api.dashboard=false", "--ping=true", "--ping.entryPoint=traefik",
		"--metrics.prometheus=true", "--metrics.prometheus.entryPoint=traefik", "--metrics.prometheus.addServicesLabels=true",
		"--serversTransport.forwardingTimeouts.idleConnTimeout=2s", "--serversTransport.forwardingTimeouts.dialTimeout=5s",
		"--providers.providersThrottleDuration=100ms",
		"--providers.kubernetesGateway=true", "--providers.kubernetesGateway.crossProviderNamespaces=yunfan-gateway",
		"--providers.kubernetesCRD=true", "--providers.kubernetesCRD.crossProviderNamespaces=yunfan-gateway",
		"--providers.kubernetesCRD.allowCrossNamespace=false", "--providers.kubernetesCRD.safeNaming=true", "--providers.kubernetesCRD.allowEmptyServices=true",
	}, more...)
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	log := &logs{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tr.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		tr.stop()
		if t.Failed() {
			t.Logf("…%s", log.tail())
		}
	})
}

type logs struct {
	mu   sync.Mutex
	data []byte
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	if len(l.data) > 16<<10 {
		l.data = l.data[len(l.data)-8<<10:]
	}
	return len(p), nil
}

func (l *logs) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.data)
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// hostAddress is an address of this machine that is not its loopback: endpoints must not have that one.
func hostAddress(t testing.TB) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && ip.IP.IsGlobalUnicast() {
			return ip.IP.String()
		}
	}
	t.Fatal("this machine has no address but its loopback")
	return ""
}

// backend is a server that stands for the pods of a Service. It answers with what it is and what it was asked.
type backend struct {
	name string
	port int32
	mu   sync.Mutex
	got  []seen
}

type seen struct {
	Backend, Pod, Host, Path, Method string
	Header                           http.Header
	Body                             string
}

func (b *backend) requests() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// serve makes a Service of the member with so many pods, all of them servers of this test.
func serve(t testing.TB, namespace, name string, pods int) *backend {
	t.Helper()
	b := &backend{name: name, port: 8080}
	address := hostAddress(t)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: b.port, Protocol: corev1.ProtocolTCP}}},
	}
	testkit.Create(t, beijing.Client, service)
	for pod := range pods {
		port := b.listen(t, address, fmt.Sprintf("%s-%d", name, pod))
		endpoint(t, namespace, name, address, port, pod)
	}
	if pods == 0 {
		endpoint(t, namespace, name, "", 0, 0)
	}
	return b
}

func endpoint(t testing.TB, namespace, service, address string, port int32, number int) {
	t.Helper()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", service, number), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{},
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(port), Protocol: new(corev1.ProtocolTCP)}},
	}
	if address != "" {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	} else {
		slice.Ports = nil
	}
	testkit.Create(t, beijing.Client, slice)
}

func (b *backend) listen(t testing.TB, address, pod string) int32 {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: b.handler(pod)}}
	server.Start()
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(number)
}

func (b *backend) handler(pod string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s := seen{Backend: b.name, Pod: pod, Host: r.Host, Path: r.URL.RequestURI(), Method: r.Method, Header: r.Header, Body: string(body)}
		b.mu.Lock()
		b.got = append(b.got, s)
		b.mu.Unlock()
		if wait, err := time.ParseDuration(r.Header.Get("X-Wait")); err == nil {
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
			}
		}
		if status, err := strconv.Atoi(r.Header.Get("X-Status")); err == nil {
			w.WriteHeader(status)
		}
		_ = json.NewEncoder(w).Encode(s)
	})
}

// answer is what a client got.
type answer struct {
	seen

	Status int
	Header http.Header
}

// ask sends a request to the gateway, as the edge of a partition does. Headers are name: value; those named Host, Method
// and Path are the request's.
func (tr *traefik) ask(t testing.TB, namespace, path string, headers ...string) answer {
	t.Helper()
	a, err := tr.try(t.Context(), namespace, path, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var asking = &http.Client{
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (tr *traefik) try(ctx context.Context, namespace, path string, headers ...string) (answer, error) {
	method := http.MethodGet
	r, err := http.NewRequestWithContext(ctx, method, "http://"+tr.web+path, nil)
	if err != nil {
		return answer{}, err
	}
	if namespace != "" {
		r.Header.Set(table.HeaderPartition, table.TargetName(namespace, "beijing"))
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		switch name {
		case "Host":
			r.Host = value
		case "Method":
			r.Method = value
		default:
			r.Header.Add(name, value)
		}
	}
	response, err := asking.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	a := answer{Status: response.StatusCode, Header: response.Header}
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	_ = json.Unmarshal(data, &a.seen)
	return a, nil
}

// scene is a partition with an application, in a namespace of its own.
type scene struct {
	t     testing.TB
	input *Input
	ns    string
}

func newScene(t testing.TB) *scene {
	t.Helper()
	define(t)
	ns := testkit.Namespace(t, beijing.Client)
	return &scene{t: t, ns: ns, input: &Input{
		Partition:    &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "prod"}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing", Namespace: ns}},
		Applications: map[string]*Application{},
	}}
}

// application delivers an application with components that listen at 8080, stable only.
func (s *scene) application(name string, components ...string) *Application {
	a := &Application{
		Delivery: &v1alpha1.Delivery{
			ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: v1alpha1.DeliveryName(name, "prod")},
			Spec:       v1alpha1.DeliverySpec{Application: name, Partition: "prod", Cluster: "beijing", Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: name + "-1"}}},
		},
		Components: map[v1alpha1.TrackRole]map[string]*v1alpha1.Component{v1alpha1.TrackStable: {}},
	}
	for _, c := range components {
		a.Components[v1alpha1.TrackStable][c] = component(c)
	}
	s.input.Applications[name] = a
	return a
}

func component(name string) *v1alpha1.Component {
	return &v1alpha1.Component{Name: name, Service: &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "http", Port: 8080}}}}
}

// beside adds a candidate of the same components.
func (a *Application) beside(suffix string, traffic v1alpha1.Traffic) {
	a.Delivery.Spec.Tracks = append(a.Delivery.Spec.Tracks[:1], v1alpha1.Track{Role: v1alpha1.TrackCandidate, Revision: "r-" + suffix, Suffix: suffix})
	a.Delivery.Spec.Traffic = &traffic
	a.Components[v1alpha1.TrackCandidate] = maps.Clone(a.Components[v1alpha1.TrackStable])
}

// route adds a Route, from its spec in YAML; the default of what its schema has is set.
func (s *scene) route(name, spec string) *v1alpha1.Route {
	s.t.Helper()
	route := readRoute(s.t, name, spec)
	s.input.Routes = append(s.input.Routes, route)
	slices.SortFunc(s.input.Routes, func(a, b *v1alpha1.Route) int { return strings.Compare(a.Name, b.Name) })
	return route
}

func readRoute(t testing.TB, name, spec string) *v1alpha1.Route {
	t.Helper()
	route := &v1alpha1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: name}}
	if err := utilyaml.UnmarshalStrict([]byte(spec), &route.Spec); err != nil {
		t.Fatalf("%v in %s", err, spec)
	}
	return route
}

// apply brings the objects to the member, referenced ones first, and waits until the gateway serves them.
func (s *scene) apply(tr *traefik) *Objects {
	s.t.Helper()
	out, err := Render(s.input)
	if err != nil {
		s.t.Fatal(err)
	}
	g := NewWithT(s.t)
	s.put(out.Referenced...)
	if out.Ready != nil {
		s.put(out.Ready)
		g.Eventually(func() string { return tr.location(s.t, readyPath(s.ns)) }).WithTimeout(patience).WithPolling(quick).
			Should(Equal("http://o-" + out.ReferencedGeneration + ".yunfan.invalid/"))
	}
	s.put(out.Routes...)
	s.put(out.Marker)
	g.Eventually(func() string { return tr.location(s.t, MarkerPath(s.ns)) }).WithTimeout(patience).WithPolling(quick).
		Should(HavePrefix("http://g-" + out.Generation + ".yunfan.invalid"))
	return out
}

func (tr *traefik) location(t testing.TB, path string) string {
	t.Helper()
	a, err := tr.try(t.Context(), "", path)
	if err != nil {
		return err.Error()
	}
	return a.Header.Get("Location")
}

func (s *scene) put(objects ...*unstructured.Unstructured) {
	s.t.Helper()
	for _, o := range objects {
		copied := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(o.Object)}
		if err := beijing.Client.Apply(s.t.Context(), client.ApplyConfigurationFromUnstructured(copied), client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership); err != nil {
			s.t.Fatalf("applying %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}
