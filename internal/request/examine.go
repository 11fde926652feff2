package request

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// finding is what was found of a request before anybody decides on it.
type finding struct {
	cluster  string
	quota    corev1.ResourceList
	products []product
	until    *metav1.Time
	// partition that is there; nil for a new one.
	partition *v1alpha1.Partition
	// notes are what whoever decides should know, a sentence each.
	notes []string
	// room is what the cluster has left, with figures that are not for tenants.
	room []string
}

// examine says what is asked for and why it cannot be given, as far as that is known now.
func (r *Requests) examine(ctx context.Context, from client.Reader, req *v1alpha1.ResourceRequest) (*finding, error) {
	wanted := &req.Spec.Wanted
	tenant := &v1alpha1.Tenant{}
	if err := from.Get(ctx, client.ObjectKey{Name: req.Namespace}, tenant); apierrors.IsNotFound(err) {
		return nil, action.Failed(fmt.Errorf("namespace %s is not a tenant's: make requests in the namespace of a tenant", req.Namespace))
	} else if err != nil {
		return nil, fmt.Errorf("reading tenant %s: %w", req.Namespace, err)
	}
	f := &finding{until: wanted.Until}
	if err := r.soundTerm(wanted.Until); err != nil {
		return nil, err
	}
	var err error
	if f.quota, f.products, err = asked(ctx, from, wanted); err != nil {
		return nil, err
	}
	p := &v1alpha1.Partition{}
	err = from.Get(ctx, client.ObjectKey{Namespace: req.Namespace, Name: wanted.Partition}, p)
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("reading partition %s: %w", wanted.Partition, err)
	case err == nil:
		f.partition, f.cluster = p, p.Spec.Cluster
	}
	if wanted.Type == v1alpha1.RequestNew {
		err = f.examineNew(ctx, from, tenant, req)
	} else {
		err = f.examineExisting(wanted)
	}
	if err == nil && f.quota != nil {
		err = f.examineQuota(ctx, from, tenant, req)
	}
	return f, err
}

// soundTerm refuses an end that has passed or is too far away.
func (r *Requests) soundTerm(until *metav1.Time) error {
	now := r.Now()
	switch {
	case until == nil:
		return nil
	case !until.After(now):
		return action.Failed(fmt.Errorf("until is %s, which has passed", day(until)))
	case until.Sub(now) > r.Longest:
		return action.Failed(fmt.Errorf("until is %s: ask for at most %d days", day(until), int(r.Longest/(24*time.Hour))))
	}
	return nil
}

