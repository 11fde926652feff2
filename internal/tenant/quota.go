package tenant

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// reclaim takes out of the ledger what was given to partitions that do not exist any more, such as one whose finalizer
// somebody removed. One whose cluster is lost keeps its share: it exists.
func (c *Controller) reclaim(ctx context.Context, tenant *v1alpha1.Tenant) error {
	var left []v1alpha1.Allocation
	for _, given := range tenant.Status.Allocated {
		p := &v1alpha1.Partition{}
		err := c.reader.Get(ctx, client.ObjectKey{Namespace: tenant.Name, Name: given.Partition}, p)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("reading partition %s: %w", given.Partition, err)
		}
		if err == nil && p.Spec.Parent == "" {
			left = append(left, given)
		}
	}
	if len(left) == len(tenant.Status.Allocated) {
		return nil
	}
	after := tenant.DeepCopy() // as it was read: if a partition has been given something since, this is a conflict
	after.Status.Allocated = left
	if err := c.client.Status().Update(ctx, after); err != nil {
		return fmt.Errorf("reclaiming quota of partitions that are gone: %w", err)
	}
	tenant.Status.Allocated, tenant.ResourceVersion = left, after.ResourceVersion
	return nil
}

// within says whether the partitions were given more than the quota, with the figures.
func within(_ context.Context, tenant *v1alpha1.Tenant) error {
	quota := v1alpha1.NormalizedQuota(tenant.Spec.Quota)
	given := Given(tenant)
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(quota)) {
		hard, sum := quota[name], given[name]
		if sum.Cmp(hard) > 0 {
			over := sum.DeepCopy()
			over.Sub(hard)
			problems = append(problems, fmt.Sprintf("%s: the quota is %s, but %s is given out (%s), %s too much",
				name, hard.String(), sum.String(), holders(tenant, name), over.String()))
		}
		if who := unbounded(tenant, name); who != "" {
			problems = append(problems, fmt.Sprintf("%s: the quota is %s, but these partitions have none and may use any amount: %s", name, hard.String(), who))
		}
	}
	if problems == nil {
		reconcile.SetCondition(tenant, v1alpha1.ConditionWithinQuota, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
		return nil
	}
	reconcile.SetCondition(tenant, v1alpha1.ConditionWithinQuota, metav1.ConditionFalse, v1alpha1.ReasonQuotaExceeded,
		strings.Join(problems, "; ")+": no more is given and nothing is taken away; lower the partitions' quotas or raise the tenant's")
	return nil
}

// Given is what the tenant's partitions were given, all together.
func Given(tenant *v1alpha1.Tenant) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for _, given := range tenant.Status.Allocated {
		v1alpha1.AddQuota(sum, given.Quota)
	}
	return sum
}

func holders(tenant *v1alpha1.Tenant, name corev1.ResourceName) string {
	var who []string
	for _, given := range tenant.Status.Allocated {
		if q, ok := v1alpha1.NormalizedQuota(given.Quota)[name]; ok {
			who = append(who, given.Partition+" "+q.String())
		}
	}
	return strings.Join(who, ", ")
}

// unbounded names the partitions that were set up before the tenant had a quota of the resource.
func unbounded(tenant *v1alpha1.Tenant, name corev1.ResourceName) string {
	var who []string
	for _, given := range tenant.Status.Allocated {
		if _, ok := v1alpha1.NormalizedQuota(given.Quota)[name]; !ok {
			who = append(who, given.Partition)
		}
	}
	return strings.Join(who, ", ")
}

// sound refuses a quota below zero, which would give the rest of it to others.
func sound(_ context.Context, tenant *v1alpha1.Tenant) error {
	for _, name := range slices.Sorted(maps.Keys(tenant.Spec.Quota)) {
		if q := tenant.Spec.Quota[name]; q.Cmp(resource.Quantity{}) < 0 {
			return reconcile.Stall(v1alpha1.ReasonInvalid, "spec.quota[%q] is %s: it cannot be below 0", name, q.String())
		}
	}
	return nil
}
