package nodeport

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	reportNamespace = "yunfan-ports" // of its own: who reports must write nothing else
	// LabelReport is on the ConfigMaps in which nodes report.
	LabelReport = "yunfan.io/port-report"
	// ReportNode is the key of the node's name.
	ReportNode = "node"
	// ReportPorts is the key of a line "PORT [PROGRAM]" for each port.
	ReportPorts = "ports"

	// freshness is how long what nodes reported is used before they are asked again.
	freshness = 5 * time.Second
	// askTimeout bounds the question: a port is checked while somebody types.
	askTimeout = 2 * time.Second
	maxReports = 5000
)

// reports keeps what the nodes of each cluster reported last.
type reports struct {
	mu    sync.Mutex
	known map[string]report
}

type report struct {
	ports map[int32]string // who listens, for people
	read  time.Time
}

// listening gives the ports that programs of a cluster's nodes listen on, as far as these are reported. A cluster that
// does not answer is taken as last known.
func (p *Ports) listening(ctx context.Context, cluster string) (map[int32]string, error) {
	p.reports.mu.Lock()
	known := p.reports.known[cluster]
	p.reports.mu.Unlock()
	m, ok := p.Members.Member(cluster)
	if !ok || time.Since(known.read) < freshness {
		return known.ports, nil
	}
	if answering, _ := m.Answering(); !answering {
		return known.ports, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var list corev1.ConfigMapList
	err := m.Client.List(ctx, &list, client.InNamespace(reportNamespace), client.HasLabels{LabelReport}, client.Limit(maxReports))
	if err != nil {
		return nil, fmt.Errorf("reading which ports the nodes of cluster %s use: %w", cluster, err)
	}
	known = report{ports: parseReports(list.Items), read: time.Now()}
	p.reports.mu.Lock()
	defer p.reports.mu.Unlock()
	if p.reports.known == nil {
		p.reports.known = map[string]report{}
	}
	p.reports.known[cluster] = known
	return known.ports, nil
}

// parseReports gives one of those who listen on each port: the first node by name.
func parseReports(reports []corev1.ConfigMap) map[int32]string {
	slices.SortFunc(reports, func(a, b corev1.ConfigMap) int { return cmp.Compare(a.Data[ReportNode], b.Data[ReportNode]) })
	out := map[int32]string{}
	for i := range reports {
		for line := range strings.Lines(reports[i].Data[ReportPorts]) {
			number, program, _ := strings.Cut(strings.TrimSpace(line), " ")
			port, err := strconv.ParseUint(number, 10, 16)
			if err != nil {
				continue // somebody wrote it by hand
			}
			if _, known := out[int32(port)]; known {
				continue
			}
			if program == "" {
				program = "a program"
			}
			out[int32(port)] = fmt.Sprintf("%s, which listens on node %s", program, reports[i].Data[ReportNode])
		}
	}
	return out
}

// refuseListened adds the ports wanted that programs of the nodes listen on. Those that the application's own service
// has already are not asked about: old kube-proxies listen on them themselves.
func (p *Ports) refuseListened(ctx context.Context, wants []v1alpha1.NodePortSpec, services map[string][]corev1.Service) ([]string, error) {
	var taken []string
	for _, want := range wants {
		if slices.ContainsFunc(services[want.Cluster], func(s corev1.Service) bool {
			return belongs(&s, want.Owner) && slices.ContainsFunc(s.Spec.Ports, func(port corev1.ServicePort) bool { return port.NodePort == want.Port })
		}) {
			continue
		}
		listening, err := p.listening(ctx, want.Cluster)
		if err != nil {
			return nil, err
		}
		if who, there := listening[want.Port]; there {
			taken = append(taken, describe(want.Cluster, want.Port, who))
		}
	}
	return taken, nil
}
