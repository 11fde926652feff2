package gateway

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// record is what is known of a partition's objects. It is worked with by one worker at a time, and made anew after a
// restart, when everything is applied once.
type record struct {
	uid     types.UID
	applied map[string]applied
	// known are the referenced objects that all gateways know, and served what all of them serve, by generation.
	known, served string
	// pause until the gateways are asked again.
	pause time.Duration
}

// applied is an object as the member had it when we wrote it.
type applied struct {
	hash       string
	uid        types.UID
	generation int64
	// seen says that the cache has shown it: if it shows it no more, it is gone.
	seen bool
}

// convergence is one reconciliation of a partition.
type convergence struct {
	*reconciler
	rec       *record
	cluster   *v1alpha1.Cluster
	partition *v1alpha1.Partition
	objects   *Objects
	as        client.Client // the identity of the partition
	live      map[string]*metav1.PartialObjectMetadata
}

// converge brings the objects to the member so that no request meets a half of them: what is referenced first, then, when
// all gateways know it, the Routes, then the marker; what is too much goes when all gateways serve the new. It says when
// to look again.
func (r *reconciler) converge(ctx context.Context, rec *record, cluster *v1alpha1.Cluster, p *v1alpha1.Partition, objects *Objects) (time.Duration, error) {
	c := &convergence{reconciler: r, rec: rec, cluster: cluster, partition: p, objects: objects}
	var err error
	if c.as, err = r.member.As(p.MemberNamespace()); err != nil {
		return 0, err
	}
	if c.live, err = c.find(ctx); err != nil {
		return 0, err
	}
	changed, err := c.putAll(ctx, objects.Referenced)
	if err != nil {
		return 0, err
	}
	if objects.Ready != nil && (changed || rec.known != objects.ReferencedGeneration) {
		if _, err := c.putAll(ctx, []*unstructured.Unstructured{objects.Ready}); err != nil {
			return 0, err
		}
		waiting, err := r.gateways.waiting(ctx, r.member, cluster, readyPath(p.MemberNamespace()), "o-", objects.ReferencedGeneration)
		if err != nil {
			return 0, err
		}
		if waiting != "" {
			return rec.later(), nil
		}
		rec.known, rec.pause = objects.ReferencedGeneration, 0
	}
	changed, err = c.putAll(ctx, objects.Routes)
	if err != nil {
		return 0, err
	}
	removed, err := c.remove(ctx, func(kind schema.GroupVersionKind) bool { return kind == kindHTTPRoute })
	if err != nil {
		return 0, err
	}
	if changed || removed || rec.served != objects.Generation {
		rec.served = ""
	}
	return c.confirm(ctx)
}

// confirm writes the marker, and takes away what is too much once all gateways answer with it.
func (c *convergence) confirm(ctx context.Context) (time.Duration, error) {
	if c.objects.Marker != nil {
		if _, err := c.putAll(ctx, []*unstructured.Unstructured{c.objects.Marker}); err != nil {
			return 0, err
		}
		if c.rec.served == "" {
			waiting, err := c.gateways.Waiting(ctx, c.member, c.cluster, c.partition.MemberNamespace(), c.objects.Generation)
			if err != nil {
				return 0, err
			}
			if waiting != "" {
				return c.rec.later(), nil
			}
			c.rec.served, c.rec.pause = c.objects.Generation, 0
		}
	}
	_, err := c.remove(ctx, func(kind schema.GroupVersionKind) bool { return kind != kindHTTPRoute })
	return 0, err
}

// later gives a pause that grows from question to question.
func (rec *record) later() time.Duration {
	rec.pause = min(max(2*rec.pause, confirmFirst), confirmLast)
	return rec.pause
}

func keyOf(kind schema.GroupVersionKind, name string) string { return kind.Kind + "/" + name }

// find gives what the member has of the partition, by kind and name.
func (c *convergence) find(ctx context.Context) (map[string]*metav1.PartialObjectMetadata, error) {
	out := map[string]*metav1.PartialObjectMetadata{}
	for _, kind := range Kinds() {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		err := c.member.Cache.List(ctx, list, client.InNamespace(c.partition.MemberNamespace()), client.HasLabels{LabelRoute})
		if err != nil {
			return nil, fmt.Errorf("listing objects of the kind %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if o.Labels[v1alpha1.LabelTenant] == c.partition.Namespace && o.Labels[v1alpha1.LabelPartition] == c.partition.Name {
				out[keyOf(kind, o.Name)] = o
			}
		}
	}
	return out, nil
}

// putAll applies the objects that the member does not have as they should be.
func (c *convergence) putAll(ctx context.Context, objects []*unstructured.Unstructured) (changed bool, err error) {
	// Kinds that others refer to come first.
	sorted := slices.SortedStableFunc(slices.Values(objects), func(a, b *unstructured.Unstructured) int {
		return slices.Index(Kinds(), a.GroupVersionKind()) - slices.Index(Kinds(), b.GroupVersionKind())
	})
	for _, o := range sorted {
		key := keyOf(o.GroupVersionKind(), o.GetName())
		hash, err := hashOf(o.Object)
		if err != nil {
			return changed, err
		}
		was, live := c.rec.applied[key], c.live[key]
		// The cache may not have it yet, or be behind what was written.
		missing := live == nil && was.seen
		if was.hash == hash && !missing && (live == nil || live.UID == was.uid && live.Generation <= was.generation) {
			if live != nil {
				was.seen = true
				c.rec.applied[key] = was
			}
			continue
		}
		answer := &unstructured.Unstructured{Object: o.DeepCopy().Object}
		err = c.as.Apply(ctx, client.ApplyConfigurationFromUnstructured(answer), client.FieldOwner(v1alpha1.FieldOwner), client.ForceOwnership)
		if err != nil {
			return changed, fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		changed = true
		c.rec.applied[key] = applied{hash: hash, uid: answer.GetUID(), generation: answer.GetGeneration()}
	}
	return changed, nil
}

// remove deletes what of some kinds is too much.
func (c *convergence) remove(ctx context.Context, which func(schema.GroupVersionKind) bool) (removed bool, err error) {
	wanted := map[string]bool{}
	all := slices.Concat(c.objects.Referenced, c.objects.Routes)
	for _, o := range []*unstructured.Unstructured{c.objects.Ready, c.objects.Marker} {
		if o != nil {
			all = append(all, o)
		}
	}
	for _, o := range all {
		wanted[keyOf(o.GroupVersionKind(), o.GetName())] = true
	}
	for _, kind := range Kinds() {
		for key, live := range c.live {
			if wanted[key] || !strings.HasPrefix(key, kind.Kind+"/") || !which(kind) {
				continue
			}
			object := &metav1.PartialObjectMetadata{}
			object.SetGroupVersionKind(kind)
			object.SetNamespace(live.Namespace)
			object.SetName(live.Name)
			err := c.as.Delete(ctx, object, client.Preconditions{UID: &live.UID})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return removed, fmt.Errorf("deleting %s %s: %w", kind.Kind, live.Name, err)
			}
			removed = true
			delete(c.rec.applied, key)
			delete(c.live, key)
		}
	}
	return removed, nil
}
