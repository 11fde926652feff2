package request

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

const (
	// soon is how soon it is looked again at what the platform itself is doing.
	soon = time.Second
	// inUse is how often it is looked again at a partition in which something is.
	inUse = 20 * time.Second
)

// allocate is the action that gives what was approved.
type allocate struct{ *Requests }

// approved is what allocate is given: what was asked for and what was approved of it.
type approved struct {
	input

	Asked   corev1.ResourceList `json:"asked"`
	Quota   corev1.ResourceList `json:"quota"`
	Until   string              `json:"until"`
	Cluster string              `json:"cluster"`
}

// Describe tells the action's inputs and outputs.
func (*allocate) Describe() action.Description {
	return action.Description{
		Name: "request.allocate", Internal: true, Timeout: action.NoTimeout,
		Summary: "Makes, changes, extends or takes back the partition that a resource request is about, and raises the tenant's quota by what is lacking.",
		Inputs: append([]action.Field{
			{Name: "asked", Type: v1alpha1.TypeObject, Doc: "What was asked for: no more is given."},
			{Name: "quota", Type: v1alpha1.TypeObject, Doc: "What was approved.", Default: "asked"},
			{Name: "until", Type: v1alpha1.TypeString, Doc: "The end that was approved, as RFC 3339 or a date; no later than the one asked for, which it is if empty."},
			{Name: "cluster", Type: v1alpha1.TypeString, Doc: "The cluster of a new partition."},
		}, inputFields...),
		Outputs: []action.Field{
			{Name: "cluster", Type: v1alpha1.TypeString, Doc: "Where the partition is."},
			{Name: "partition", Type: v1alpha1.TypeString, Doc: "The partition."},
			{Name: "quota", Type: v1alpha1.TypeObject, Doc: "What was given."},
			{Name: "until", Type: v1alpha1.TypeString, Doc: "The end, as RFC 3339; empty for none."},
			{Name: "remarks", Type: v1alpha1.TypeString, Doc: "Where less was given than approved, and why."},
			{Name: "returned", Type: v1alpha1.TypeBoolean, Doc: "The partition was given back."},
		},
	}
}

// Run gives what was approved. However often it is called, it is given once.
func (a *allocate) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	in := approved{}
	if err := call.Decode(&in); err != nil {
		return action.Outcome{}, err
	}
	req, err := a.request(ctx, call, &in.input)
	if err != nil {
		return action.Outcome{}, err
	}
	p, err := a.partition(ctx, req.Namespace, req.Spec.Wanted.Partition)
	if err != nil {
		return action.Outcome{}, err
	}
	if !isApplied(p, req.UID) { // otherwise it was given, and only the answer was lost
		if err := open(req); err != nil {
			return action.Outcome{}, err
		}
		if err := a.allowed(ctx, req); err != nil {
			return action.Outcome{}, err
		}
	}
	if req.Spec.Wanted.Type == v1alpha1.RequestReturn {
		return a.takeReturned(ctx, call, req, p)
	}
	out, err := a.give(ctx, call, req, p, &in)
	if action.IsFailed(err) {
		// What was begun is taken back at once: the engine undoes only steps that succeeded.
		if _, _, terr := a.takeBack(ctx, req); terr != nil {
			return out, fmt.Errorf("%w; taking back what was given of it: %w", err, terr)
		}
	}
	return out, err
}

func (a *allocate) give(ctx context.Context, call *action.Call, req *v1alpha1.ResourceRequest, p *v1alpha1.Partition, in *approved) (action.Outcome, error) {
	isNew := req.Spec.Wanted.Type == v1alpha1.RequestNew
	var current corev1.ResourceList
	if !isNew {
		if p == nil {
			return action.Outcome{}, action.Failed(fmt.Errorf("partition %s does not exist any more", req.Spec.Wanted.Partition))
		}
		var err error
		if current, err = quotaOf(p); err != nil {
			return action.Outcome{}, err
		}
	}
	decided, remarks, err := a.decide(req, p, current, in)
	if err != nil {
		return action.Outcome{}, err
	}
	if isNew && p == nil {
		if err := clusterThere(ctx, a.reader, decided.Cluster); err != nil {
			return action.Outcome{}, err
		}
	}
	if err := call.Fence(ctx); err != nil {
		return action.Outcome{}, err
	}
	if !isApplied(p, req.UID) {
		if decided, err = a.reserve(ctx, req, current, decided.Quota, decided); err != nil {
			return action.Outcome{}, err
		}
	} else if decided, err = a.decided(ctx, req, decided); err != nil {
		return action.Outcome{}, err
	}
	moved := req.Spec.Wanted.Until != nil || in.Until != ""
	if isNew {
		err = a.make(ctx, req, decided, moved)
	} else {
		err = a.change(ctx, req, decided, moved)
	}
	if err != nil {
		return action.Outcome{}, err
	}
	call.Log("partition %s in cluster %s: %s, until %s", decided.Partition, decided.Cluster, words(decided.Quota), day(decided.Until))
	return action.Done(outputs(decided, remarks, false)), nil
}

