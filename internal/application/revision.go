package application

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/placement"
)

// keptRevisions is the number of revisions kept besides those in use.
const keptRevisions = 10

// hashBytes is the length of a revision's hash before it is written in hexadecimal.
const hashBytes = 5

// revision is the snapshot of the application as it is now. The same content has the same name; its number is that of
// the revision that exists, or one more than the highest.
func (w *world) revision(choices []placement.Choice) (*v1alpha1.ApplicationRevision, error) {
	pins, err := w.pins(choices)
	if err != nil {
		return nil, err
	}
	spec := v1alpha1.ApplicationRevisionSpec{
		Application: w.app.Name, Version: w.app.Spec.Version, Chart: w.app.Spec.Chart,
		Components: withoutReplicas(w.app.Spec.Components), Configurations: pins,
	}
	for _, choice := range choices {
		if len(choice.Overrides) > 0 {
			spec.Overrides = append(spec.Overrides, v1alpha1.PartitionOverrides{Partition: choice.Partition.Name, Overrides: choice.Overrides})
		}
	}
	slices.SortFunc(spec.Overrides, func(a, b v1alpha1.PartitionOverrides) int { return cmp.Compare(a.Partition, b.Partition) })
	hash, err := hashOf(spec)
	if err != nil {
		return nil, err
	}
	name := w.app.Name + "-" + hash
	if existing := w.revisions[name]; existing != nil {
		return existing, nil
	}
	for _, r := range w.revisions {
		spec.Number = max(spec.Number, r.Spec.Number)
	}
	spec.Number++
	return &v1alpha1.ApplicationRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.app.Namespace, Name: name, Labels: map[string]string{v1alpha1.LabelApplication: w.app.Name},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.app, v1alpha1.GroupVersion.WithKind("Application"))},
		},
		Spec: *spec.DeepCopy(),
	}, nil
}

