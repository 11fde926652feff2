package supervisor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const probeTimeout = 2 * time.Second

// Probe asks a program whether it is ready. The zero value is always content.
type Probe struct {
	// URL is http://, https:// (status 200 expected), tcp://host:port or unix:///path (connecting is enough).
	URL string `json:"url,omitempty"`
	// CA is the file with the authority of an https server.
	CA string `json:"ca,omitempty"`
}

// Check returns nil when the program is ready.
func (p Probe) Check(ctx context.Context) error {
	if p.URL == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	u, err := url.Parse(p.URL)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	switch u.Scheme {
	case "http", "https":
		return p.get(ctx)
	case "tcp", "unix":
		conn, err := (&net.Dialer{}).DialContext(ctx, u.Scheme, u.Host+u.Path)
		if err != nil {
			return fmt.Errorf("probing: %w", err)
		}
		return conn.Close()
	}
	return fmt.Errorf("probing %s: the scheme must be http, https, tcp or unix", p.URL)
}

func (p Probe) get(ctx context.Context) error {
	transport := &http.Transport{DisableKeepAlives: true}
	if p.CA != "" {
		pem, err := os.ReadFile(p.CA)
		if err != nil {
			return fmt.Errorf("probing: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return errors.New("probing: no certificate in " + p.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("probing %s: %s: %s", p.URL, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
