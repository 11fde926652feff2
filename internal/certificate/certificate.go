// Package certificate lists every certificate that the platform depends on, with its end: those of the server, those as
// which it signs in to hub and members, those that their API servers show, and those inside the embedded clusters. The
// engine and the server renew their own; the list says who renews the others.
package certificate

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// dialTime is how long a server may take to show its certificate; parallelDials are asked at once.
	dialTime      = 3 * time.Second
	parallelDials = 8
	day           = 24 * time.Hour
	authorityName = "yunfan-server-ca"
)

// Who renews what.
const (
	byServer  = "server, 30 days before the end"
	byEngine  = "engine, at two thirds of its life"
	byCluster = "the cluster's owner"
	byNobody  = "nobody: see docs/certificates.md"
)

// Row is one certificate, or why it cannot be seen.
type Row struct {
	Component string `json:"component"`
	Cluster   string `json:"cluster,omitempty"`
	Subject   string `json:"subject,omitempty"`
	Issuer    string `json:"issuer,omitempty"`
	Authority bool   `json:"authority,omitempty"`
	// NotAfter is nil for one that cannot be seen.
	NotAfter *time.Time `json:"notAfter,omitempty"`
	// DaysLeft is negative once it has ended.
	DaysLeft  int    `json:"daysLeft"`
	RenewedBy string `json:"renewedBy"`
	Message   string `json:"message,omitempty"`
}

// List finds certificates.
type List struct {
	// Hub reads past any cache.
	Hub       client.Reader
	HubConfig *clientrest.Config
	// Namespace is the platform's own on the hub.
	Namespace string
	// URL is where the server is reached.
	URL *url.URL
	// InstanceDir is the data directory of the embedded clusters; empty without them.
	InstanceDir string
	Authorizer  *rest.Authorizer
}

// Routes are the list's.
func (l *List) Routes() []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/certificates", Handler: rest.Get(func(r *http.Request) (rest.Page[Row], error) {
		if err := l.Authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
			Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "certificates",
		}); err != nil {
			return rest.Page[Row]{}, err
		}
		return rest.Paginate(l.All(r.Context()), r.URL.Query(), fields...)
	})}}
}

var fields = []rest.Field[Row]{
	{Name: "component", Text: func(r Row) string { return r.Component }},
	{Name: "cluster", Text: func(r Row) string { return r.Cluster }},
	{Name: "subject", Text: func(r Row) string { return r.Subject }},
	{Name: "issuer", Text: func(r Row) string { return r.Issuer }},
	{Name: "renewedBy", Text: func(r Row) string { return r.RenewedBy }},
	{Name: "message", Text: func(r Row) string { return r.Message }},
	{Name: "daysLeft", Text: func(r Row) string { return fmt.Sprint(r.DaysLeft) }, Compare: func(a, b Row) int { return cmp.Compare(a.DaysLeft, b.DaysLeft) }},
	{Name: "notAfter", Text: func(r Row) string {
		if r.NotAfter == nil {
			return ""
		}
		return r.NotAfter.UTC().Format(time.RFC3339)
	}},
}

// All gives every certificate. What cannot be seen is a row that says why.
func (l *List) All(ctx context.Context) []Row {
	sources := []func(context.Context) []Row{
		l.server, l.webhooks,
		func(ctx context.Context) []Row {
			return shown(ctx, "serving certificate", "hub", byCluster, l.HubConfig.Host)
		},
		func(context.Context) []Row { return signIn("hub", l.HubConfig) },
		func(context.Context) []Row { return embedded(l.InstanceDir) },
	}
	clusters := &v1alpha1.ClusterList{}
	if err := l.Hub.List(ctx, clusters); err != nil {
		return []Row{{Component: "kubeconfig", RenewedBy: byCluster, Message: err.Error()}}
	}
	for i := range clusters.Items {
		sources = append(sources, func(ctx context.Context) []Row { return l.member(ctx, &clusters.Items[i]) })
	}
	found := make([][]Row, len(sources))
	group := errgroup.Group{}
	group.SetLimit(parallelDials)
	for i, source := range sources {
		group.Go(func() error {
			found[i] = source(ctx)
			return nil
		})
	}
	_ = group.Wait() // sources give rows, not errors
	return slices.Concat(found...)
}

func (l *List) server(ctx context.Context) []Row {
	rows := shown(ctx, "serving certificate", "server", byServer, l.URL.String())
	secret := &corev1.Secret{}
	if err := l.Hub.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: authorityName}, secret); err != nil {
		return append(rows, Row{Component: "authority", Cluster: "server", RenewedBy: byNobody, Message: err.Error()})
	}
	return append(rows, row("authority", "server", byNobody, secret.Data["ca.crt"]))
}

