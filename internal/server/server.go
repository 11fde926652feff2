// Package server runs the platform on a hub: it installs the kinds, starts the controllers under leader election and
// serves the HTTP API. Any Kubernetes cluster can be the hub.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/assembly"
	"yunfan.io/yunfan/internal/cli"
	yunfanrest "yunfan.io/yunfan/internal/rest"
)

// Namespace is where the platform keeps its own objects on the hub.
const Namespace = "yunfan-system"

const (
	leaderLease = "yunfan-server"
	// A server that is killed is followed by another after leaseDuration; one that stops hands over at once.
	leaseDuration, renewDeadline, retryPeriod = 8 * time.Second, 6 * time.Second, 2 * time.Second
	// stopTime is how long controllers may take to finish what they are doing.
	stopTime = 15 * time.Second
	// startTime is how long the hub may take to answer and to take the kinds.
	startTime = 2 * time.Minute
)

// Options say how the server runs.
type Options struct {
	// Hub is the way to the hub's API, as a user who may do everything.
	Hub *rest.Config
	// Listen is HOST:PORT of the HTTPS API.
	Listen string
	// Advertise is the URL under which the hub and users reach Listen. Without it the hub is given no webhooks, and
	// users are told the address that is listened on.
	Advertise string
	// HealthListen is HOST:PORT for /healthz and /readyz over plain HTTP; none if empty.
	HealthListen string
	// LeaderElection lets several replicas run side by side.
	LeaderElection bool
	// Records is the URL of the database for rows beside the hub; none in tests that need none.
	Records string
	// Assembly is what capabilities are told of the server.
	Assembly assembly.Options
	// Capabilities registers what the server consists of with the manager, and gives its parts; assembly.Add if nil.
	Capabilities func(manager.Manager, *yunfanrest.Authorizer, assembly.Options) (yunfanrest.Parts, error)
}

// Scheme has every kind that the hub stores and the platform uses.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	return scheme, nil
}

// Run serves until ctx ends; the error says why it ended otherwise.
func Run(ctx context.Context, o Options) (err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", o.Listen, err)
	}
	defer listener.Close()
	address, err := address(o.Advertise, listener.Addr())
	if err != nil {
		return err
	}
	hub := rest.CopyConfig(o.Hub)
	hub.QPS = -1 // the hub's own priority and fairness decides; a limit here only adds delay
	hub.UserAgent = "yunfan-server"
	authority, err := prepare(ctx, hub, address)
	if err != nil {
		return err
	}
	hooks := newHooks()
	mgr, err := newManager(hub, o, hooks)
	if err != nil {
		return err
	}
	clientset, err := kubernetes.NewForConfig(hub)
	if err != nil {
		return fmt.Errorf("making the hub's client: %w", err)
	}
	frame := frame{authenticator: yunfanrest.NewAuthenticator(clientset), authorizer: yunfanrest.NewAuthorizer(clientset), hooks: hooks, ready: newReadiness(mgr)}
	add := o.Capabilities
	if add == nil {
		add = assembly.Add
	}
	if o.Records != "" {
		if o.Assembly.Records, o.Assembly.Place, err = openRecords(ctx, mgr, o.Records, listener.Addr()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.Assembly.Records.Close()) }()
	}
	o.Assembly.URL, o.Assembly.Namespace = address, Namespace
	parts, err := add(mgr, frame.authorizer, o.Assembly)
	if err != nil {
		return err
	}
	runnables := []manager.Runnable{
		frame.authenticator, frame.ready,
		&yunfanrest.Server{Listener: listener, Handler: frame.handler(parts), Certificate: authority.serving(address.Hostname(), listener.Addr())},
	}
	if o.Advertise != "" {
		runnables = append(runnables, &registration{client: mgr.GetClient(), scheme: mgr.GetScheme(), hooks: hooks, url: address, ca: authority.pem})
	}
	if o.HealthListen != "" {
		health, err := new(net.ListenConfig).Listen(ctx, "tcp", o.HealthListen)
		if err != nil {
			return fmt.Errorf("listening on %s: %w", o.HealthListen, err)
		}
		defer health.Close()
		runnables = append(runnables, &yunfanrest.Server{Listener: health, Handler: frame.health(http.NewServeMux())})
	}
	for _, runnable := range runnables {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	if err := frame.authenticator.Refresh(ctx); err != nil {
		ctrl.Log.Error(err, "Client certificates are refused until it can be read")
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	return nil
}

// prepare brings the hub to where controllers can start.
func prepare(ctx context.Context, hub *rest.Config, address *url.URL) (*authority, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	scheme, err := installScheme()
	if err != nil {
		return nil, err
	}
	c, err := client.New(hub, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("making the hub's client: %w", err)
	}
	if err := Install(ctx, c); err != nil {
		return nil, err
	}
	authority, err := loadAuthority(ctx, c)
	if err != nil {
		return nil, err
	}
	return authority, publish(ctx, c, address, authority.pem)
}

func newManager(hub *rest.Config, o Options, hooks *hooks) (manager.Manager, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	stop := stopTime
	// Tests start several servers in one process.
	skipNames := true
	lease, renew, retry := leaseDuration, renewDeadline, retryPeriod
	mgr, err := ctrl.NewManager(hub, manager.Options{
		Scheme:                        scheme,
		Cache:                         cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: assembly.Uncached()}},
		Metrics:                       metricsserver.Options{BindAddress: "0"}, // served by us, to those who may see them
		WebhookServer:                 hooks,
		LeaderElection:                o.LeaderElection,
		LeaderElectionID:              leaderLease,
		LeaderElectionNamespace:       Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		GracefulShutdownTimeout:       &stop,
		Controller:                    config.Controller{SkipNameValidation: &skipNames},
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// address is the URL that users and the hub are told.
func address(advertise string, listen net.Addr) (*url.URL, error) {
	if advertise == "" {
		host, port, err := net.SplitHostPort(listen.String())
		if err != nil {
			return nil, fmt.Errorf("reading the address listened on: %w", err)
		}
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}, nil
	}
	u, err := url.Parse(advertise)
	if err != nil || u.Scheme != "https" || u.Host == "" || (u.Path != "" && u.Path != "/") {
		return nil, cli.Usagef("--advertise %q: give a URL such as https://yunfan.example.com:8443, without a path", advertise)
	}
	u.Path = ""
	return u, nil
}

// SaveMemory makes the garbage collector run more often than by default: an idle platform server should be small.
// GOGC and GOMEMLIMIT in the environment win.
func SaveMemory() {
	const percent, limit = 50, 512 << 20
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}
