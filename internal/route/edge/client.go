package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

const (
	// askTimeout bounds what the hub asks of an agent, however long the context lasts.
	askTimeout = 30 * time.Second
	// mostError bounds what is repeated of an answer that is an error.
	mostError = 500
)

// Client is the hub's side of an agent: a Driver that works far away.
type Client struct {
	endpoint string
	token    string
	http     *http.Client
}

// NewClient makes the hub's side of the agent at an endpoint, like https://192.0.2.1:8444. The certificates in ca (PEM) are
// trusted, or those of public authorities if it is empty. No connection is made before the first question.
func NewClient(endpoint, token string, ca []byte) (*Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%q is no endpoint of an edge: write https://HOST:PORT", endpoint)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && !ip.IsLoopback() {
		return nil, fmt.Errorf("%s would carry the edge's token in the open: write https://%s", endpoint, u.Host)
	}
	if token == "" {
		return nil, errors.New("the edge's credentials have no \"token\": put what is in the file token of its folder into the Secret")
	}
	trusted := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		trusted.RootCAs = x509.NewCertPool()
		if !trusted.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the edge's credentials have no certificate in \"ca.crt\": put the file tls.crt of its folder there, or leave it out")
		}
	}
	const connections, idle = 4, time.Minute
	return &Client{
		endpoint: strings.TrimRight(endpoint, "/"), token: token,
		http: &http.Client{
			Transport:     &http.Transport{TLSClientConfig: trusted, MaxConnsPerHost: connections, IdleConnTimeout: idle, DialContext: (&net.Dialer{Timeout: askTimeout}).DialContext},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Apply hands a table to the agent, which keeps it.
func (c *Client) Apply(ctx context.Context, t *table.Table) error {
	content, err := json.Marshal(t)
	if err == nil {
		_, err = c.ask(ctx, http.MethodPut, tablePath, content, http.StatusAccepted)
	}
	if err != nil {
		return fmt.Errorf("handing a table to the edge: %w", err)
	}
	return nil
}

// State asks the agent for what is served.
func (c *Client) State(ctx context.Context) (*table.State, error) {
	content, err := c.ask(ctx, http.MethodGet, statePath, nil, http.StatusOK)
	state := &table.State{}
	if err == nil {
		err = json.Unmarshal(content, state) // an agent that is newer may say more
	}
	if err != nil {
		return nil, fmt.Errorf("asking the edge for its state: %w", err)
	}
	return state, nil
}

// Close gives up connections that are kept open.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) ask(ctx context.Context, method, path string, body []byte, wanted int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, mostTable))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != wanted {
		return nil, fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(content[:min(len(content), mostError)])))
	}
	return content, nil
}
