// Command port-reporter tells on which ports programs of its node listen: it writes them to a ConfigMap of its cluster
// whenever they change. It runs in the node's network, reads /proc and may write that one kind of object.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	interval       = 3 * time.Second
	requestTimeout = 10 * time.Second
	account        = "/var/run/secrets/kubernetes.io/serviceaccount"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	node, programs := os.Getenv("NODE"), os.Getenv("PROGRAMS") == "true"
	client, err := newClient()
	if node == "" || err != nil {
		return errors.Join(err, errors.New("NODE must be the node's name"))
	}
	reported := ""
	for {
		ports, err := listening("/proc", programs)
		if err == nil && ports != reported {
			if err = send(ctx, client, node, ports); err == nil {
				reported = ports
			}
		}
		if err != nil {
			log.Error("reporting ports", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

func newClient() (*http.Client, error) {
	ca, err := os.ReadFile(account + "/ca.crt")
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return &http.Client{Timeout: requestTimeout, Transport: transport}, nil
}

// send applies the ConfigMap of the node.
func send(ctx context.Context, client *http.Client, node, ports string) error {
	token, err := os.ReadFile(account + "/token")
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	namespace, err := os.ReadFile(account + "/namespace")
	if err != nil {
		return fmt.Errorf("reading the namespace: %w", err)
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "ports-" + node, "labels": map[string]string{"yunfan.io/port-report": "true"}},
		"data":     map[string]string{"node": node, "ports": ports},
	})
	if err != nil {
		return err
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	url := fmt.Sprintf("https://%s/api/v1/namespaces/%s/configmaps/ports-%s?fieldManager=port-reporter&force=true", host, namespace, node)
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, url, bytes.NewReader(body)) //nolint:gosec // kubelet says where the API server is
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/apply-patch+yaml")
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := client.Do(request) //nolint:gosec // see above
	if err != nil {
		return fmt.Errorf("sending the report: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // as much of the reason as there is
		return fmt.Errorf("sending the report: %s: %s", response.Status, text)
	}
	return nil
}
