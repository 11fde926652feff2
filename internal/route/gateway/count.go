package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// Names of Traefik's metrics.
const (
	metricRequests  = "traefik_service_requests_total"
	metricDurations = "traefik_service_request_duration_seconds"
	metricBegan     = "process_start_time_seconds"
)

// Components are those of an application that Routes lead to, and that a track has, in the order of their names.
func (in *Input) Components(application string, track v1alpha1.TrackRole) []string {
	a := in.Applications[application]
	if a == nil {
		return nil
	}
	var out []string
	for _, route := range in.Routes {
		for i := range route.Spec.Rules {
			for _, b := range route.Spec.Rules[i].Backends {
				if _, ok := a.server(track, b.Component, b.Port); ok && b.Application == application {
					out = append(out, b.Component)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Workloads are the names of an application's workloads by the role of their track. Those that both tracks share are the
// stable one's.
func (in *Input) Workloads(application string) map[v1alpha1.TrackRole][]string {
	a := in.Applications[application]
	if a == nil {
		return nil
	}
	out := map[v1alpha1.TrackRole][]string{}
	taken := map[string]bool{}
	for _, role := range []v1alpha1.TrackRole{v1alpha1.TrackStable, v1alpha1.TrackCandidate} {
		track := a.Delivery.Spec.Track(role)
		if track == nil {
			continue
		}
		out[role] = []string{}
		for _, name := range slices.Sorted(maps.Keys(a.Components[role])) {
			if workload := track.WorkloadName(a.Components[role][name]); !taken[workload] {
				taken[workload] = true
				out[role] = append(out[role], workload)
			}
		}
	}
	return out
}

// Connections counts the connections of all gateways of a member by the address of the pod that they lead to.
func (g *Gateways) Connections(ctx context.Context, m *member.Member) (map[string]int, error) {
	pods, err := Pods(ctx, m)
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for i, answer := range g.asker.Ask(ctx, m, pods, g.asker.ports.Gauge, "/connections", nil) {
		if err := answer.failure(); err != nil {
			return nil, fmt.Errorf("asking the gauge of gateway %s/%s: %w", m.Name, pods[i].Spec.NodeName, err)
		}
		connections := map[string]int{}
		if err := json.Unmarshal(answer.Body, &connections); err != nil {
			return nil, fmt.Errorf("reading the gauge of gateway %s/%s: %w", m.Name, pods[i].Spec.NodeName, err)
		}
		for address, n := range connections {
			if host, _, err := net.SplitHostPort(address); err == nil {
				out[host] += n
			}
		}
	}
	return out, nil
}

func (a *Answer) failure() error {
	if a.Err != nil {
		return a.Err
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("status %d", a.Status)
	}
	return nil
}

// Counters of one track since the gateways began.
type Counters struct {
	Requests, Failures uint64
	// Slower[i] is how many took longer than Bounds[i] seconds.
	Bounds []float64
	Slower []uint64
	// Began names the gateways and when they began.
	Began string
}

// Count adds up what the gateways of a member have counted of a track. Questions of the platform do not count.
func (g *Gateways) Count(ctx context.Context, m *member.Member, in *Input, application string, track v1alpha1.TrackRole) (*Counters, error) {
	pods, err := Pods(ctx, m)
	if err != nil {
		return nil, err
	}
	is, err := in.services(application, track)
	if err != nil {
		return nil, err
	}
	c := &counter{is: is, slower: map[float64]uint64{}}
	var began []string
	for i, answer := range g.asker.Ask(ctx, m, pods, g.asker.ports.Internal, "/metrics", nil) {
		where := fmt.Sprintf("gateway %s/%s", m.Name, pods[i].Spec.NodeName)
		if err := answer.failure(); err != nil {
			return nil, fmt.Errorf("asking %s for its metrics: %w", where, err)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(answer.Body))
		if err != nil {
			return nil, fmt.Errorf("reading the metrics of %s: %w", where, err)
		}
		start := families[metricBegan]
		if start == nil || len(start.GetMetric()) == 0 {
			return nil, fmt.Errorf("reading the metrics of %s: %w", where, errors.New("it does not say when it began"))
		}
		began = append(began, fmt.Sprintf("%s@%.2f", pods[i].Name, start.GetMetric()[0].GetGauge().GetValue()))
		c.add(families)
	}
	out := &Counters{Requests: c.requests, Failures: c.failures, Began: strings.Join(began, ",")}
	for _, bound := range slices.Sorted(maps.Keys(c.slower)) {
		out.Bounds = append(out.Bounds, bound)
		out.Slower = append(out.Slower, c.slower[bound])
	}
	return out, nil
}

// counter adds up.
type counter struct {
	is                 func(service string) bool
	requests, failures uint64
	slower             map[float64]uint64
}

func (c *counter) add(families map[string]*dto.MetricFamily) {
	for _, m := range families[metricRequests].GetMetric() {
		if !c.is(label(m, "service")) {
			continue
		}
		n := uint64(m.GetCounter().GetValue())
		c.requests += n
		if strings.HasPrefix(label(m, "code"), "5") {
			c.failures += n
		}
	}
	for _, m := range families[metricDurations].GetMetric() {
		if !c.is(label(m, "service")) {
			continue
		}
		h := m.GetHistogram()
		for _, b := range h.GetBucket() {
			if b.GetUpperBound() < maxBound {
				c.slower[b.GetUpperBound()] += h.GetSampleCount() - b.GetCumulativeCount()
			}
		}
	}
}

// maxBound leaves out the bucket that has everything.
const maxBound = 1e9

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// services tells the services of Traefik that are a track's: those of the partition's HTTPRoutes that lead to one of its
// Services, and those that Traefik's own services make of them.
func (in *Input) services(application string, track v1alpha1.TrackRole) (func(string) bool, error) {
	objects, err := Render(in)
	if err != nil {
		return nil, err
	}
	namespace := in.Partition.MemberNamespace()
	var ends, begins []string
	a := in.Applications[application]
	for _, component := range in.Components(application, track) {
		service := a.Delivery.Spec.Track(track).ServiceName(component)
		ends = append(ends, "-svc-"+namespace+"-"+service, "_"+namespace+"_"+service)
	}
	for _, o := range objects.Routes {
		if o.GetLabels()[LabelRoute] != "" {
			begins = append(begins, "httproute-"+namespace+"-"+o.GetName()+"-gw-")
		}
	}
	begins = append(begins, namespace+"_")
	return func(name string) bool {
		name, _, _ = strings.Cut(name, "@")
		hyphen, bar := strings.LastIndexByte(name, '-'), strings.LastIndexByte(name, '_')
		last := max(hyphen, bar)
		return last > 0 && slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(name, b) }) &&
			slices.ContainsFunc(ends, func(e string) bool { return strings.HasSuffix(name[:last], e) })
	}, nil
}