// hashOf names content.
func hashOf(spec v1alpha1.ApplicationRevisionSpec) (string, error) {
	text, err := canonical(spec)
	if err != nil {
		return "", fmt.Errorf("hashing the revision: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:hashBytes]), nil
}

// canonical is the content of a revision without its number. It goes through a map so that the order of fields in a Go
// type, which may change with a library, is no part of it.
func canonical(spec v1alpha1.ApplicationRevisionSpec) ([]byte, error) {
	spec.Number = 0
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err //nolint:wrapcheck // callers say what for
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err //nolint:wrapcheck // callers say what for
	}
	return json.Marshal(fields) //nolint:wrapcheck // callers say what for
}

// sameComponents is the revision whose version and components the application has: the current one, the one that a rollout
// should bring or should have brought, or the one that a rollback names; nil if they are new.
func (w *world) sameComponents() *v1alpha1.ApplicationRevision {
	mine, err := contentOf(w.app.Spec.Version, w.app.Spec.Components, w.app.Spec.Chart)
	if err != nil {
		return nil
	}
	for _, r := range []*v1alpha1.ApplicationRevision{
		w.revisions[w.app.Annotations[v1alpha1.AnnotationRollbackTo]], w.revisions[announced(w.app)], w.current(),
	} {
		if r == nil {
			continue
		}
		if theirs, err := contentOf(r.Spec.Version, r.Spec.Components, r.Spec.Chart); err == nil && theirs == mine {
			return r
		}
	}
	return nil
}

func contentOf(version string, components []v1alpha1.Component, chart *v1alpha1.Chart) (string, error) {
	return hashOf(v1alpha1.ApplicationRevisionSpec{Version: version, Components: withoutReplicas(components), Chart: chart})
}

// pinned is the version of a configuration in a revision.
func pinned(r *v1alpha1.ApplicationRevision, name, otherwise string) string {
	for _, pin := range r.Spec.Configurations {
		if pin.Name == name {
			return pin.Version
		}
	}
	return otherwise
}

// withoutReplicas copies components as far as a revision holds them: numbers of replicas, order and policy of placement
// are not part of it.
func withoutReplicas(components []v1alpha1.Component) []v1alpha1.Component {
	copied := slices.Clone(components)
	for i := range copied {
		copied[i].Replicas = nil
		copied[i].Placement = ""
	}
	return copied
}

// ensureRevision creates the plan's revision if it does not exist, numbered after the newest there is, and prunes.
func (r *Reconciler) ensureRevision(ctx context.Context, w *world, p *Plan) error {
	if p.Revision.ResourceVersion != "" {
		return nil
	}
	if w.app.Generation > 1 {
		// The cache may not have the last revision yet, and no number is given twice.
		var list v1alpha1.ApplicationRevisionList
		err := r.live.List(ctx, &list, client.InNamespace(w.app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: w.app.Name})
		if err != nil {
			return fmt.Errorf("numbering the revision: %w", err)
		}
		for i := range list.Items {
			p.Revision.Spec.Number = max(p.Revision.Spec.Number, list.Items[i].Spec.Number+1)
		}
	}
	wanted := p.Revision.DeepCopy()
	if err := r.client.Create(ctx, p.Revision); apierrors.IsAlreadyExists(err) {
		return r.adoptRevision(ctx, w.app, wanted)
	} else if err != nil {
		return fmt.Errorf("creating revision %s: %w", wanted.Name, err)
	}
	return r.pruneRevisions(ctx, w, p.Revision.Name)
}

// adoptRevision makes sure that a revision of this name, and so with this content, goes with this application: one that
// was left by a deleted application, or came out of a backup, would be taken away with its former owner.
func (r *Reconciler) adoptRevision(ctx context.Context, app *v1alpha1.Application, wanted *v1alpha1.ApplicationRevision) error {
	existing := &v1alpha1.ApplicationRevision{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(wanted), existing); err != nil {
		return fmt.Errorf("reading revision %s: %w", wanted.Name, err)
	}
	if metav1.IsControlledBy(existing, app) {
		return nil
	}
	existing.OwnerReferences, existing.Labels = wanted.OwnerReferences, wanted.Labels
	if err := r.client.Update(ctx, existing); err != nil {
		return fmt.Errorf("adopting revision %s: %w", wanted.Name, err)
	}
	return nil
}

// pruneRevisions deletes the oldest revisions that nothing runs.
func (r *Reconciler) pruneRevisions(ctx context.Context, w *world, newest string) error {
	old := slices.SortedFunc(maps.Values(w.revisions), func(a, b *v1alpha1.ApplicationRevision) int {
		return cmp.Compare(b.Spec.Number, a.Spec.Number)
	})
	used := w.usedRevisions()
	for i, revision := range old {
		// The newest, which is not in the cache yet, is one of those kept.
		if i < keptRevisions-1 || used[revision.Name] || revision.Name == newest {
			continue
		}
		if err := r.client.Delete(ctx, revision); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting old revision %s: %w", revision.Name, err)
		}
	}
	return nil
}

// usedRevisions are those that a delivery should have or has, and those between which rollouts move.
func (w *world) usedRevisions() map[string]bool {
	used := map[string]bool{w.app.Status.Revision: true, w.app.Annotations[v1alpha1.AnnotationRollbackTo]: true, announced(w.app): true}
	for _, o := range w.rollouts {
		used[o.Spec.From], used[o.Spec.To] = true, true
	}
	for _, d := range w.deliveries {
		for _, track := range d.Spec.Tracks {
			used[track.Revision] = true
		}
		for _, name := range deliveredRevisions(d) {
			used[name] = true
		}
	}
	return used
}

// deliveredRevisions are those that a partition was last seen to have.
func deliveredRevisions(d *v1alpha1.Delivery) []string {
	var names []string
	for _, track := range d.Status.Tracks {
		names = append(names, track.Revision)
		for i := range track.Components {
			names = append(names, track.Components[i].Revision)
		}
	}
	return names
}

func isReady(conditions []metav1.Condition) bool {
	return meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionReady)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// inOrder gives the deliveries by the names of their partitions.
func inOrder(deliveries map[string]*v1alpha1.Delivery) []*v1alpha1.Delivery {
	all := make([]*v1alpha1.Delivery, 0, len(deliveries))
	for _, partition := range sortedKeys(deliveries) {
		all = append(all, deliveries[partition])
	}
	return all
}
