// Package rollout moves applications from one revision to another: it turns a Rollout's strategy into the steps of one
// WorkflowRun, and does these steps. They write the specs of Deliveries and wait for what follows; whatever has happened,
// one step brings everything back to the revision that ran before.
package rollout

import (
	"cmp"
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/traffic"
)

const (
	// defaultDrain is how long requests in flight are waited for if the strategy does not say.
	defaultDrain = time.Minute
	// defaultPatience is how long pods may fail before the step does: what mends itself does so earlier.
	defaultPatience = 30 * time.Second
	// upgradeTime is how long a partition may take to become healthy.
	upgradeTime = 15 * time.Minute
)

// CheckQuota says what a partition's quota does not hold if the revision runs there, with so many pods by component,
// beside all that there is. Nil if it fits. Replicas are by partition.
type CheckQuota func(ctx context.Context, to *v1alpha1.ApplicationRevision, replicas map[string]map[string]int32) error

// Options are what rollouts need of others.
type Options struct {
	// Traffic is asked what has become of what Deliveries want; nil if nothing brings requests.
	Traffic traffic.Traffic
	// CheckQuota is asked before two revisions run side by side; nil if there are no quotas.
	CheckQuota CheckQuota
	// Namespace is the platform's own.
	Namespace string
	// Authorizer decides who sees which rollouts.
	Authorizer *rest.Authorizer
	// Wake has a step that waits called at once: workflow.Engine.Wake. Nil if nobody can; it is looked at by and by then.
	Wake func(run types.NamespacedName, step string)
	// Patience with pods that fail; 30 seconds if zero.
	Patience time.Duration
}

// Rollouts carries Rollouts.
type Rollouts struct {
	Options

	client client.Client
	reader client.Reader // past the cache
	told   told
}

// New makes the capability.
func New(mgr manager.Manager, o Options) (*Rollouts, error) {
	if o.Namespace == "" {
		return nil, errors.New("making rollouts: the platform's namespace is needed")
	}
	if o.Traffic == nil {
		o.Traffic = noTraffic{}
	}
	o.Patience = cmp.Or(o.Patience, defaultPatience)
	return &Rollouts{Options: o, client: mgr.GetClient(), reader: mgr.GetAPIReader()}, nil
}

// Actions are the steps that rollouts consist of, for the step engine.
func (r *Rollouts) Actions() []action.Action {
	return r.actions()
}

// noTraffic is where nobody brings requests.
type noTraffic struct{}

func (noTraffic) Settled(context.Context, *v1alpha1.Delivery) (string, error) { return "", nil }

func (noTraffic) Reaches(context.Context, *v1alpha1.Delivery, v1alpha1.TrackRole) (string, error) {
	return "", nil
}

func (noTraffic) InFlight(context.Context, *v1alpha1.Delivery) (traffic.InFlight, error) {
	return traffic.InFlight{}, nil
}

func (noTraffic) Sample(context.Context, *v1alpha1.Delivery, v1alpha1.TrackRole) (traffic.Sample, error) {
	return traffic.Sample{}, nil
}
