package delivery

import (
	"context"
	"encoding/json"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// mark puts the revision on the pods while two run, and takes it off again, for people and for what counts requests. It is
// no part of pod templates: a promotion would restart every pod.
func (r *run) mark(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range r.plan.components {
		c := &r.plan.components[i]
		if c.workload == nil || r.statuses[c.part].Revision != c.revision {
			continue
		}
		want := ""
		if len(r.plan.tracks) > 1 {
			want = c.revision
		}
		for _, pod := range r.pods(ctx, c) {
			if pod.Labels[v1alpha1.LabelRevision] != want {
				group.Go(func() error { return r.markPod(ctx, &pod, want) })
			}
		}
	}
	return group.Wait() //nolint:wrapcheck // markPod says which pod
}

func (r *run) markPod(ctx context.Context, pod *corev1.Pod, revision string) error {
	var value any
	if revision != "" {
		value = revision
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": map[string]any{v1alpha1.LabelRevision: value}}})
	if err != nil {
		return fmt.Errorf("marking pod %s: %w", pod.Name, err)
	}
	of := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	err = r.as.Patch(ctx, of, client.RawPatch(types.MergePatchType, patch))
	// A pod may go at any time, and a partition from before may not have the right yet: nothing depends on the mark.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("marking pod %s: %w", pod.Name, err)
	}
	return nil
}
