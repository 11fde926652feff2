package delivery

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/delivery/manifest"
)

// renew replaces the pods that ReplicationControllers have made from an older template, one after the other: the next
// only when all the others are ready. Every other kind of workload does so itself.
func (r *run) renew(ctx context.Context) error {
	for i := range r.plan.components {
		c := &r.plan.components[i]
		if c.kind != v1alpha1.WorkloadReplicationController || c.workload == nil || r.statuses[c.part].Revision != c.revision {
			continue
		}
		if err := r.renewOne(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) renewOne(ctx context.Context, c *component) error {
	pods := r.pods(ctx, c)
	old := outdated(c, pods)
	leaves := slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.UID == r.rec.leaving[c.workload.key.Name] })
	if len(old) == 0 || leaves {
		return nil // or the cache is behind
	}
	next := &old[0]
	if i := slices.IndexFunc(old, func(p corev1.Pod) bool { return !podReady(&p) }); i >= 0 {
		next = &old[i] // nobody misses it
	} else if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !podReady(&p) }) || int32(len(pods)) < r.statuses[c.part].Desired {
		return nil
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: next.Namespace, Name: next.Name}}
	if err := r.as.Delete(ctx, pod, client.Preconditions{UID: &next.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("replacing pod %s: %w", next.Name, err)
	}
	r.rec.leaving[c.workload.key.Name] = next.UID
	return nil
}

// outdated are the pods that were made from another template than the component's.
func outdated(c *component, pods []corev1.Pod) []corev1.Pod {
	want, _, _ := unstructured.NestedString(c.workload.object.Object, "spec", "template", "metadata", "labels", manifest.LabelTemplate)
	var out []corev1.Pod
	for i := range pods {
		if pods[i].Labels[manifest.LabelTemplate] != want {
			out = append(out, pods[i])
		}
	}
	return out
}
