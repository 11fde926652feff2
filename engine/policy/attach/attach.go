// Package attach is how the CNI plugin tells the enforcer, over a socket of the node, which pod has which address.
package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Dir is the enforcer's folder on a node. It lives as long as the node's pods do.
const Dir = "/run/yunfan-policy"

const (
	maxAnswer  = 64 << 10 // bytes
	retryPause = 100 * time.Millisecond
)

// Sandbox is a pod's network on this node.
type Sandbox struct {
	Pod     string     `json:"pod"` // UID
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// Folder is where the socket is, and a record of each sandbox by its id.
type Folder string

// Socket is where the enforcer listens once its rules are in force.
func (f Folder) Socket() string { return filepath.Join(string(f), "policy.sock") }

func (f Folder) record(id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/.") {
		return "", fmt.Errorf("%q is no id of a sandbox", id)
	}
	return filepath.Join(string(f), "sandboxes", id), nil
}

// Remember writes a record, for an enforcer that starts again.
func (f Folder) Remember(id string, s Sandbox) error {
	path, err := f.record(id)
	if err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("recording sandbox %s: %w", id, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("recording sandbox %s: %w", id, err)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("recording sandbox %s: %w", id, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("recording sandbox %s: %w", id, err)
	}
	return nil
}

// Forget removes a record.
func (f Folder) Forget(id string) error {
	path, err := f.record(id)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting sandbox %s: %w", id, err)
	}
	return nil
}

// Recorded are the sandboxes by id.
func (f Folder) Recorded() (map[string]Sandbox, error) {
	out := map[string]Sandbox{}
	entries, err := os.ReadDir(filepath.Join(string(f), "sandboxes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading records of sandboxes: %w", err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), ".") { // half written
			continue
		}
		data, err := os.ReadFile(filepath.Join(string(f), "sandboxes", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading records of sandboxes: %w", err)
		}
		var s Sandbox
		if err := json.Unmarshal(data, &s); err != nil {
			return nil, fmt.Errorf("reading the record of sandbox %s: %w", e.Name(), err)
		}
		out[e.Name()] = s
	}
	return out, nil
}

// Add tells the enforcer of a sandbox and returns when the pod's rules are in force. An enforcer that is not there, as
// while it starts again, is waited for until the context ends.
func (f Folder) Add(ctx context.Context, id string, s Sandbox) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("asking for the pod's rules: %w", err)
	}
	for {
		err := f.request(ctx, http.MethodPut, id, body)
		var absent *net.OpError
		if err == nil || !errors.As(err, &absent) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
	}
}

// Remove tells the enforcer that a sandbox is going.
func (f Folder) Remove(ctx context.Context, id string) error {
	return f.request(ctx, http.MethodDelete, id, nil)
}

func (f Folder) request(ctx context.Context, method, id string, body []byte) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", f.Socket())
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, method, "http://policy/sandboxes/"+url.PathEscape(id), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("asking yunfan-policy: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking yunfan-policy, which puts network policies in force on this node: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // the status says enough
		return fmt.Errorf("yunfan-policy answers %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
