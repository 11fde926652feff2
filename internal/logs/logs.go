// Package logs reads the logs of an application's pods in all its partitions at once.
package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// maxContainers are read at once for one request; more are refused, with the way to ask for fewer.
	maxContainers = 100
	// waitingLines are held for a client that reads more slowly than its pods write; then the pods' logs wait.
	waitingLines = 256
	// maxLine is the longest line that is passed on whole, in bytes.
	maxLine = 64 << 10
	// defaultTail and maxTail are numbers of last lines of each container.
	defaultTail, maxTail = 100, 10_000
	// lookInterval is how often pods that came later are looked for.
	lookInterval = time.Second
	// listTimeout bounds the wait for a member's cache that is still being filled.
	listTimeout = 5 * time.Second
)

// Line is one line of a log, or, if Error is set, why a log cannot be read.
type Line struct {
	Partition string `json:"partition"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	Text      string `json:"text,omitempty"`
	Error     string `json:"error,omitempty"`
}

// API answers with logs.
type API struct {
	Hub        client.Reader
	Members    member.Lookup
	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/tenants/{tenant}/applications/{name}/logs", Handler: a.serve, Stream: true}}
}

// query is what is asked for.
type query struct {
	tenant, application             string
	component, partition, container string
	options                         corev1.PodLogOptions
}

func parse(r *http.Request) (*query, error) {
	values := r.URL.Query()
	q := &query{tenant: r.PathValue("tenant"), application: r.PathValue("name")}
	tail := int64(defaultTail)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value, err := values.Get(key), error(nil)
		switch key {
		case "component":
			q.component = value
		case "partition":
			q.partition = value
		case "container":
			q.container = value
		case "follow":
			q.options.Follow, err = strconv.ParseBool(value)
		case "previous":
			q.options.Previous, err = strconv.ParseBool(value)
		case "timestamps":
			q.options.Timestamps, err = strconv.ParseBool(value)
		case "tail":
			if tail, err = strconv.ParseInt(value, 10, 64); err == nil && (tail < 0 || tail > maxTail) {
				err = fmt.Errorf("give a number from 0 to %d", maxTail)
			}
		default:
			err = errors.New("there are component, partition, container, follow, previous, timestamps and tail")
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%s=%q: %v", key, value, err))
		}
	}
	q.options.TailLines = &tail
	return q, nil
}

// serve answers with one JSON object a line, until all logs are read or, if they are followed, the client goes.
func (a *API) serve(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r)
	if err != nil {
		return err
	}
	if err := a.Authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
		Verb: "get", Group: v1alpha1.GroupVersion.Group, Resource: "applications", Subresource: "log", Namespace: q.tenant, Name: q.application,
	}); err != nil {
		return err
	}
	if err := a.Hub.Get(r.Context(), client.ObjectKey{Namespace: q.tenant, Name: q.application}, &v1alpha1.Application{}); err != nil {
		return fmt.Errorf("reading application %s: %w", q.application, err)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	f := &follower{api: a, query: q, lines: make(chan Line, waitingLines), seen: map[string]bool{}}
	if err := f.look(ctx); err != nil {
		return err
	}
	f.later = true
	go f.run(ctx)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	return write(w, f.lines)
}

// write passes lines on and makes the client see them at once when no more are waiting.
func write(w http.ResponseWriter, lines <-chan Line) error {
	encoder, controller := json.NewEncoder(w), http.NewResponseController(w)
	if err := controller.Flush(); err != nil {
		return fmt.Errorf("writing logs: %w", err)
	}
	for line := range lines {
		if err := encoder.Encode(line); err != nil {
			return nil //nolint:nilerr // the client went, which is how following ends
		}
		if len(lines) == 0 {
			if err := controller.Flush(); err != nil {
				return nil //nolint:nilerr // as above
			}
		}
	}
	return nil
}

// follower reads the logs of every container that fits the query.
type follower struct {
	api   *API
	query *query
	lines chan Line

	readers sync.WaitGroup
	seen    map[string]bool // containers' runs that are or were read, and partitions whose trouble was told
	open    atomic.Int64
	later   bool // the first look is over: what is found now is new
}

// run goes on until all logs are read; if they are followed, it looks for new pods until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer close(f.lines)
	defer f.readers.Wait()
	if !f.query.options.Follow {
		return
	}
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := f.look(ctx); err != nil {
				f.say(ctx, Line{Error: err.Error()})
				return
			}
		}
	}
}

// look starts reading every container that is not being read yet.
func (f *follower) look(ctx context.Context) error {
	deliveries := &v1alpha1.DeliveryList{}
	if err := f.api.Hub.List(ctx, deliveries, client.InNamespace(f.query.tenant), client.MatchingLabels{v1alpha1.LabelApplication: f.query.application}); err != nil {
		return fmt.Errorf("reading the deliveries of application %s: %w", f.query.application, err)
	}
	for i := range deliveries.Items {
		spec := &deliveries.Items[i].Spec
		if f.query.partition != "" && spec.Partition != f.query.partition {
			continue
		}
		if err := f.lookIn(ctx, spec); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) lookIn(ctx context.Context, spec *v1alpha1.DeliverySpec) error {
	m, ok := f.api.Members.Member(spec.Cluster)
	if ok {
		ok, _ = m.Answering()
	}
	if !ok {
		return f.tell(ctx, spec.Partition, fmt.Sprintf("cluster %s does not answer: its logs cannot be read now", spec.Cluster))
	}
	delete(f.seen, "!"+spec.Partition)
	labels := client.MatchingLabels{
		v1alpha1.LabelTenant: f.query.tenant, v1alpha1.LabelPartition: spec.Partition, v1alpha1.LabelApplication: f.query.application,
	}
	if f.query.component != "" {
		labels[v1alpha1.LabelComponent] = f.query.component
	}
	pods := &corev1.PodList{}
	bounded, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	if err := m.Cache.List(bounded, pods, labels, client.UnsafeDisableDeepCopy); err != nil {
		return f.tell(ctx, spec.Partition, "the pods cannot be listed: "+err.Error())
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		for _, status := range pod.Status.ContainerStatuses {
			if f.query.container != "" && f.query.container != status.Name {
				continue
			}
			if err := f.start(ctx, m, spec.Partition, pod, status); err != nil {
				return err
			}
		}
	}
	return nil
}

// start reads a container's log unless that is being done, or was. Each restart has a log of its own.
func (f *follower) start(ctx context.Context, m *member.Member, partition string, pod *corev1.Pod, status corev1.ContainerStatus) error {
	run := fmt.Sprintf("%s/%s/%s/%d", partition, pod.UID, status.Name, status.RestartCount)
	if f.seen[run] || (status.State.Waiting != nil && status.LastTerminationState.Terminated == nil) {
		return nil
	}
	if f.open.Load() >= maxContainers {
		if f.later {
			return nil // it is looked at again when another has ended
		}
		return apierrors.NewBadRequest(fmt.Sprintf("application %s has more than %d containers: ask for one component, partition or container", f.query.application, maxContainers))
	}
	f.seen[run] = true
	f.open.Add(1)
	from, namespace, options := Line{Partition: partition, Pod: pod.Name, Container: status.Name}, pod.Namespace, f.query.options
	options.Container = status.Name
	if f.later {
		options.TailLines = nil
	}
	f.readers.Go(func() {
		defer f.open.Add(-1)
		if err := f.read(ctx, m, namespace, &options, from); err != nil && ctx.Err() == nil {
			from.Error = err.Error()
			f.say(ctx, from)
		}
	})
	return nil
}

func (f *follower) read(ctx context.Context, m *member.Member, namespace string, options *corev1.PodLogOptions, from Line) error {
	clientset, err := kubernetes.NewForConfig(m.Config)
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	stream, err := clientset.CoreV1().Pods(namespace).GetLogs(from.Pod, options).Stream(ctx)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	defer stream.Close()
	reader := bufio.NewReaderSize(stream, maxLine)
	for {
		text, long, err := reader.ReadLine()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("reading the log: %w", err)
		}
		line := from
		if line.Text = string(text); long {
			line.Text += "…"
		}
		if !f.say(ctx, line) {
			return nil
		}
		for long && err == nil { // the rest of a line that is too long is dropped
			_, long, err = reader.ReadLine()
		}
	}
}

// tell says of a partition why its logs cannot be read, once.
func (f *follower) tell(ctx context.Context, partition, trouble string) error {
	if !f.seen["!"+partition] {
		f.seen["!"+partition] = true
		// In the background: nobody reads the lines before the first look is over.
		f.readers.Go(func() { f.say(ctx, Line{Partition: partition, Error: trouble}) })
	}
	return nil
}

func (f *follower) say(ctx context.Context, line Line) bool {
	select {
	case f.lines <- line:
		return true
	case <-ctx.Done():
		return false
	}
}
