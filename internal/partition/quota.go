package partition

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// account is what quota is taken out of: a tenant, or the partition that a sub-partition is a part of. What was given is
// written into the holder's status against the version that was read, so of two partitions that want the last of it one
// has to look again.
type account struct {
	holder client.Object
	// name for people, such as "tenant edu".
	name string
	// quota that may be given, all of it.
	quota corev1.ResourceList
	// used is what the holder uses of it itself.
	used corev1.ResourceList
	// given is the ledger in the holder's status.
	given *[]v1alpha1.Allocation
}

// allocate takes the partition's quota out of the tenant's, or of that of the partition it is a part of.
func (r *reconciler) allocate(ctx context.Context, p *v1alpha1.Partition) error {
	for _, name := range slices.Sorted(maps.Keys(p.Spec.Quota)) {
		if q := p.Spec.Quota[name]; q.Sign() < 0 {
			return reconcile.Stall(v1alpha1.ReasonInvalid, "spec.quota[%q] is %s: it cannot be below 0", name, q.String())
		}
	}
	if err := coversParts(p); err != nil {
		return err
	}
	if p.Spec.Parent != "" {
		return r.reached(r.allocatePart)(ctx, p)
	}
	a, err := r.tenantAccount(ctx, p)
	if err != nil {
		return err
	}
	return r.take(ctx, a, p)
}

func (h *hubSide) tenantAccount(ctx context.Context, p *v1alpha1.Partition) (*account, error) {
	tenant := &v1alpha1.Tenant{}
	err := h.reader.Get(ctx, client.ObjectKey{Name: p.Namespace}, tenant)
	if apierrors.IsNotFound(err) {
		return nil, reconcile.Stall(v1alpha1.ReasonInvalid,
			"namespace %s is not a tenant's: create partitions in the namespace of a tenant", p.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading tenant %s: %w", p.Namespace, err)
	}
	return accountOfTenant(tenant), nil
}

func accountOfTenant(tenant *v1alpha1.Tenant) *account {
	return &account{holder: tenant, name: "tenant " + tenant.Name, quota: v1alpha1.NormalizedQuota(tenant.Spec.Quota), given: &tenant.Status.Allocated}
}

// take gives the partition what it wants more than it has. What it wants less stays its own until its cluster has
// lowered the quota there: see settle.
func (h *hubSide) take(ctx context.Context, a *account, p *v1alpha1.Partition) error {
	had, wanted := a.of(p.Name), v1alpha1.NormalizedQuota(p.Spec.Quota)
	if had != nil && same(had, wanted) {
		return nil
	}
	if err := a.bounds(wanted); err != nil {
		return err
	}
	larger := atLeast(had, wanted)
	if had != nil && same(had, larger) {
		return nil
	}
	if err := a.fits(p.Name, had, larger); err != nil {
		return err
	}
	return h.write(ctx, a, p.Name, larger)
}

// settle gives back what the partition was given and does not want any more, once its cluster does not grant it any
// more either. A cluster that cannot be reached keeps what it may still hand out.
func (h *hubSide) settle(ctx context.Context, p *v1alpha1.Partition) error {
	a, err := h.accountOf(ctx, p, h.client)
	if err != nil || a == nil {
		return err
	}
	wanted := atLeast(nil, v1alpha1.NormalizedQuota(p.Spec.Quota)) // an empty one is one, too
	if had := a.of(p.Name); had == nil || same(had, wanted) {
		return nil
	}
	if a, err = h.accountOf(ctx, p, h.reader); err != nil || a == nil {
		return err
	}
	return h.write(ctx, a, p.Name, wanted)
}

// release gives the partition's quota back.
func (h *hubSide) release(ctx context.Context, p *v1alpha1.Partition) error {
	a, err := h.accountOf(ctx, p, h.reader)
	if err != nil || a == nil || a.of(p.Name) == nil {
		return err
	}
	return h.write(ctx, a, p.Name, nil)
}

// accountOf reads the account that the partition's quota is taken out of; nil if its holder does not exist any more.
func (h *hubSide) accountOf(ctx context.Context, p *v1alpha1.Partition, from client.Reader) (*account, error) {
	if p.Spec.Parent == "" {
		tenant := &v1alpha1.Tenant{}
		if err := from.Get(ctx, client.ObjectKey{Name: p.Namespace}, tenant); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		return accountOfTenant(tenant), nil
	}
	parent := &v1alpha1.Partition{}
	if err := from.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.Parent}, parent); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &account{holder: parent, name: "partition " + parent.Name, given: &parent.Status.Allocated}, nil
}

