package partition

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// allocate takes the partition's quota out of the tenant's. What was given is written into the tenant's status against
// the version that was read, so of two partitions that want the last of it one has to look again.
func (h *hubSide) allocate(ctx context.Context, p *v1alpha1.Partition) error {
	tenant := &v1alpha1.Tenant{}
	err := h.reader.Get(ctx, client.ObjectKey{Name: p.Namespace}, tenant)
	if apierrors.IsNotFound(err) {
		return reconcile.Stall(v1alpha1.ReasonInvalid,
			"namespace %s is not a tenant's: create partitions in the namespace of a tenant", p.Namespace)
	}
	if err != nil {
		return fmt.Errorf("reading tenant %s: %w", p.Namespace, err)
	}
	at := slices.IndexFunc(tenant.Status.Allocated, func(a v1alpha1.Allocation) bool { return a.Partition == p.Name })
	if at >= 0 && equality.Semantic.DeepEqual(tenant.Status.Allocated[at].Quota, p.Spec.Quota) {
		return nil
	}
	if err := fits(tenant, p); err != nil {
		return err
	}
	if at < 0 {
		at = len(tenant.Status.Allocated)
		tenant.Status.Allocated = append(tenant.Status.Allocated, v1alpha1.Allocation{Partition: p.Name})
	}
	tenant.Status.Allocated[at].Quota = p.Spec.Quota
	if err := h.client.Status().Update(ctx, tenant); err != nil {
		return fmt.Errorf("allocating quota of tenant %s: %w", p.Namespace, err)
	}
	return nil
}

// release gives the partition's quota back to the tenant.
func (h *hubSide) release(ctx context.Context, p *v1alpha1.Partition) error {
	tenant := &v1alpha1.Tenant{}
	if err := h.reader.Get(ctx, client.ObjectKey{Name: p.Namespace}, tenant); err != nil {
		return client.IgnoreNotFound(err)
	}
	left := slices.DeleteFunc(slices.Clone(tenant.Status.Allocated), func(a v1alpha1.Allocation) bool { return a.Partition == p.Name })
	if len(left) == len(tenant.Status.Allocated) {
		return nil
	}
	tenant.Status.Allocated = left
	if err := h.client.Status().Update(ctx, tenant); err != nil {
		return fmt.Errorf("giving quota back to tenant %s: %w", p.Namespace, err)
	}
	return nil
}

// fits says whether the tenant's quota holds the partition's beside those of the other partitions.
func fits(tenant *v1alpha1.Tenant, p *v1alpha1.Partition) error {
	for _, name := range slices.Sorted(maps.Keys(tenant.Spec.Quota)) {
		hard := tenant.Spec.Quota[name]
		wanted, set := p.Spec.Quota[name]
		if !set {
			return reconcile.Stall(v1alpha1.ReasonQuotaExceeded,
				"tenant %s has a quota of %s %s, so each of its partitions needs one: set spec.quota[%q]", tenant.Name, hard.String(), name, name)
		}
		given, holders := givenToOthers(tenant, p.Name, name)
		sum := given.DeepCopy()
		sum.Add(wanted)
		if sum.Cmp(hard) > 0 {
			return reconcile.Stall(v1alpha1.ReasonQuotaExceeded,
				"%s: %s is asked for, but of the %s of tenant %s %s is given to others (%s): lower this quota or theirs, or raise the tenant's",
				name, wanted.String(), hard.String(), tenant.Name, given.String(), holders)
		}
	}
	return nil
}

func givenToOthers(tenant *v1alpha1.Tenant, except string, name corev1.ResourceName) (sum resource.Quantity, holders string) {
	var who []string
	for _, a := range tenant.Status.Allocated {
		if q, ok := a.Quota[name]; ok && a.Partition != except {
			sum.Add(q)
			who = append(who, fmt.Sprintf("%s %s", a.Partition, q.String()))
		}
	}
	if len(who) == 0 {
		return sum, "none"
	}
	return sum, strings.Join(who, ", ")
}
