package traefik

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// patience bounds each question to the Traefik beside us.
	patience = 5 * time.Second
	// most bounds its answers, in bytes.
	most = 32 << 20
)

// State tells what Traefik serves.
func (d *driver) State(ctx context.Context) (*table.State, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d.mu.Lock()
	t, left, problem := d.table, d.unsupported, d.problem
	d.mu.Unlock()
	state := &table.State{Program: "traefik", Unsupported: left, Problem: problem}
	if t == nil {
		return state, nil
	}
	control := d.program.controlAddress()
	if err := d.ask.answers(ctx, control, state); err != nil {
		if state.Problem == "" {
			state.Problem = err.Error()
		}
		state.Generation = ""
	}
	counts, err := d.ask.counts(ctx, control)
	unknown := err != nil
	seen, err := d.ask.requests(ctx, control)
	if err != nil && state.Problem == "" {
		state.Problem = err.Error()
	}
	for _, pool := range t.Pools {
		for i := range pool.Targets {
			target := &pool.Targets[i]
			name := counterName(pool.Name, target.Name)
			one := table.TargetState{
				Pool: pool.Name, Target: target.Name, Closed: target.Closed, InFlight: counts[name],
				Requests: seen[name].all, Failures: seen[name].failed,
			}
			if unknown {
				one.InFlight = -1
			}
			one.Up, one.DownServers, one.Probe = d.prober.Target(pool.Name, target)
			state.Targets = append(state.Targets, one)
		}
	}
	return state, nil
}

// asker asks one Traefik.
type asker struct {
	data, control *http.Client
	marker        string
}

func newAsker(s edge.Settings) *asker {
	a := &asker{
		control: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		data: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			// The answer is the name of a table, and the program is our own: whose certificate it shows does not matter.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // See above.
		}},
	}
	scheme, address := "http", s.HTTP
	if address == "" {
		scheme, address = "https", s.HTTPS
	}
	a.marker = scheme + "://" + reachable(address) + table.MarkerPath
	return a
}

// reachable is where something that listens at an address can be reached on this machine.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("asking Traefik: %w", err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking Traefik for its state: %w", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err != nil {
		return nil, fmt.Errorf("reading Traefik's answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking Traefik for %s: it answered %d", r.URL.Path, answer.StatusCode)
	}
	return content, nil
}

// answers fills in the generation that is served and the program. A generation of which Traefik refused a part is none.
func (a *asker) answers(ctx context.Context, control string, state *table.State) error {
	version, err := get(ctx, a.control, "http://"+control+"/api/version")
	if err != nil {
		return err
	}
	var v struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(version, &v); err != nil {
		return fmt.Errorf("reading Traefik's version: %w", err)
	}
	state.Program = strings.TrimSpace("traefik " + v.Version)
	text, err := get(ctx, a.data, a.marker)
	if err != nil {
		return err
	}
	state.Generation = strings.TrimSpace(string(text))
	return a.refused(ctx, control)
}

// refused is an error if Traefik could not take over a part of its configuration.
func (a *asker) refused(ctx context.Context, control string) error {
	for _, kind := range []string{"routers", "services", "middlewares"} {
		content, err := get(ctx, a.control, "http://"+control+"/api/http/"+kind+"?status=disabled&per_page=3")
		if err != nil {
			return err
		}
		var parts []struct {
			Name  string   `json:"name"`
			Error []string `json:"error"`
		}
		if err := json.Unmarshal(content, &parts); err != nil {
			return fmt.Errorf("reading what Traefik refused: %w", err)
		}
		var said []string
		for _, part := range parts {
			said = append(said, part.Name+": "+strings.Join(part.Error, ", "))
		}
		if len(said) > 0 {
			return errors.New("taking over the table: Traefik refused " + strings.Join(said, "; "))
		}
	}
	return nil
}

func (a *asker) counts(ctx context.Context, control string) (map[string]int, error) {
	content, err := get(ctx, a.control, "http://"+control+countsPath)
	if err != nil {
		return nil, err
	}
	var counts map[string]int
	if err := json.Unmarshal(content, &counts); err != nil {
		return nil, fmt.Errorf("reading the requests in flight: %w", err)
	}
	return counts, nil
}

type answered struct{ all, failed uint64 }

var (
	sampleLine = regexp.MustCompile(`(?m)^traefik_service_requests_total\{([^}]*)\} ([0-9.e+]+)$`)
	labelPart  = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)
)

// requests gives the requests that were answered, by service.
func (a *asker) requests(ctx context.Context, control string) (map[string]answered, error) {
	content, err := get(ctx, a.control, "http://"+control+"/metrics")
	if err != nil {
		return nil, err
	}
	seen := map[string]answered{}
	for _, line := range sampleLine.FindAllStringSubmatch(string(content), -1) {
		count, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			return nil, fmt.Errorf("reading Traefik's counters: %w", err)
		}
		var code, name string
		for _, label := range labelPart.FindAllStringSubmatch(line[1], -1) {
			switch label[1] {
			case "code":
				code = label[2]
			case "service":
				name = strings.TrimSuffix(label[2], "@file")
			}
		}
		one := seen[name]
		one.all += uint64(count)
		if strings.HasPrefix(code, "5") {
			one.failed += uint64(count)
		}
		seen[name] = one
	}
	return seen, nil
}
