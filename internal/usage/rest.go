package usage

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// defaultRange is what is shown if nothing else is asked for.
	defaultRange = day
	// wantedPoints is how many points a line gets if no step is asked for; maxPoints how many it may have.
	wantedPoints = 300
	maxPoints    = 2000
)

// API answers with the history.
type API struct {
	*History

	Authorizer *rest.Authorizer
}

// Routes are the API's.
func (a *API) Routes() []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/usage", Handler: rest.Get(a.get)}}
}

// Answer is the history of one partition or tenant.
type Answer struct {
	Tenant string `json:"tenant"`
	// Partition is empty for the tenant's sum over its partitions, whose hard is the tenant's quota.
	Partition string    `json:"partition,omitempty"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	// Step is the distance of points in seconds.
	Step   int64    `json:"step"`
	Series []Series `json:"series"`
}

// Series is one resource over time.
type Series struct {
	Resource corev1.ResourceName `json:"resource"`
	Points   []Point             `json:"points"`
}

// Point is what was used during the step that begins at At: on average, at most, and of how much. CPU is in cores,
// memory and storage in bytes, the rest in pieces. Without a quota Hard is missing; where nothing was seen there is no
// point.
type Point struct {
	At   time.Time `json:"at"`
	Used float64   `json:"used"`
	Peak float64   `json:"peak"`
	Hard *float64  `json:"hard,omitempty"`
}

// question is what a request asks for.
type question struct {
	subject

	from, to  time.Time
	step      time.Duration
	resources []string
}

func (a *API) get(r *http.Request) (*Answer, error) {
	q, err := a.question(r.URL.Query())
	if err != nil {
		return nil, err
	}
	may := authorizationv1.ResourceAttributes{Verb: "get", Group: v1alpha1.GroupVersion.Group, Resource: "tenants", Name: q.tenant}
	if q.partition != "" {
		may.Resource, may.Namespace, may.Name = "partitions", q.tenant, q.partition
	}
	if err := a.Authorizer.Require(r.Context(), may); err != nil {
		return nil, err
	}
	return a.answer(r.Context(), q)
}

func (a *API) question(query url.Values) (*question, error) {
	for _, key := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains([]string{"tenant", "partition", "from", "to", "step", "resource"}, key) {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("there is no %q: ask with tenant, partition, from, to, step and resource", key))
		}
	}
	q := &question{subject: subject{query.Get("tenant"), query.Get("partition")}, resources: query["resource"]}
	if q.tenant == "" {
		return nil, apierrors.NewBadRequest("whose usage? Give tenant, and partition for one of its partitions")
	}
	var err error
	if q.to, err = moment(query, "to", a.now()); err != nil {
		return nil, err
	}
	if q.from, err = moment(query, "from", q.to.Add(-defaultRange)); err != nil {
		return nil, err
	}
	length := q.to.Sub(q.from)
	if length <= 0 || length > forever+day {
		return nil, apierrors.NewBadRequest("from must be before to, and not more than two years")
	}
	q.step = max(a.interval(), (length / wantedPoints).Truncate(time.Minute))
	if text := query.Get("step"); text != "" {
		if q.step, err = time.ParseDuration(text); err != nil || q.step < time.Second || length/q.step > maxPoints {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("step=%q: give a duration such as 5m or 1h, with at most %d steps between from and to", text, maxPoints))
		}
	}
	return q, nil
}

// moment reads a time, as RFC 3339 or in seconds since 1970.
func moment(query url.Values, key string, byDefault time.Time) (time.Time, error) {
	text := query.Get(key)
	if text == "" {
		return byDefault.UTC(), nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, apierrors.NewBadRequest(fmt.Sprintf("%s=%q: give a time such as 2026-01-31T12:00:00Z, or seconds since 1970", key, text))
	}
	return t.UTC(), nil
}

func (a *API) answer(ctx context.Context, q *question) (*Answer, error) {
	means, err := a.means(ctx, q.subject, q.from, q.to, q.step)
	if err != nil {
		return nil, err
	}
	answer := &Answer{Tenant: q.tenant, Partition: q.partition, From: q.from, To: q.to, Step: int64(q.step / time.Second), Series: []Series{}}
	series := map[corev1.ResourceName][]Point{}
	for _, at := range slices.Sorted(maps.Keys(means)) {
		for name, v := range means[at].out {
			if len(q.resources) == 0 || slices.Contains(q.resources, string(name)) {
				series[name] = append(series[name], Point{At: time.Unix(at, 0).UTC(), Used: v.Used, Peak: v.Peak, Hard: v.Hard})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(series)) {
		answer.Series = append(answer.Series, Series{Resource: name, Points: series[name]})
	}
	return answer, nil
}

// Over says what of each resource was used in a partition between two times. Without samples it is empty.
func (h *History) Over(ctx context.Context, tenant, partition string, from, to time.Time) (map[corev1.ResourceName]Point, error) {
	// One step from the beginning of all time holds all of it.
	means, err := h.means(ctx, subject{tenant, partition}, from, to, time.Duration(math.MaxInt64))
	if err != nil {
		return nil, err
	}
	out := map[corev1.ResourceName]Point{}
	for _, whole := range means {
		for name, v := range whole.out {
			out[name] = Point{At: from.UTC(), Used: v.Used, Peak: v.Peak, Hard: v.Hard}
		}
	}
	return out, nil
}

// means reads samples into steps, by the second at which each begins.
func (h *History) means(ctx context.Context, of subject, from, to time.Time, every time.Duration) (map[int64]*mean, error) {
	means := map[int64]*mean{}
	step := int64(every / time.Second)
	err := h.Records.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			var at, seconds int64
			var text string
			if err := scan(&at, &seconds, &text); err != nil {
				return err
			}
			values, err := decode(text)
			if err != nil {
				return err
			}
			at -= at % step
			if means[at] == nil {
				means[at] = newMean()
			}
			means[at].add(values, seconds)
			return nil
		}, `SELECT at, span, amounts FROM usage_samples WHERE tenant = ? AND partition = ? AND at >= ? AND at < ? ORDER BY at`,
			of.tenant, of.partition, from.Unix(), to.Unix())
	})
	if err != nil {
		return nil, fmt.Errorf("reading the history of usage: %w", err)
	}
	return means, nil
}
