package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/route/gateway/install"
)

const (
	// askTimeout is how long a gateway may take to answer a question of the platform: one that takes longer is waited for.
	askTimeout = 3 * time.Second
	// askTogether bounds the questions that are under way to the gateways of one cluster.
	askTogether = 32
	// fresh is how long an answer is good for others that ask the same.
	fresh = 100 * time.Millisecond
	// maxAnswers are remembered at most.
	maxAnswers = 4096
	// maxBody of an answer: metrics of many services are large.
	maxBody = 32 << 20
)

// Ports at which a gateway's pod answers.
type Ports struct {
	// Web has what edges send, Internal the metrics, and Gauge the number of connections.
	Web, Internal, Gauge int32
}

// DefaultPorts are those of the gateway that the platform runs.
var DefaultPorts = Ports{Web: install.WebPort, Internal: install.InternalPort, Gauge: install.GaugePort}

// Asker asks the gateways of members, through the members' API servers.
type Asker struct {
	ports Ports

	mu      sync.Mutex
	clients map[string]*asked
}

// asked is one cluster.
type asked struct {
	member  *member.Member
	base    *url.URL
	http    *http.Client
	turns   chan struct{}
	mu      sync.Mutex
	answers map[string]*Answer
}

// Answer of one gateway.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Err    error

	at   time.Time
	done chan struct{}
}

// NewAsker makes an Asker for gateways with such ports.
func NewAsker(ports Ports) *Asker { return &Asker{ports: ports, clients: map[string]*asked{}} }

// Pods are the gateways of a member that are ready, in the order of their names: also one that ends, for as long as it
// still takes requests.
func Pods(ctx context.Context, m *member.Member) ([]*corev1.Pod, error) {
	_, pods, err := m.NodesAndPods(ctx)
	if err != nil {
		return nil, err
	}
	var out []*corev1.Pod
	for i := range pods {
		p := &pods[i]
		if p.Namespace == v1alpha1.GatewayNamespace && p.Status.PodIP != "" && podReady(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Ask asks the pods the same question at the same time, and gives the answers in their order.
func (a *Asker) Ask(ctx context.Context, m *member.Member, pods []*corev1.Pod, port int32, path string, header http.Header) []*Answer {
	out := make([]*Answer, len(pods))
	c, err := a.cluster(m)
	if err != nil {
		for i := range out {
			out[i] = &Answer{Err: err}
		}
		return out
	}
	var group sync.WaitGroup
	for i, pod := range pods {
		group.Go(func() { out[i] = c.ask(ctx, pod.Name, port, path, header) })
	}
	group.Wait()
	return out
}

// cluster gives what questions to a member go through; a member that was joined anew has another.
func (a *Asker) cluster(m *member.Member) (*asked, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.clients[m.Name]; c != nil && c.member == m {
		return c, nil
	}
	base, _, err := rest.DefaultServerUrlFor(m.Config)
	if err != nil {
		return nil, fmt.Errorf("finding the API server of cluster %s: %w", m.Name, err)
	}
	client, err := rest.HTTPClientFor(m.Config)
	if err != nil {
		return nil, fmt.Errorf("making connections to cluster %s: %w", m.Name, err)
	}
	// The answers are redirects, and lead nowhere.
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &asked{member: m, base: base, http: &own, turns: make(chan struct{}, askTogether), answers: map[string]*Answer{}}
	a.clients[m.Name] = c
	return c, nil
}

// ask gives a fresh answer, or that of a question that is under way, or asks.
func (c *asked) ask(ctx context.Context, pod string, port int32, path string, header http.Header) *Answer {
	key := fmt.Sprintf("%s:%d%s", pod, port, path)
	c.mu.Lock()
	known := c.answers[key]
	if known == nil || known.ended() && time.Since(known.at) > fresh {
		if len(c.answers) >= maxAnswers {
			clear(c.answers)
		}
		known = &Answer{done: make(chan struct{})}
		c.answers[key] = known
		go c.send(context.WithoutCancel(ctx), known, pod, port, path, header)
	}
	c.mu.Unlock()
	select {
	case <-known.done:
		return known
	case <-ctx.Done():
		return &Answer{Err: ctx.Err()}
	}
}

func (a *Answer) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// send asks one pod through the API server.
func (c *asked) send(ctx context.Context, a *Answer, pod string, port int32, path string, header http.Header) {
	defer close(a.done)
	defer func() { a.at = time.Now() }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
	case <-ctx.Done():
		a.Err = errors.New("too many questions are under way")
		return
	}
	u := c.base.JoinPath("api/v1/namespaces", v1alpha1.GatewayNamespace, "pods", fmt.Sprintf("%s:%d", pod, port), "proxy", path)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		a.Err = err
		return
	}
	if header != nil {
		r.Header = header.Clone()
	}
	response, err := c.http.Do(r)
	if err != nil {
		a.Err = err
		return
	}
	defer func() { _ = response.Body.Close() }()
	a.Status, a.Header = response.StatusCode, response.Header
	a.Body, a.Err = io.ReadAll(io.LimitReader(response.Body, maxBody))
}

// generation reads an answer to a marker: the text between the prefix and the domain.
func (a *Answer) generation(prefix string) string {
	location, err := url.Parse(a.Header.Get("Location"))
	if a.Err != nil || err != nil {
		return ""
	}
	host := location.Hostname()
	if !strings.HasPrefix(host, prefix) || !strings.HasSuffix(host, answerDomain) {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, prefix), answerDomain)
}

// describe says for people what was answered in place of what should have been.
func (a *Answer) describe() string {
	if a.Err != nil {
		return "does not answer: " + a.Err.Error()
	}
	if a.Status == http.StatusServiceUnavailable && strings.Contains(string(a.Body), "error trying to reach service") {
		return "does not answer"
	}
	return "serves an older table"
}