func day(t *metav1.Time) string {
	if t == nil {
		return "no end"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func (f *finding) examineNew(ctx context.Context, from client.Reader, tenant *v1alpha1.Tenant, req *v1alpha1.ResourceRequest) error {
	wanted := &req.Spec.Wanted
	if f.partition != nil {
		return action.Failed(fmt.Errorf("partition %s exists: choose another name, or ask for a Change of it", wanted.Partition))
	}
	if m, err := markOf(tenant, wanted.Partition); err != nil {
		return err
	} else if m != nil && !m.has(req.UID) {
		return action.Failed(fmt.Errorf("the name %s is already given to request %s: choose another name", wanted.Partition, m.Requests[0].Name))
	}
	if f.cluster = wanted.Cluster; f.cluster != "" {
		return clusterThere(ctx, from, f.cluster)
	}
	best, err := roomiest(ctx, from, f.quota)
	if err != nil {
		return err
	}
	f.cluster = best
	f.notes = append(f.notes, fmt.Sprintf("No cluster was wished for; %s has the most room.", best))
	return nil
}

// clusterThere is an error that trying again does not mend if a cluster cannot take partitions.
func clusterThere(ctx context.Context, from client.Reader, name string) error {
	cluster := &v1alpha1.Cluster{}
	err := from.Get(ctx, client.ObjectKey{Name: name}, cluster)
	switch {
	case apierrors.IsNotFound(err):
		return action.Failed(fmt.Errorf("there is no cluster %q: leave it to the platform, or choose one of 'yunfan get clusters'", name))
	case err != nil:
		return fmt.Errorf("reading cluster %s: %w", name, err)
	case !cluster.DeletionTimestamp.IsZero():
		return action.Failed(fmt.Errorf("cluster %s is being removed: choose another", name))
	}
	return nil
}

// roomiest is the cluster in which most of the CPU would be left, among those that are ready; the first by name of equals.
func roomiest(ctx context.Context, from client.Reader, quota corev1.ResourceList) (string, error) {
	var clusters v1alpha1.ClusterList
	if err := from.List(ctx, &clusters); err != nil {
		return "", fmt.Errorf("listing clusters: %w", err)
	}
	type candidate struct {
		name string
		fits bool
		left float64
	}
	var all []candidate
	for i := range clusters.Items {
		c := &clusters.Items[i]
		if !c.DeletionTimestamp.IsZero() || !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady) {
			continue
		}
		cpu, memory := room(c, corev1.ResourceCPU), room(c, corev1.ResourceMemory)
		wantedCPU, wantedMemory := quota[corev1.ResourceRequestsCPU], quota[corev1.ResourceRequestsMemory]
		all = append(all, candidate{c.Name, cpu >= wantedCPU.AsApproximateFloat64() && memory >= wantedMemory.AsApproximateFloat64(), cpu})
	}
	if len(all) == 0 {
		return "", errors.New("no cluster is ready: it is tried again; a platform administrator sees why in 'yunfan get clusters'")
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.fits != b.fits {
			return map[bool]int{true: -1, false: 1}[a.fits]
		}
		return cmp.Or(cmp.Compare(b.left, a.left), cmp.Compare(a.name, b.name))
	})
	return all[0].name, nil
}

// room is what of a resource is not requested in a cluster.
func room(c *v1alpha1.Cluster, name corev1.ResourceName) float64 {
	has, requested := c.Status.Allocatable[name], c.Status.Requested[name]
	return has.AsApproximateFloat64() - requested.AsApproximateFloat64()
}

func (f *finding) examineExisting(wanted *v1alpha1.WantedResources) error {
	p := f.partition
	switch {
	case p == nil:
		return action.Failed(fmt.Errorf("there is no partition %s: 'yunfan partitions' lists the tenant's", wanted.Partition))
	case !p.DeletionTimestamp.IsZero():
		return action.Failed(fmt.Errorf("partition %s is being deleted", p.Name))
	case p.Spec.Parent != "":
		return action.Failed(fmt.Errorf("partition %s is a part of %s: an Admin of the tenant changes it himself; ask for %s", p.Name, p.Spec.Parent, p.Spec.Parent))
	}
	end, err := endOf(p)
	if err != nil {
		return err
	}
	switch {
	case wanted.Type == v1alpha1.RequestChange && wanted.Until == nil && p.Annotations[annotationFrozen] != "":
		return action.Failed(fmt.Errorf("the term of partition %s is over: say in spec.wanted.until how long it is to stay", p.Name))
	case wanted.Type == v1alpha1.RequestExtend && end == nil:
		return action.Failed(fmt.Errorf("partition %s has no end that could be put off", p.Name))
	case wanted.Type == v1alpha1.RequestExtend && !wanted.Until.After(end.Time):
		return action.Failed(fmt.Errorf("partition %s is already there until %s: ask for a later time", p.Name, day(end)))
	}
	f.notes = append(f.notes, fmt.Sprintf("Partition %s in cluster %s has %s now, and %s.", p.Name, p.Spec.Cluster, words(v1alpha1.NormalizedQuota(p.Spec.Quota)), untilWords(end)))
	return nil
}

func untilWords(end *metav1.Time) string {
	if end == nil {
		return "no end"
	}
	return "is there until " + day(end)
}

