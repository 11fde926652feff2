package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Where the server says how it is reached.
const (
	serverNamespace = "yunfan-system"
	serverConfigMap = "yunfan-server"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// Server is a client of the server's own API, as the same user as on the hub.
type Server struct {
	URL    *url.URL
	Config *rest.Config
	http   *http.Client
}

// Server finds the server through the hub.
func (a *Access) Server(ctx context.Context) (*Server, error) {
	hub, err := a.Config()
	if err != nil {
		return nil, err
	}
	if signedIn(hub) {
		return NewServer(hub)
	}
	clientset, err := kubernetes.NewForConfig(hub)
	if err != nil {
		return nil, fmt.Errorf("connecting to the hub: %w", err)
	}
	where, err := clientset.CoreV1().ConfigMaps(serverNamespace).Get(ctx, serverConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("no server runs on this hub (ConfigMap %s/%s is missing): start it with 'yunfan server': %w", serverNamespace, serverConfigMap, err)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the hub where the server is: %w", err)
	}
	return newServer(hub, where)
}

// TokenCommand is the sub-command that gives kubectl its token. A kubeconfig that calls it was made by signing in to the
// server, which is then what it reaches.
const TokenCommand = "token"

func signedIn(config *rest.Config) bool {
	plugin := config.ExecProvider
	return plugin != nil && len(plugin.Args) > 0 && plugin.Args[0] == TokenCommand && strings.HasPrefix(filepath.Base(plugin.Command), "yunfan")
}

// NewServer makes a client of the server that config reaches.
func NewServer(config *rest.Config) (*Server, error) {
	u, err := url.Parse(config.Host)
	if err != nil || u.Host == "" || u.Scheme != "https" {
		return nil, Usagef("%q is no address of a server: give one such as https://yunfan.example.com:8443", config.Host)
	}
	config = rest.CopyConfig(config)
	config.Timeout = 0 // logs have no end of their own; the server bounds everything else
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	u.Path = ""
	return &Server{URL: u, Config: config, http: c}, nil
}

func newServer(hub *rest.Config, where *corev1.ConfigMap) (*Server, error) {
	u, err := url.Parse(where.Data["url"])
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("reading where the server is from ConfigMap %s/%s: %q is no URL", serverNamespace, serverConfigMap, where.Data["url"])
	}
	config := rest.AnonymousClientConfig(hub)
	config.Host, config.APIPath = u.String(), ""
	config.TLSClientConfig = rest.TLSClientConfig{
		CAData:   []byte(where.Data["ca"]),
		CertData: hub.CertData, CertFile: hub.CertFile, KeyData: hub.KeyData, KeyFile: hub.KeyFile,
	}
	config.BearerToken, config.BearerTokenFile = hub.BearerToken, hub.BearerTokenFile
	config.ExecProvider, config.AuthProvider = hub.ExecProvider, hub.AuthProvider
	return NewServer(config)
}

// Call sends in, if it is not nil, as JSON to path and decodes the answer into out.
func (s *Server) Call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	answer, err := s.Stream(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	defer answer.Close()
	if err := json.NewDecoder(io.LimitReader(answer, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	return nil
}

// Stream is Call for an answer without end: the caller reads and closes it.
func (s *Server) Stream(ctx context.Context, method, path string, query url.Values, in any) (io.ReadCloser, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("writing the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	target := s.URL.JoinPath(path)
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the server: %w", err)
	}
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusCreated {
		return response.Body, nil
	}
	defer response.Body.Close()
	return nil, failure(response)
}

// failure is the Kubernetes Status of an answer as an error.
func failure(response *http.Response) error {
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	status := metav1.Status{}
	if json.Unmarshal(text, &status) != nil || status.Kind != "Status" {
		return fmt.Errorf("the server answered %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return &apierrors.StatusError{ErrStatus: status}
}