// decide joins what was asked for and what was approved: the lesser of the two.
func (a *allocate) decide(req *v1alpha1.ResourceRequest, p *v1alpha1.Partition, current corev1.ResourceList, in *approved) (*v1alpha1.GrantedResources, []string, error) {
	wanted := &req.Spec.Wanted
	g := &v1alpha1.GrantedResources{Partition: wanted.Partition, Cluster: in.Cluster, Quota: current, Until: wanted.Until}
	if p != nil {
		g.Cluster = p.Spec.Cluster
	}
	if p != nil && wanted.Until == nil && wanted.Type != v1alpha1.RequestNew {
		var err error
		if g.Until, err = endOf(p); err != nil {
			return nil, nil, err
		}
	}
	var remarks []string
	if wanted.Type == v1alpha1.RequestNew || wanted.Type == v1alpha1.RequestChange {
		var quota corev1.ResourceList
		quota, remarks = grant(in.Asked, in.Quota, current)
		if err := sound(quota); err != nil {
			return nil, nil, err
		}
		g.Quota = over(current, quota)
	}
	if in.Until == "" {
		return g, remarks, nil
	}
	end, err := moment(in.Until)
	if err != nil {
		return nil, nil, action.Failed(fmt.Errorf("until was approved as %.50q: %w", in.Until, err))
	}
	switch {
	case wanted.Until != nil && end.After(wanted.Until.Time):
		remarks = append(remarks, fmt.Sprintf("%s was approved as the end, but %s is given, which was asked for", day(end), day(wanted.Until)))
	case !isApplied(p, req.UID) && !end.After(a.Now()):
		return nil, nil, action.Failed(fmt.Errorf("%s was approved as the end, which has passed", day(end)))
	default:
		g.Until = end
	}
	return g, remarks, nil
}

// moment reads a time, or a date, of which all the day counts.
func moment(text string) (*metav1.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return &metav1.Time{Time: t.UTC()}, nil
	}
	t, err := time.ParseInLocation(time.DateOnly, text, time.Local)
	if err != nil {
		return nil, fmt.Errorf("give a date such as 2027-03-31, or a time such as 2027-03-31T16:00:00Z")
	}
	return &metav1.Time{Time: t.AddDate(0, 0, 1).Add(-time.Second).UTC()}, nil
}

// decided is what was decided when the request was first carried out.
func (a *allocate) decided(ctx context.Context, req *v1alpha1.ResourceRequest, now *v1alpha1.GrantedResources) (*v1alpha1.GrantedResources, error) {
	err := a.alter(ctx, req.Namespace, func(tenant *v1alpha1.Tenant) (bool, error) {
		m, err := markOf(tenant, req.Spec.Wanted.Partition)
		if e := m.of(req.UID); e != nil && e.Granted != nil {
			now = e.Granted
		}
		return false, err
	})
	return now, err
}

// quotaOf is the quota that a partition has, or had before it was frozen.
func quotaOf(p *v1alpha1.Partition) (corev1.ResourceList, error) {
	p = p.DeepCopy()
	if err := thaw(p); err != nil {
		return nil, err
	}
	return over(p.Spec.Quota, nil), nil
}

func outputs(g *v1alpha1.GrantedResources, remarks []string, returned bool) map[string]any {
	quota := map[string]string{}
	for name, q := range g.Quota {
		quota[string(name)] = q.String()
	}
	return map[string]any{
		"cluster": g.Cluster, "partition": g.Partition, "quota": quota, "until": timeText(g.Until),
		"remarks": strings.Join(remarks, "; "), "returned": returned,
	}
}

// kept is what the taking back of a partition remembers of it.
type kept struct {
	Partition types.UID `json:"partition"`
	Cluster   string    `json:"cluster"`
}

