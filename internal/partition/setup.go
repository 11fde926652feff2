package partition

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// namespaceInterval is how often a namespace that is somebody else's is looked at: no event tells when it goes.
	namespaceInterval = 30 * time.Second
	goneInterval      = time.Second
)

// setUp makes the partition in its cluster, or puts back what somebody changed there. While nothing has changed it
// asks the member nothing.
func (r *reconciler) setUp(ctx context.Context, p *v1alpha1.Partition) error {
	if why := reserved(p.MemberNamespace()); why != "" {
		return reconcile.Stall(v1alpha1.ReasonNameReserved, "%s", why)
	}
	made, err := r.made(ctx, p)
	if err != nil {
		return err
	}
	if _, err := labels.ValidatedSelectorFromSet(made.Spec.Nodes.Selector); err != nil {
		return reconcile.Stall(v1alpha1.ReasonInvalid, "spec.nodes.selector: %w", err)
	}
	key := client.ObjectKeyFromObject(p)
	if unchanged, err := r.unchanged(ctx, made, r.record(key)); err != nil || unchanged {
		p.Status.Namespace = p.MemberNamespace()
		return err
	}
	adopted, err := r.takeNamespace(ctx, p)
	if err != nil {
		return err
	}
	p.Status.Namespace = p.MemberNamespace()
	wanted, unwanted := objects(made, adopted)
	rec := &record{adopted: adopted, wanted: text(wanted)}
	for _, o := range wanted {
		applied, err := apply(ctx, r.member.Client, o)
		if apierrors.IsInvalid(err) {
			return reconcile.Stall(v1alpha1.ReasonInvalid, "the cluster refuses a part of the spec: %w", err)
		}
		if err != nil {
			return err
		}
		rec.applied = append(rec.applied, applied)
	}
	for _, o := range unwanted {
		if err := r.member.Client.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %T %s: %w", o, o.GetName(), err)
		}
	}
	r.remember(key, rec)
	return nil
}

// unchanged says whether the member has, as far as its cache knows, what was applied last, and that is what is wanted.
func (r *reconciler) unchanged(ctx context.Context, p *v1alpha1.Partition, rec *record) (bool, error) {
	if rec == nil {
		return false, nil
	}
	wanted, unwanted := objects(p, rec.adopted)
	if text(wanted) != rec.wanted {
		return false, nil
	}
	for i, o := range append(wanted, unwanted...) {
		have, err := cachedEssence(ctx, r.member.Cache, o)
		if err != nil {
			return false, fmt.Errorf("reading %T %s: %w", o, o.GetName(), err)
		}
		if i < len(rec.applied) && have != rec.applied[i] || i >= len(rec.applied) && have != "" {
			return false, nil
		}
	}
	return true, nil
}

func text(objects []client.Object) string {
	data, err := json.Marshal(objects)
	if err != nil {
		panic(err) // they are Kubernetes' own types
	}
	return string(data)
}

// takeNamespace makes sure that the namespace is there and the partition's, and says whether it was there before. Of
// two partitions that want one namespace, the one that creates or labels it first has it.
func (r *reconciler) takeNamespace(ctx context.Context, p *v1alpha1.Partition) (adopted bool, err error) {
	ns := &corev1.Namespace{}
	err = r.member.Client.Get(ctx, client.ObjectKey{Name: p.MemberNamespace()}, ns)
	if apierrors.IsNotFound(err) {
		ns = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.MemberNamespace(), Labels: identity(p)}}
		if err := r.member.Client.Create(ctx, ns, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return false, fmt.Errorf("creating namespace %s: %w", ns.Name, err)
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading namespace %s: %w", p.MemberNamespace(), err)
	}
	tenant, partition := ns.Labels[v1alpha1.LabelTenant], ns.Labels[v1alpha1.LabelPartition]
	switch {
	case !ns.DeletionTimestamp.IsZero():
		return false, reconcile.Wait(v1alpha1.ReasonReconciling, goneInterval, "namespace %s is being deleted and will be made anew", ns.Name)
	case tenant == p.Namespace && partition == p.Name:
		return ns.Annotations[v1alpha1.AnnotationAdopted] == "true", nil
	case tenant != "" || partition != "":
		return false, reconcile.Wait(v1alpha1.ReasonNamespaceTaken, namespaceInterval,
			"namespace %s of cluster %s belongs to partition %q of tenant %q: make a partition with another spec.namespace",
			ns.Name, r.member.Name, partition, tenant)
	case !p.Spec.Adopt:
		return false, reconcile.Wait(v1alpha1.ReasonNamespaceTaken, namespaceInterval,
			"namespace %s of cluster %s exists and is not Yunfan's: make a partition with another spec.namespace, or set spec.adopt to take it over",
			ns.Name, r.member.Name)
	}
	return true, r.adopt(ctx, p, ns)
}

// adopt takes over a namespace as it was read: of two partitions that try, the second meets a conflict.
func (r *reconciler) adopt(ctx context.Context, p *v1alpha1.Partition, ns *corev1.Namespace) error {
	ns = ns.DeepCopy()
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	maps.Copy(ns.Labels, identity(p))
	if ns.Annotations == nil {
		ns.Annotations = map[string]string{}
	}
	ns.Annotations[v1alpha1.AnnotationAdopted] = "true"
	if err := r.member.Client.Update(ctx, ns, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
		return fmt.Errorf("adopting namespace %s: %w", ns.Name, err)
	}
	return nil
}