// webhooks gives the authorities by which the hub knows our webhooks.
func (l *List) webhooks(ctx context.Context) []Row {
	list := &admissionregistrationv1.ValidatingWebhookConfigurationList{}
	if err := l.Hub.List(ctx, list); err != nil {
		return []Row{{Component: "webhooks", Cluster: "hub", RenewedBy: byServer, Message: err.Error()}}
	}
	var rows []Row
	for _, configuration := range list.Items {
		if !strings.Contains(configuration.Name, "yunfan") || len(configuration.Webhooks) == 0 {
			continue
		}
		rows = append(rows, row("webhook "+configuration.Name, "hub", byServer, configuration.Webhooks[0].ClientConfig.CABundle))
	}
	return rows
}

// member gives what a kubeconfig holds and what its API server shows.
func (l *List) member(ctx context.Context, c *v1alpha1.Cluster) []Row {
	reference := c.Spec.Connection.KubeconfigSecretRef
	if reference == nil {
		return nil
	}
	secret := &corev1.Secret{}
	if err := l.Hub.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: reference.Name}, secret); err != nil {
		return []Row{{Component: "kubeconfig", Cluster: c.Name, RenewedBy: byCluster, Message: err.Error()}}
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["kubeconfig"])
	if err != nil { // its message may hold what the kubeconfig holds
		return []Row{{Component: "kubeconfig", Cluster: c.Name, RenewedBy: byCluster, Message: "the kubeconfig cannot be read"}}
	}
	rows := append(signIn(c.Name, config), shown(ctx, "serving certificate", c.Name, byCluster, config.Host)...)
	if len(config.CAData) > 0 {
		rows = append(rows, row("authority", c.Name, byCluster, config.CAData))
	}
	if _, err := os.Stat(filepath.Join(l.InstanceDir, "kubeconfig", c.Name+".kubeconfig")); l.InstanceDir != "" && err == nil {
		for i := range rows {
			rows[i].RenewedBy = byEngine
		}
	}
	return rows
}

// signIn gives the certificate as which the platform signs in; none if it uses something else.
func signIn(cluster string, config *clientrest.Config) []Row {
	text, by := config.CertData, byCluster
	if len(text) == 0 && config.CertFile != "" {
		var err error
		if text, err = os.ReadFile(config.CertFile); err != nil {
			return []Row{{Component: "client certificate", Cluster: cluster, RenewedBy: by, Message: err.Error()}}
		}
	}
	if len(text) == 0 {
		return nil
	}
	return []Row{row("client certificate", cluster, by, text)}
}

// shown connects and looks at the certificate, whoever has signed it.
func shown(ctx context.Context, component, cluster, by, address string) []Row {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	u, err := url.Parse(address)
	if err == nil && u.Host == "" {
		u, err = url.Parse("https://" + address)
	}
	if err != nil || u.Scheme != "https" {
		return []Row{{Component: component, Cluster: cluster, RenewedBy: by, Message: "it is not reached by https"}}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	// Nothing is sent: the certificate is looked at, not trusted.
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}} //nolint:gosec // see above
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return []Row{{Component: component, Cluster: cluster, RenewedBy: by, Message: fmt.Sprintf("connecting: %v", err)}}
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState() //nolint:forcetypeassert // what a tls.Dialer gives
	return []Row{of(component, cluster, by, state.PeerCertificates[0])}
}

// embedded reads the files of the engine's clusters.
func embedded(dir string) []Row {
	if dir == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "clusters", "*", "pki", "*.crt"))
	if err != nil {
		return nil // only a malformed pattern fails
	}
	rows := make([]Row, 0, len(files))
	for _, file := range files {
		cluster := filepath.Base(filepath.Dir(filepath.Dir(file)))
		component := strings.TrimSuffix(filepath.Base(file), ".crt")
		text, err := os.ReadFile(file)
		if err != nil {
			rows = append(rows, Row{Component: component, Cluster: cluster, RenewedBy: byEngine, Message: err.Error()})
			continue
		}
		r := row(component, cluster, byEngine, text)
		if r.Authority {
			r.RenewedBy = byNobody
		}
		rows = append(rows, r)
	}
	return rows
}

func row(component, cluster, by string, text []byte) Row {
	block, _ := pem.Decode(text)
	if block == nil {
		return Row{Component: component, Cluster: cluster, RenewedBy: by, Message: "it is no certificate in PEM"}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Row{Component: component, Cluster: cluster, RenewedBy: by, Message: "it cannot be read as a certificate"}
	}
	return of(component, cluster, by, c)
}

func of(component, cluster, by string, c *x509.Certificate) Row {
	end := c.NotAfter
	return Row{
		Component: component, Cluster: cluster, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Authority: c.IsCA,
		NotAfter: &end, DaysLeft: int(time.Until(end) / day), RenewedBy: by,
	}
}

// FirstToEnd names the certificate that ends first, with its days, and those that cannot be seen.
func (l *List) FirstToEnd(ctx context.Context) (first string, days int, unseen []string) {
	days = math.MaxInt
	for _, r := range l.All(ctx) {
		name := strings.TrimSpace(r.Cluster + " " + r.Component)
		switch {
		case r.NotAfter == nil:
			unseen = append(unseen, name)
		case r.DaysLeft < days:
			first, days = name, r.DaysLeft
		}
	}
	return first, days, unseen
}
