// Package request lets tenants ask for resources and keeps account of what they were given: a ResourceRequest is carried
// by a WorkflowRun from the application to the end of its term. The steps are actions of this package; what became of
// every request stands in a ledger that is only ever added to.
package request

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// DefaultNotice is how long before its end the holder of a partition is told. Of a short term it is a quarter.
	DefaultNotice = 7 * 24 * time.Hour
	// DefaultLongest is the longest term that can be asked for.
	DefaultLongest = 10 * 365 * 24 * time.Hour
	// evidenceTime is how far back the use of a partition is looked at.
	evidenceTime = 30 * 24 * time.Hour
	// look is how often a term is read again: whoever sets the clock or the end anew is not slept through.
	look = time.Minute
)

// May says whether an actor may do now what attributes describe. What he might do when he asked does not count.
type May func(ctx context.Context, actor v1alpha1.Actor, attributes authorizationv1.ResourceAttributes) (bool, error)

// Usage tells what a partition used in a time, by resource; of the tenant if partition is empty.
type Usage func(ctx context.Context, tenant, partition string, from, to time.Time) (map[corev1.ResourceName]Used, error)

// Used is what of one resource was used: on average, at most, and of how much at the end; Quota is nil without a bound.
// CPU is in cores, memory and storage in bytes, the rest in pieces.
type Used struct {
	Average float64  `json:"average"`
	Peak    float64  `json:"peak"`
	Quota   *float64 `json:"quota,omitempty"`
}

// Options are what requests need of others.
type Options struct {
	// Records is where the ledger is kept.
	Records *record.Database
	// Namespace is the platform's own, where the Workflow of requests is.
	Namespace string
	// Authorizer decides who sees which requests.
	Authorizer *rest.Authorizer
	// May is asked about applicants when their request is carried out.
	May May
	// Usage is the evidence; nil without any.
	Usage Usage
	// Send tells people; nil tells nobody.
	Send outbound.Send
	// Notice before the end of a term; DefaultNotice if zero. A term shorter than four times that is told of when three
	// quarters of it are over.
	Notice time.Duration
	// Longest term; DefaultLongest if zero.
	Longest time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Requests carries ResourceRequests.
type Requests struct {
	Options

	client client.Client
	reader client.Reader // past the cache, for decisions
	ledger *Ledger
}

// New makes the capability.
func New(mgr manager.Manager, o Options) (*Requests, error) {
	if o.Records == nil || o.May == nil || o.Namespace == "" {
		return nil, errors.New("making resource requests: records, rights and the platform's namespace are needed")
	}
	o.Notice, o.Longest = cmp.Or(o.Notice, DefaultNotice), cmp.Or(o.Longest, DefaultLongest)
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Requests{Options: o, client: mgr.GetClient(), reader: mgr.GetAPIReader(), ledger: &Ledger{Records: o.Records}}, nil
}

// Actions are the steps that a request consists of, for the step engine.
func (r *Requests) Actions() []action.Action {
	return []action.Action{&check{r}, &allocate{r}, &release{r}, &activate{r}, &term{r}, &reclaim{r}}
}

// allowed is an error that trying again does not mend if the applicant may not ask for this, or not any more.
func (r *Requests) allowed(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	if req.Spec.User == nil {
		return action.Failed(errors.New("nobody knows who asks: the platform's admission was not at work when the request was made; make it again"))
	}
	attributes := authorizationv1.ResourceAttributes{
		Group: v1alpha1.GroupVersion.Group, Resource: "resourcerequests", Verb: "create", Namespace: req.Namespace,
	}
	if req.Spec.Wanted.Type != v1alpha1.RequestNew {
		attributes.Resource, attributes.Verb, attributes.Name = "partitions", "deploy", req.Spec.Wanted.Partition
	}
	may, err := r.May(ctx, *req.Spec.User, attributes)
	if err != nil {
		return fmt.Errorf("asking whether %s may ask for this: %w", person(req.Spec.User), err)
	}
	if !may {
		return action.Failed(fmt.Errorf("%s may not ask for this, or not any more: it needs the role Operator or Admin in tenant %s, "+
			"also for partition %s, and a user that is not disabled", person(req.Spec.User), req.Namespace, req.Spec.Wanted.Partition))
	}
	return nil
}

// person is the name of an actor for people: that of the User object, where it is one.
func person(a *v1alpha1.Actor) string {
	if a == nil {
		return "somebody unknown"
	}
	return v1alpha1.PlainName(a.Name)
}

// asked reads the request that a call is about, where the action has no other inputs.
func (r *Requests) asked(ctx context.Context, call *action.Call) (*v1alpha1.ResourceRequest, error) {
	in := input{}
	if err := call.Decode(&in); err != nil {
		return nil, err
	}
	return r.request(ctx, call, &in)
}

// about reads the request that a call is about, and its partition; nil if there is none.
func (r *Requests) about(ctx context.Context, call *action.Call) (*v1alpha1.ResourceRequest, *v1alpha1.Partition, error) {
	req, err := r.asked(ctx, call)
	if err != nil {
		return nil, nil, err
	}
	p, err := r.partition(ctx, req.Namespace, req.Spec.Wanted.Partition)
	return req, p, err
}

// request reads the request of a call past the cache. One that is gone, finished or another of the same name does not go
// on.
func (r *Requests) request(ctx context.Context, call *action.Call, in *input) (*v1alpha1.ResourceRequest, error) {
	req := &v1alpha1.ResourceRequest{}
	key := client.ObjectKey{Namespace: call.Run.Namespace, Name: in.Request}
	if err := r.reader.Get(ctx, key, req); err != nil {
		err = fmt.Errorf("reading request %s: %w", in.Request, err)
		if client.IgnoreNotFound(err) == nil {
			return nil, action.Failed(err)
		}
		return nil, err
	}
	if string(req.UID) != in.UID {
		return nil, action.Failed(fmt.Errorf("request %s is another one than this run was made for", in.Request))
	}
	return req, nil
}

// open refuses to go on with a request that was withdrawn or decided.
func open(req *v1alpha1.ResourceRequest) error {
	switch {
	case req.Spec.Withdrawn:
		return action.Failed(errors.New("the applicant has withdrawn the request"))
	case req.Status.Phase.Finished():
		return action.Failed(fmt.Errorf("the request is %s, which is its end: make another", req.Status.Phase))
	case !req.DeletionTimestamp.IsZero():
		return action.Failed(errors.New("the request is being deleted"))
	}
	return nil
}