// examineQuota looks at the quota against what the tenant, the cluster and the partition itself have.
func (f *finding) examineQuota(ctx context.Context, from client.Reader, tenant *v1alpha1.Tenant, req *v1alpha1.ResourceRequest) error {
	var current corev1.ResourceList
	if f.partition != nil {
		current = f.partition.Spec.Quota
		if sameQuota(over(current, f.quota), current) && f.until == nil {
			return action.Failed(fmt.Errorf("partition %s has just that already: %s", f.partition.Name, words(f.quota)))
		}
		if err := f.coversParts(); err != nil {
			return err
		}
	}
	final := over(current, f.quota)
	for _, name := range slices.Sorted(maps.Keys(v1alpha1.NormalizedQuota(tenant.Spec.Quota))) {
		if _, ok := final[name]; !ok {
			return action.Failed(fmt.Errorf("the quota of tenant %s bounds %s: say in spec.wanted.quota how much of it the partition is to have", tenant.Name, name))
		}
	}
	cluster := &v1alpha1.Cluster{}
	if err := from.Get(ctx, client.ObjectKey{Name: f.cluster}, cluster); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading cluster %s: %w", f.cluster, err)
	}
	f.roomNotes(cluster, current, final)
	given := given(tenant, req.Spec.Wanted.Partition)
	quota := v1alpha1.NormalizedQuota(tenant.Spec.Quota)
	for _, name := range slices.Sorted(maps.Keys(quota)) {
		sum, hard := given[name].DeepCopy(), quota[name]
		sum.Add(final[name])
		if sum.Cmp(hard) > 0 {
			sum.Sub(hard)
			f.notes = append(f.notes, fmt.Sprintf("The quota of tenant %s, %s of %s, would be raised by %s.", tenant.Name, hard.String(), name, sum.String()))
		}
	}
	return nil
}

// coversParts refuses less than what was given to sub-partitions, and notes what is used already.
func (f *finding) coversParts() error {
	parts := corev1.ResourceList{}
	for _, a := range f.partition.Status.Allocated {
		v1alpha1.AddQuota(parts, a.Quota)
	}
	used := v1alpha1.NormalizedQuota(f.partition.Status.Used)
	for _, name := range slices.Sorted(maps.Keys(f.quota)) {
		q := f.quota[name]
		if p, ok := parts[name]; ok && q.Cmp(p) < 0 {
			return action.Failed(fmt.Errorf("%s: %s is less than the %s that its sub-partitions were given: lower theirs first", name, q.String(), p.String()))
		}
		if u, ok := used[name]; ok && q.Cmp(u) < 0 {
			f.notes = append(f.notes, fmt.Sprintf("%s: %s is used now, more than the %s asked for: nothing that runs is ended, but nothing new starts.", name, u.String(), q.String()))
		}
	}
	return nil
}

// roomNotes tell what a cluster has left of what the partition is to have more. How much others have requested there is
// not for tenants, who read the notes: they hear only where it is not enough.
func (f *finding) roomNotes(c *v1alpha1.Cluster, current, final corev1.ResourceList) {
	current = v1alpha1.NormalizedQuota(current)
	for _, name := range []corev1.ResourceName{corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory} {
		short := corev1.ResourceName(strings.TrimPrefix(string(name), "requests."))
		has, requested := c.Status.Allocatable[short], c.Status.Requested[short]
		more := final[name].DeepCopy()
		more.Sub(current[name])
		if more.Sign() <= 0 || has.Sign() == 0 {
			continue
		}
		left := has.DeepCopy()
		left.Sub(requested)
		f.room = append(f.room, fmt.Sprintf("Cluster %s has %s of %s, of which %s is not requested; %s more is asked for.", c.Name, has.String(), short, left.String(), more.String()))
		switch {
		case more.Cmp(has) > 0:
			f.notes = append(f.notes, fmt.Sprintf("MORE %s IS ASKED FOR THAN ALL OF CLUSTER %s HAS.", strings.ToUpper(string(short)), c.Name))
		case more.Cmp(left) > 0:
			f.notes = append(f.notes, fmt.Sprintf("More %s is asked for than is left in cluster %s.", short, c.Name))
		}
	}
}