// write sets what a partition was given; nil takes its line out.
func (h *hubSide) write(ctx context.Context, a *account, partition string, quota corev1.ResourceList) error {
	given := slices.DeleteFunc(slices.Clone(*a.given), func(g v1alpha1.Allocation) bool { return g.Partition == partition })
	if quota != nil {
		given = append(given, v1alpha1.Allocation{Partition: partition, Quota: quota})
		slices.SortFunc(given, func(a, b v1alpha1.Allocation) int { return strings.Compare(a.Partition, b.Partition) })
	}
	*a.given = given
	if err := h.client.Status().Update(ctx, a.holder); err != nil {
		return fmt.Errorf("writing what %s has given: %w", a.name, err)
	}
	return nil
}

// of is what a partition was given; nil if nothing.
func (a *account) of(partition string) corev1.ResourceList {
	for _, g := range *a.given {
		if g.Partition == partition {
			had := corev1.ResourceList{}
			maps.Copy(had, v1alpha1.NormalizedQuota(g.Quota))
			return had
		}
	}
	return nil
}

// bounds refuses a partition that does not say how much it wants of something that is bounded: it could take all.
func (a *account) bounds(wanted corev1.ResourceList) error {
	for _, name := range slices.Sorted(maps.Keys(a.quota)) {
		if _, set := wanted[name]; !set {
			hard := a.quota[name]
			return reconcile.Stall(v1alpha1.ReasonQuotaExceeded,
				"%s has a quota of %s %s, so each of its partitions needs one: set spec.quota[%q]", a.name, hard.String(), name, name)
		}
	}
	return nil
}

// fits says whether the quota holds what the partition wants beside what the others have. What does not grow is not
// refused.
func (a *account) fits(partition string, had, wanted corev1.ResourceList) error {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(a.quota)) {
		hard, asked := a.quota[name], wanted[name]
		if has, ok := had[name]; ok && asked.Cmp(has) <= 0 {
			continue
		}
		given, holders := a.givenToOthers(partition, name)
		left := hard.DeepCopy()
		left.Sub(given)
		left.Sub(a.used[name])
		if asked.Cmp(left) > 0 {
			problems = append(problems, fmt.Sprintf("%s: %s is asked for, but of the %s of %s %s is given to others (%s)%s, so %s is left",
				name, asked.String(), hard.String(), a.name, given.String(), holders, a.ownUse(name), notBelowZero(left)))
		}
	}
	if problems != nil {
		return reconcile.Stall(v1alpha1.ReasonQuotaExceeded, "%s: lower this quota or theirs, or raise that of %s", strings.Join(problems, "; "), a.name)
	}
	return nil
}

func (a *account) ownUse(name corev1.ResourceName) string {
	if used, ok := a.used[name]; ok && !used.IsZero() {
		return fmt.Sprintf(" and %s is used there", used.String())
	}
	return ""
}

func (a *account) givenToOthers(except string, name corev1.ResourceName) (sum resource.Quantity, holders string) {
	var who []string
	for _, g := range *a.given {
		if q, ok := v1alpha1.NormalizedQuota(g.Quota)[name]; ok && g.Partition != except {
			sum.Add(q)
			who = append(who, fmt.Sprintf("%s %s", g.Partition, q.String()))
		}
	}
	if len(who) == 0 {
		return sum, "none"
	}
	return sum, strings.Join(who, ", ")
}

// same says whether two lists say the same; one that is empty says nothing, as one that is not there.
func same(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(a, b, func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}

// atLeast gives, per resource, the larger of two lists.
func atLeast(a, b corev1.ResourceList) corev1.ResourceList {
	larger := corev1.ResourceList{}
	maps.Copy(larger, a)
	for name, q := range b {
		if has, ok := larger[name]; !ok || has.Cmp(q) < 0 {
			larger[name] = q
		}
	}
	return larger
}

func notBelowZero(q resource.Quantity) string {
	if q.Sign() < 0 {
		return "0"
	}
	return q.String()
}
