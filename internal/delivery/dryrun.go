package delivery

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

// Action is what would happen to an object.
type Action string

// The actions of a preview.
const (
	Create    Action = "Create"
	Update    Action = "Update"
	Unchanged Action = "Unchanged"
	Remove    Action = "Remove"
	Refuse    Action = "Refuse"
)

// Change is what would become of one object of a member.
type Change struct {
	Component string `json:"component,omitempty"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Action    Action `json:"action"`
	// Fields that would change, as "path: old → new". Values of Secrets are never in it.
	Fields []string `json:"fields,omitempty"`
	// Reason and Error say why the member would refuse the object or its pods.
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Preview says what delivering would change.
type Preview struct {
	// Hub is read for configurations; it must not be a cache that leaves out Secrets and ConfigMaps.
	Hub     client.Reader
	Members member.Lookup
}

// DryRun says what delivering a revision to a partition would create, change and remove there. The member itself is
// asked, as the identity of the partition, and writes nothing. The revision need not exist; what runs beside it is not
// looked at. Inventory is that of the Delivery there is; nil if there is none.
func (p *Preview) DryRun(ctx context.Context, partition *v1alpha1.Partition, revision *v1alpha1.ApplicationRevision,
	spec v1alpha1.DeliverySpec, inventory []v1alpha1.InventoryEntry,
) ([]Change, error) {
	m, ok := p.Members.Member(partition.Spec.Cluster)
	if !ok {
		return nil, fmt.Errorf("cluster %s of partition %s cannot be reached: there is no preview of it", partition.Spec.Cluster, partition.Name)
	}
	track := spec.Track(v1alpha1.TrackStable).DeepCopy()
	track.Revision, spec.Tracks = revision.Name, []v1alpha1.Track{*track}
	plan, err := newPlan(ctx, p.Hub, partition, map[string]*v1alpha1.ApplicationRevision{revision.Name: revision}, spec)
	if err != nil {
		return nil, err
	}
	as, err := m.As(plan.namespace)
	if err != nil {
		return nil, err
	}
	targets := sharedTargets(plan)
	for _, c := range plan.components {
		targets = append(targets, c.targets...)
	}
	changes := make([]Change, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, t := range targets {
		group.Go(func() (err error) {
			changes[i], err = try(ctx, as, t, plan.adopted)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("trying on cluster %s: %w", partition.Spec.Cluster, err)
	}
	var removed []Change
	for _, e := range inventory {
		if !slices.ContainsFunc(targets, func(t *target) bool { return same(t.entry, e) }) {
			removed = append(removed, Change{Component: e.Component, Kind: e.Kind, Name: e.Name, Action: Remove})
		}
	}
	return slices.Concat(changes, removed), nil
}

// try applies one target without effect.
func try(ctx context.Context, as client.Client, t *target, adopted bool) (Change, error) {
	change := Change{Component: t.entry.Component, Kind: t.entry.Kind, Name: t.entry.Name}
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(gvkOfEntry(t.entry))
	err := as.Get(ctx, client.ObjectKey{Namespace: t.key.Namespace, Name: t.key.Name}, live)
	exists := err == nil
	if client.IgnoreNotFound(err) != nil && !apierrors.IsForbidden(err) {
		return change, fmt.Errorf("reading %s %s: %w", t.entry.Kind, t.entry.Name, err)
	}
	if exists {
		if mine, owner := ours(live, t.object.GetLabels()); !mine && (!adopted || owner != "") && !edited(live, t.object.GetLabels()) {
			return refusedChange(change, refuseForeign(t, owner)), nil
		}
	}
	answer := t.object.DeepCopy()
	ctx, warnings := member.CollectWarnings(ctx)
	if err := serverSideApply(ctx, as, answer, true, client.DryRunAll); err != nil {
		if refusal := refusalOf(t, err); refusal != nil {
			return refusedChange(change, refusal), nil
		}
		return change, fmt.Errorf("applying %s %s: %w", t.entry.Kind, t.entry.Name, err)
	}
	change.Action = Create
	if exists {
		change.Action = Unchanged
		if change.Fields = diff(live, answer); len(change.Fields) > 0 {
			change.Action = Update
		}
	}
	for _, text := range warnings.Texts() {
		if strings.Contains(text, "would violate PodSecurity") {
			change.Reason, change.Error = v1alpha1.ReasonRefused, "its pods would be refused: "+text
		}
	}
	return change, nil
}

func refusedChange(c Change, f *refusal) Change {
	c.Action, c.Reason, c.Error = Refuse, f.reason, f.message
	return c
}
