// Package testkit gives tests real parts to work against: kube-apiservers with etcd, Kubernetes' own controllers, and a
// TCP proxy that loses, refuses or freezes connections. It knows no capability.
package testkit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"yunfan.io/yunfan/api/v1alpha1"
)

// PlatformNamespace is made on every hub.
const PlatformNamespace = "yunfan-system"

// startTimeout of one process of a control plane: generous, for machines that build at the same time.
const startTimeout = 90 * time.Second

// Hub is a Kubernetes API with Yunfan's kinds and the platform's namespace.
type Hub struct {
	Config *rest.Config
	Client client.Client
	Scheme *runtime.Scheme
}

// Member is a Kubernetes API that can be joined.
type Member struct {
	Config *rest.Config
	Client client.Client
}

// Main runs a package's tests with one hub, which is set before the first of them. A hub that cannot be started fails
// the package.
func Main(m *testing.M, hub **Hub) {
	os.Exit(run(m, hub, func(string) (func(), error) { return func() {}, nil }))
}

// MainWithMember is Main with a member as well, which runs Kubernetes' own controllers of the names given: for packages
// with many tests that each need a member, and do not mind what others have left on it.
func MainWithMember(m *testing.M, hub **Hub, member **Member, controllers ...string) {
	os.Exit(run(m, hub, func(root string) (func(), error) {
		started, stopMember, err := startMember(root)
		if err != nil {
			return nil, err
		}
		*member = started
		stopControllers, err := runControllers(root, started, controllers)
		if err != nil {
			stopMember()
			return nil, err
		}
		return func() { stopControllers(); stopMember() }, nil
	}))
}

func run(m *testing.M, hub **Hub, more func(root string) (stop func(), err error)) int {
	log.SetLogger(logger())
	root, err := moduleRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	env, config, err := start(root, []string{filepath.Join(root, "api", "crds")})
	if err != nil {
		fmt.Fprintf(os.Stderr, "starting the hub for tests: %v\n", err)
		return 1
	}
	defer func() { _ = env.Stop() }()
	h, err := newHub(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*hub = h
	stop, err := more(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return m.Run()
}

func newHub(config *rest.Config) (*Hub, error) {
	s := Scheme()
	c, err := client.New(config, client.Options{Scheme: s})
	if err != nil {
		return nil, fmt.Errorf("making the hub's client: %w", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: PlatformNamespace}}
	if err := c.Create(context.Background(), ns); err != nil {
		return nil, fmt.Errorf("creating the platform's namespace: %w", err)
	}
	return &Hub{Config: config, Client: c, Scheme: s}, nil
}

// Scheme is that of the hub: Kubernetes' own kinds and Yunfan's.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		panic(err)
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		panic(err)
	}
	return s
}

// Flag sets a flag of a member's API server.
func Flag(name, value string) func(*envtest.Environment) {
	return func(e *envtest.Environment) { e.ControlPlane.GetAPIServer().Configure().Set(name, value) }
}

// StartMember starts a control plane of its own, which ends with the test.
func StartMember(t testing.TB, changes ...func(*envtest.Environment)) *Member {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	m, stop, err := startMember(root, changes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return m
}

func startMember(root string, changes ...func(*envtest.Environment)) (m *Member, stop func(), err error) {
	env, config, err := start(root, nil, changes...)
	if err != nil {
		return nil, nil, fmt.Errorf("starting a member: %w", err)
	}
	c, err := client.New(config, client.Options{Scheme: Scheme()})
	if err != nil {
		_ = env.Stop()
		return nil, nil, fmt.Errorf("making the member's client: %w", err)
	}
	return &Member{Config: config, Client: c}, func() { _ = env.Stop() }, nil
}

func start(root string, crds []string, changes ...func(*envtest.Environment)) (*envtest.Environment, *rest.Config, error) {
	assets := assets(root)
	for _, program := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(assets, program)); err != nil {
			return nil, nil, fmt.Errorf("%s is missing, run make engine: %w", program, err)
		}
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory:    assets,
		CRDDirectoryPaths:        crds,
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: startTimeout,
	}
	// The default /24 holds 254 services: too few for tests of scale.
	env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.96.0.0/16")
	for _, change := range changes {
		change(env)
	}
	config, err := env.Start()
	if err != nil {
		_ = env.Stop()
		return nil, nil, fmt.Errorf("starting a control plane from %s: %w", assets, err)
	}
	config.QPS = -1
	return env, config, nil
}

// assets is the folder of Kubernetes' programs.
func assets(root string) string {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return dir
	}
	return filepath.Join(root, "bin", "engine")
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("finding the module: no go.mod above the working directory")
		}
		dir = parent
	}
}
