package f5

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
	"strconv"
	"strings"
	"time"
)

const (
	// patience bounds one question to the device.
	patience = 10 * time.Second
	// most bounds its answers, in bytes.
	most = 32 << 20
	// common is the device's folder in which pools are looked for.
	common = "Common"
)

// device is the interface of one F5 BIG-IP.
type device struct {
	endpoint           *url.URL
	username, password string
	client             *http.Client
}

func newDevice(endpoint string, credentials map[string][]byte) (*device, error) {
	at, err := url.Parse(endpoint)
	if err != nil || at.Scheme != "https" || at.Host == "" {
		return nil, errors.New("the interface of an F5 is reached by https only: write https://<address>")
	}
	d := &device{endpoint: at, username: string(credentials["username"]), password: string(credentials["password"])}
	if d.username == "" || d.password == "" {
		return nil, errors.New(`the Secret of an F5 has "username" and "password"`)
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca := credentials["ca.crt"]; len(ca) > 0 {
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("ca.crt in the Secret of the F5 is no certificate in PEM")
		}
	}
	d.client = &http.Client{
		Timeout:   patience,
		Transport: &http.Transport{TLSClientConfig: trust, MaxConnsPerHost: 4, IdleConnTimeout: time.Minute},
		// Credentials go nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return d, nil
}

// member is one of a pool, as the device has it.
type member struct {
	Name     string `json:"name"`
	FullPath string `json:"fullPath"`
	Address  string `json:"address"`
	// Session is user-enabled, user-disabled or monitor-enabled; State up, down, user-down and others.
	Session string `json:"session"`
	State   string `json:"state"`
}

// open says that no person and no platform has closed it. The device's monitors have a say of their own.
func (m member) open() bool { return m.Session != "user-disabled" && m.State != "user-down" }

// pools are the members of all pools by name, and then by address.
func (d *device) pools(ctx context.Context) (map[string]map[string]member, error) {
	var answer struct {
		Items []struct {
			Name    string `json:"name"`
			Folder  string `json:"partition"`
			Members struct {
				Items []member `json:"items"`
			} `json:"membersReference"`
		} `json:"items"`
	}
	if err := d.do(ctx, http.MethodGet, "/mgmt/tm/ltm/pool?expandSubcollections=true", nil, &answer); err != nil {
		return nil, fmt.Errorf("reading the pools: %w", err)
	}
	pools := map[string]map[string]member{}
	for _, pool := range answer.Items {
		if pool.Folder != common {
			continue
		}
		members := map[string]member{}
		for _, m := range pool.Members.Items {
			members[m.at()] = m
		}
		pools[pool.Name] = members
	}
	return pools, nil
}

// at is the address and port of a member, without the device's routing domain. A member's name ends in its port.
func (m member) at() string {
	separator := ":"
	if strings.Count(m.Name, ":") > 1 {
		separator = "." // IPv6
	}
	port := m.Name[strings.LastIndex(m.Name, separator)+1:]
	host, _, _ := strings.Cut(m.Address, "%")
	return net.JoinHostPort(host, port)
}

// set opens a member, or closes it: the connections that it has end in peace, and nothing new arrives, not even of
// clients that the device would keep at it.
func (d *device) set(ctx context.Context, pool string, m member, open bool) error {
	change := map[string]string{"session": "user-disabled", "state": "user-down"}
	if open {
		change = map[string]string{"session": "user-enabled", "state": "user-up"}
	}
	path := poolPath(pool) + "/members/" + url.PathEscape(strings.ReplaceAll(m.FullPath, "/", "~"))
	if err := d.do(ctx, http.MethodPatch, path, change, nil); err != nil {
		return fmt.Errorf("changing member %s of pool %s: %w", m.Name, pool, err)
	}
	return nil
}

func poolPath(pool string) string { return "/mgmt/tm/ltm/pool/" + url.PathEscape("~"+common+"~"+pool) }

// memberStats are the counters of one member.
type memberStats struct {
	connections int
	requests    uint64
	down        bool
	reason      string
}

type entry struct {
	Value       float64 `json:"value"`
	Description string  `json:"description"`
}

// stats are the counters of a pool's members by address.
func (d *device) stats(ctx context.Context, pool string) (map[string]memberStats, error) {
	var answer struct {
		Entries map[string]struct {
			Nested struct {
				Entries map[string]entry `json:"entries"`
			} `json:"nestedStats"`
		} `json:"entries"`
	}
	if err := d.do(ctx, http.MethodGet, poolPath(pool)+"/members/stats", nil, &answer); err != nil {
		return nil, fmt.Errorf("reading the connections of pool %s: %w", pool, err)
	}
	all := map[string]memberStats{}
	for _, one := range answer.Entries {
		e := one.Nested.Entries
		host, _, _ := strings.Cut(e["addr"].Description, "%")
		at := net.JoinHostPort(host, strconv.Itoa(int(e["port"].Value)))
		all[at] = memberStats{
			connections: int(e["serverside.curConns"].Value),
			requests:    uint64(e["totRequests"].Value),
			down:        e["status.availabilityState"].Description == "offline" && e["status.enabledState"].Description == "enabled",
			reason:      e["status.statusReason"].Description,
		}
	}
	return all, nil
}

// version of the device's software.
func (d *device) version(ctx context.Context) (string, error) {
	var answer struct {
		Entries map[string]struct {
			Nested struct {
				Entries map[string]entry `json:"entries"`
			} `json:"nestedStats"`
		} `json:"entries"`
	}
	if err := d.do(ctx, http.MethodGet, "/mgmt/tm/sys/version", nil, &answer); err != nil {
		return "", fmt.Errorf("reading the version: %w", err)
	}
	for _, one := range answer.Entries {
		return one.Nested.Entries["Version"].Description, nil
	}
	return "", nil
}

// do asks the device. What it says of a failure is told; what it was asked with is not.
func (d *device) do(ctx context.Context, method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("writing the question: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+d.endpoint.Host+path, content)
	if err != nil {
		return fmt.Errorf("making the question: %w", err)
	}
	r.SetBasicAuth(d.username, d.password)
	r.Header.Set("Content-Type", "application/json")
	answer, err := d.client.Do(r)
	if err != nil {
		return fmt.Errorf("asking the F5: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err != nil {
		return fmt.Errorf("reading the F5's answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		var said struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(text, &said) // not every failure is said in JSON
		return fmt.Errorf("the F5 answered %d %.200s", answer.StatusCode, said.Message)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("reading the F5's answer: %w", err)
	}
	return nil
}
