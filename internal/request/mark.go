package request

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// markPrefix begins the annotations of a Tenant that say what was added to its quota for each of its partitions. They are
// written together with the quota, against the version that was read: so nothing is added twice, and of two requests that
// want the last of it one has to look again.
const markPrefix = "allocation.yunfan.io/"

// A mark is bounded: of a partition that was changed more often than mostEntries the oldest entries are joined, and what
// was decided is kept of the last mostDecided, which may still be under way.
const (
	mostEntries = 100
	mostDecided = 10
)

// mark is what was done to a tenant's quota for one partition.
type mark struct {
	Requests []entry `json:"requests"`
	// Granted is what the last of them gives the partition. It counts as given until the partition has it.
	Granted corev1.ResourceList `json:"granted,omitempty"`
}

// entry is what one request added to the tenant's quota; below zero is what it took away again.
type entry struct {
	UID   types.UID           `json:"uid"`
	Name  string              `json:"name"`
	Added corev1.ResourceList `json:"added,omitempty"`
	// Granted is what was decided, once and for all.
	Granted *v1alpha1.GrantedResources `json:"granted,omitempty"`
}

// of is the entry of a request; nil if it has none.
func (m *mark) of(uid types.UID) *entry {
	if m == nil {
		return nil
	}
	if i := slices.IndexFunc(m.Requests, func(e entry) bool { return e.UID == uid }); i >= 0 {
		return &m.Requests[i]
	}
	return nil
}

func (m *mark) has(uid types.UID) bool { return m.of(uid) != nil }

// added is what all of them added, never below zero.
func (m *mark) added() corev1.ResourceList {
	sum := corev1.ResourceList{}
	for _, e := range m.Requests {
		v1alpha1.AddQuota(sum, e.Added)
	}
	for name, q := range sum {
		if q.Sign() < 0 {
			sum[name] = resource.Quantity{}
		}
	}
	return sum
}

// markOf reads the mark of a partition; nil if nothing was ever done for it.
func markOf(tenant *v1alpha1.Tenant, partition string) (*mark, error) {
	text, ok := tenant.Annotations[markPrefix+partition]
	if !ok {
		return nil, nil
	}
	m := &mark{}
	if err := json.Unmarshal([]byte(text), m); err != nil {
		return nil, action.Failed(fmt.Errorf("annotation %s%s of tenant %s cannot be read, mend or delete it: %w", markPrefix, partition, tenant.Name, err))
	}
	return m, nil
}

func setMark(tenant *v1alpha1.Tenant, partition string, m *mark) error {
	if m == nil || len(m.Requests) == 0 {
		delete(tenant.Annotations, markPrefix+partition)
		return nil
	}
	for len(m.Requests) > mostEntries {
		second := &m.Requests[1]
		sum := corev1.ResourceList{}
		v1alpha1.AddQuota(sum, m.Requests[0].Added)
		v1alpha1.AddQuota(sum, second.Added)
		second.Added = sum
		m.Requests = m.Requests[1:]
	}
	for i := range len(m.Requests) - mostDecided {
		m.Requests[i].Granted = nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing what was given: %w", err)
	}
	if tenant.Annotations == nil {
		tenant.Annotations = map[string]string{}
	}
	tenant.Annotations[markPrefix+partition] = string(text)
	return nil
}

// given is what a tenant's partitions but one were given, after its own ledger.
func given(tenant *v1alpha1.Tenant, except string) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for _, a := range tenant.Status.Allocated {
		if a.Partition != except {
			v1alpha1.AddQuota(sum, a.Quota)
		}
	}
	return sum
}