// takeReturned waits until nothing is in the partition any more, and takes it back.
func (a *allocate) takeReturned(ctx context.Context, call *action.Call, req *v1alpha1.ResourceRequest, p *v1alpha1.Partition) (action.Outcome, error) {
	was := kept{}
	known, err := call.Remembered(&was)
	if err != nil {
		return action.Outcome{}, err
	}
	g := &v1alpha1.GrantedResources{Partition: req.Spec.Wanted.Partition, Cluster: was.Cluster}
	if p == nil && !known && !call.Repeated {
		return action.Outcome{}, action.Failed(fmt.Errorf("partition %s does not exist any more", g.Partition))
	}
	if p == nil || known && p.UID != was.Partition {
		if err := a.giveBack(ctx, req.Namespace, g.Partition, req.UID); err != nil {
			return action.Outcome{}, err
		}
		return action.Done(outputs(g, nil, true)), nil
	}
	was = kept{p.UID, p.Spec.Cluster}
	current, err := quotaOf(p)
	if err != nil {
		return action.Outcome{}, err
	}
	if err := call.Fence(ctx); err != nil {
		return action.Outcome{}, err
	}
	if _, err := a.reserve(ctx, req, current, current, g); err != nil {
		return action.Outcome{}, err
	}
	out, err := a.empty(ctx, p)
	out.State = was
	return out, err
}

// empty deletes a partition if nothing is in it, and says what it waits for.
func (r *Requests) empty(ctx context.Context, p *v1alpha1.Partition) (action.Outcome, error) {
	if !p.DeletionTimestamp.IsZero() {
		return action.Again(soon, fmt.Sprintf("partition %s is being deleted", p.Name)), nil
	}
	occupants, err := r.occupants(ctx, p)
	if err != nil {
		return action.Outcome{}, err
	}
	if len(occupants) > 0 {
		out := action.Again(inUse, stillInUse(p.Name, occupants))
		out.Waiting = true
		return out, nil
	}
	if err := r.remove(ctx, p); err != nil {
		return action.Outcome{}, err
	}
	return action.Again(soon, fmt.Sprintf("partition %s is being deleted", p.Name)), nil
}

func stillInUse(partition string, occupants []string) string {
	const most = 5
	more := ""
	if len(occupants) > most {
		more, occupants = fmt.Sprintf(" and %d more", len(occupants)-most), occupants[:most]
	}
	return fmt.Sprintf("partition %s is still in use: %s%s; it is given back as soon as they are removed from it", partition, strings.Join(occupants, ", "), more)
}

// release is the action that takes back what allocate gave, when the request comes to nothing.
type release struct{ *Requests }

// Describe tells the action's inputs and outputs.
func (*release) Describe() action.Description {
	return action.Description{
		Name: "request.release", Internal: true, Timeout: action.NoTimeout,
		Summary: "Takes back what was given for a resource request that has not become active.",
		Inputs:  inputFields,
		Outputs: []action.Field{{Name: "released", Type: v1alpha1.TypeBoolean, Doc: "Something was taken back."}},
	}
}

// Run takes back until nothing of it is left. What people use already is not taken from them.
func (a *release) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	req, err := a.asked(ctx, call)
	if err != nil {
		return action.Outcome{}, err
	}
	if wasActive(req) {
		call.Log("the request is active: it is given back at the end of its term, or when somebody asks for it")
		return action.Done(map[string]any{"released": false}), nil
	}
	if err := call.Fence(ctx); err != nil {
		return action.Outcome{}, err
	}
	done, message, err := a.takeBack(ctx, req)
	switch {
	case err != nil:
		return action.Outcome{}, err
	case !done:
		return action.Again(soon, message), nil
	}
	return action.Done(map[string]any{"released": true}), nil
}

func wasActive(req *v1alpha1.ResourceRequest) bool {
	for _, h := range req.Status.History {
		if h.Phase == v1alpha1.RequestActive {
			return true
		}
	}
	return false
}

// takeBack undoes what was done for a request. It says whether nothing of it is left, and otherwise what it waits for.
func (r *Requests) takeBack(ctx context.Context, req *v1alpha1.ResourceRequest) (done bool, message string, err error) {
	p, err := r.partition(ctx, req.Namespace, req.Spec.Wanted.Partition)
	if err != nil {
		return false, "", err
	}
	if isApplied(p, req.UID) && p.DeletionTimestamp.IsZero() && req.Spec.Wanted.Type != v1alpha1.RequestNew {
		if err := r.restore(ctx, req); err != nil {
			return false, "", err
		}
	}
	if isApplied(p, req.UID) && req.Spec.Wanted.Type == v1alpha1.RequestNew {
		out, err := r.empty(ctx, p)
		return false, out.Message, err
	}
	return true, "", r.unreserve(ctx, req)
}
