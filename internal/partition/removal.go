package partition

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

// withdraw waits until nothing is delivered to the partition any more, and deletes what is if the spec says so.
func (h *hubSide) withdraw(ctx context.Context, p *v1alpha1.Partition) error {
	var deliveries v1alpha1.DeliveryList
	if err := h.reader.List(ctx, &deliveries, client.InNamespace(p.Namespace), client.MatchingLabels{v1alpha1.LabelPartition: p.Name}); err != nil {
		return fmt.Errorf("listing the deliveries: %w", err)
	}
	var applications []string
	for i := range deliveries.Items {
		d := &deliveries.Items[i]
		applications = append(applications, d.Spec.Application)
		if p.Spec.DeletionPolicy == v1alpha1.DeletionDelete && d.DeletionTimestamp.IsZero() {
			if err := h.client.Delete(ctx, d); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("deleting delivery %s: %w", d.Name, err)
			}
		}
	}
	if len(applications) == 0 {
		return nil
	}
	slices.Sort(applications)
	names := strings.Join(slices.Compact(applications), ", ")
	if p.Spec.DeletionPolicy == v1alpha1.DeletionDelete {
		return reconcile.Wait(v1alpha1.ReasonDeleting, goneInterval, "removing these applications from here: %s", names)
	}
	return reconcile.Wait(v1alpha1.ReasonDeliveriesExist, 0, "these applications are still delivered here: %s; "+
		"delete them, take the partition out of their placement, or set deletionPolicy to Delete", names)
}

// removeNamespace deletes the namespace and waits until it is gone; one that was adopted stays without what is ours.
func (r *reconciler) removeNamespace(ctx context.Context, p *v1alpha1.Partition) error {
	ns := &corev1.Namespace{}
	err := r.member.Client.Get(ctx, client.ObjectKey{Name: p.MemberNamespace()}, ns)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading namespace %s: %w", p.MemberNamespace(), err)
	}
	if ns.Labels[v1alpha1.LabelTenant] != p.Namespace || ns.Labels[v1alpha1.LabelPartition] != p.Name {
		return nil // never ours
	}
	gone, err := removeOne(ctx, r.member, ns)
	if err == nil && !gone {
		err = reconcile.Wait(v1alpha1.ReasonDeleting, goneInterval, "waiting until namespace %s of cluster %s is gone", ns.Name, r.member.Name)
	}
	return err
}

// CleanMember removes all partitions from a member that is leaving the platform together with its workloads.
func (c *Controller) CleanMember(ctx context.Context, m *member.Member) (left string, err error) {
	var namespaces corev1.NamespaceList
	if err := m.Client.List(ctx, &namespaces, client.HasLabels{v1alpha1.LabelPartition}); err != nil {
		return "", fmt.Errorf("listing namespaces: %w", err)
	}
	var names []string
	for i := range namespaces.Items {
		gone, err := removeOne(ctx, m, &namespaces.Items[i])
		if err != nil {
			return "", err
		}
		if !gone {
			names = append(names, namespaces.Items[i].Name)
		}
	}
	if len(names) > 0 {
		return "namespaces " + strings.Join(names, ", "), nil
	}
	var nodes corev1.NodeList
	if err := m.Client.List(ctx, &nodes); err != nil {
		return "", fmt.Errorf("listing nodes: %w", err)
	}
	for i := range nodes.Items {
		if err := taint(ctx, m, &nodes.Items[i], nil); err != nil {
			return "", err
		}
	}
	return "", removePolicies(ctx, m, slices.Concat(policies(), c.roles))
}

// removeOne removes one of our namespaces from a member, and says whether it is done.
func removeOne(ctx context.Context, m *member.Member, ns *corev1.Namespace) (gone bool, err error) {
	if ns.Annotations[v1alpha1.AnnotationAdopted] != "true" {
		if ns.DeletionTimestamp.IsZero() {
			if err := m.Client.Delete(ctx, ns); client.IgnoreNotFound(err) != nil {
				return false, fmt.Errorf("deleting namespace %s: %w", ns.Name, err)
			}
		}
		return false, nil
	}
	for _, kind := range ours {
		if err := removeKind(ctx, m, ns.Name, kind); err != nil {
			return false, err
		}
	}
	return true, disown(ctx, m, ns)
}

// ours are the kinds that are delivered, then those that a partition is made of besides its namespace. Claims of
// volumes stay, as they do when a StatefulSet is deleted.
var ours = []schema.GroupVersionKind{
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "batch", Version: "v1", Kind: "CronJob"},
	{Group: "batch", Version: "v1", Kind: "Job"},
	{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
	{Version: "v1", Kind: "ReplicationController"},
	{Version: "v1", Kind: "Service"},
	{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"},
	{Version: "v1", Kind: "ConfigMap"},
	{Version: "v1", Kind: "Secret"},
	{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"},
	{Version: "v1", Kind: "LimitRange"},
	{Version: "v1", Kind: "ResourceQuota"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
	{Version: "v1", Kind: "ServiceAccount"},
}

func removeKind(ctx context.Context, m *member.Member, namespace string, kind schema.GroupVersionKind) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kind)
	if err := m.Client.List(ctx, list, client.InNamespace(namespace), client.HasLabels{v1alpha1.LabelPartition}); err != nil {
		return fmt.Errorf("listing %s in namespace %s: %w", kind.Kind, namespace, err)
	}
	for i := range list.Items {
		o := &list.Items[i]
		o.SetGroupVersionKind(kind)
		err := m.Client.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s %s/%s: %w", kind.Kind, namespace, o.Name, err)
		}
	}
	return nil
}

// disown takes our marks off an adopted namespace.
func disown(ctx context.Context, m *member.Member, ns *corev1.Namespace) error {
	after := ns.DeepCopy()
	maps.DeleteFunc(after.Labels, func(key, _ string) bool {
		return strings.HasPrefix(key, "yunfan.io/") || strings.HasPrefix(key, "pod-security.kubernetes.io/")
	})
	maps.DeleteFunc(after.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, "yunfan.io/") })
	if err := m.Client.Patch(ctx, after, client.MergeFrom(ns)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("giving namespace %s back: %w", ns.Name, err)
	}
	return nil
}