// committed is what a tenant's partitions but one have, want, or are about to be given.
func (r *Requests) committed(ctx context.Context, tenant *v1alpha1.Tenant, except string) (corev1.ResourceList, error) {
	var partitions v1alpha1.PartitionList
	if err := r.reader.List(ctx, &partitions, client.InNamespace(tenant.Name)); err != nil {
		return nil, fmt.Errorf("listing partitions: %w", err)
	}
	each := map[string]corev1.ResourceList{}
	applied := map[string]*v1alpha1.Partition{}
	for i := range partitions.Items {
		if p := &partitions.Items[i]; p.Spec.Parent == "" {
			each[p.Name], applied[p.Name] = larger(each[p.Name], p.Spec.Quota), p
		}
	}
	for _, a := range tenant.Status.Allocated {
		if applied[a.Partition] != nil {
			each[a.Partition] = larger(each[a.Partition], a.Quota)
		}
	}
	for key := range tenant.Annotations {
		name, ok := strings.CutPrefix(key, markPrefix)
		if !ok || name == except {
			continue
		}
		m, err := markOf(tenant, name)
		if err != nil {
			return nil, err
		}
		if last := m.Requests[len(m.Requests)-1]; !isApplied(applied[name], last.UID) {
			each[name] = larger(each[name], m.Granted)
		}
	}
	delete(each, except)
	sum := corev1.ResourceList{}
	for _, quota := range each {
		v1alpha1.AddQuota(sum, quota)
	}
	return sum, nil
}

// larger gives, per resource, the larger of two quotas.
func larger(a, b corev1.ResourceList) corev1.ResourceList {
	out := over(a, nil)
	for name, q := range v1alpha1.NormalizedQuota(b) {
		if has, ok := out[name]; !ok || has.Cmp(q) < 0 {
			out[name] = q
		}
	}
	return out
}

// alter changes a tenant by compare-and-swap, again and again until nobody else did in between. Without a change nothing
// is written. A tenant that is gone is no error.
func (r *Requests) alter(ctx context.Context, name string, change func(*v1alpha1.Tenant) (bool, error)) error {
	err := retry.RetryOnConflict(manyTimes, func() error {
		tenant := &v1alpha1.Tenant{}
		if err := r.reader.Get(ctx, client.ObjectKey{Name: name}, tenant); err != nil {
			return client.IgnoreNotFound(err)
		}
		changed, err := change(tenant)
		if err != nil || !changed {
			return err
		}
		return client.IgnoreNotFound(r.client.Update(ctx, tenant, client.FieldOwner(v1alpha1.FieldOwner)))
	})
	if err != nil {
		return fmt.Errorf("changing the quota of tenant %s: %w", name, err)
	}
	return nil
}

// manyTimes is enough for all requests of a tenant that are approved at once.
var manyTimes = wait.Backoff{Duration: 10 * time.Millisecond, Factor: 1.5, Jitter: 1, Steps: 20, Cap: time.Second}

// reserve writes down what a request gives a partition, and adds to the tenant's quota what is lacking for it: current is
// the partition's quota as it is, final as it will be. Of a partition that gets less, what was added for it before is taken
// away again. Done once, it does nothing but tell what was decided then.
func (r *Requests) reserve(ctx context.Context, req *v1alpha1.ResourceRequest, current, final corev1.ResourceList, g *v1alpha1.GrantedResources) (decided *v1alpha1.GrantedResources, err error) {
	partition := req.Spec.Wanted.Partition
	decided = g
	err = r.alter(ctx, req.Namespace, func(tenant *v1alpha1.Tenant) (bool, error) {
		m, err := markOf(tenant, partition)
		if err != nil {
			return false, err
		}
		if e := m.of(req.UID); e != nil {
			decided = e.Granted
			return false, nil
		}
		if m == nil {
			m = &mark{}
		} else if req.Spec.Wanted.Type == v1alpha1.RequestNew {
			return false, action.Failed(fmt.Errorf("the name %s is already given to request %s: choose another name", partition, m.Requests[0].Name))
		}
		others, err := r.committed(ctx, tenant, partition)
		if err != nil {
			return false, err
		}
		was, added := m.added(), corev1.ResourceList{}
		for name, hard := range v1alpha1.NormalizedQuota(tenant.Spec.Quota) {
			wanted, bounded := final[name]
			if !bounded {
				return false, action.Failed(fmt.Errorf("the quota of tenant %s bounds %s: partition %s must have a quota of it, too", tenant.Name, name, partition))
			}
			lack := others[name].DeepCopy()
			lack.Add(wanted)
			lack.Sub(hard)
			less := current[name].DeepCopy()
			less.Sub(wanted)
			switch {
			case lack.Sign() > 0:
				added[name] = lack
			case less.Sign() > 0:
				added[name] = negative(smaller(less, was[name]))
			}
		}
		addTo(tenant, added)
		m.Requests = append(m.Requests, entry{req.UID, req.Name, added, g})
		m.Granted = final
		return true, setMark(tenant, partition, m)
	})
	return decided, err
}

// unreserve takes back what one request did to the tenant's quota, as when it could not be carried out.
func (r *Requests) unreserve(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	partition := req.Spec.Wanted.Partition
	return r.alter(ctx, req.Namespace, func(tenant *v1alpha1.Tenant) (bool, error) {
		m, err := markOf(tenant, partition)
		if err != nil || !m.has(req.UID) {
			return false, err
		}
		i := slices.IndexFunc(m.Requests, func(e entry) bool { return e.UID == req.UID })
		back := corev1.ResourceList{}
		for name, q := range m.Requests[i].Added {
			back[name] = negative(q)
		}
		if i == len(m.Requests)-1 {
			m.Granted = nil
		}
		m.Requests = slices.Delete(m.Requests, i, i+1)
		addTo(tenant, back)
		return true, setMark(tenant, partition, m)
	})
}

// giveBack lowers the tenant's quota by all that was added for a partition that is gone, never below what other
// partitions have of it. A mark in which the request has no part is that of a later partition of the same name.
func (r *Requests) giveBack(ctx context.Context, namespace, partition string, uid types.UID) error {
	return r.alter(ctx, namespace, func(tenant *v1alpha1.Tenant) (bool, error) {
		m, err := markOf(tenant, partition)
		if err != nil || !m.has(uid) {
			return false, err
		}
		others, err := r.committed(ctx, tenant, partition)
		if err != nil {
			return false, err
		}
		back, quota := corev1.ResourceList{}, v1alpha1.NormalizedQuota(tenant.Spec.Quota)
		for name, q := range m.added() {
			spare := quota[name].DeepCopy()
			spare.Sub(others[name])
			if spare.Sign() > 0 {
				back[name] = negative(smaller(q, spare))
			}
		}
		addTo(tenant, back)
		return true, setMark(tenant, partition, nil)
	})
}

// addTo adds to those resources of a tenant's quota that are bounded; what is not stays so. Nothing goes below zero.
func addTo(tenant *v1alpha1.Tenant, what corev1.ResourceList) {
	what = v1alpha1.NormalizedQuota(what)
	for _, name := range slices.Collect(maps.Keys(tenant.Spec.Quota)) {
		for full := range v1alpha1.NormalizedQuota(corev1.ResourceList{name: {}}) {
			sum := tenant.Spec.Quota[name].DeepCopy()
			sum.Add(what[full])
			if sum.Sign() < 0 {
				sum = resource.Quantity{}
			}
			tenant.Spec.Quota[name] = sum
		}
	}
}

func negative(q resource.Quantity) resource.Quantity {
	q = q.DeepCopy()
	q.Neg()
	return q
}

func smaller(a, b resource.Quantity) resource.Quantity {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

// tenantGone says whether the tenant of a request does not exist any more.
func (r *Requests) tenantGone(ctx context.Context, name string) (bool, error) {
	err := r.reader.Get(ctx, client.ObjectKey{Name: name}, &v1alpha1.Tenant{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading tenant %s: %w", name, err)
	}
	return false, nil
}
