package request

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// Annotations of a Partition that say which requests it goes back to. Only those who may allocate partitions can write
// them.
const (
	// annotationUntil is the end of the term, as RFC 3339. A platform administrator may set it to another time.
	annotationUntil = "yunfan.io/until"
	// annotationHolder is the name and the UID of the request whose run carries the term.
	annotationHolder = "yunfan.io/term-of"
	// annotationRequests are the UIDs of the requests that made and changed the partition, the latest last. They are
	// written with the change: so none is made twice.
	annotationRequests = "yunfan.io/resource-requests"
	// annotationBefore is what the last request changed, to take it back.
	annotationBefore = "yunfan.io/before-resource-request"
	// annotationFrozen is the quota before it was lowered to what is used, after the end of the term.
	annotationFrozen = "yunfan.io/quota-before-end"
)

// mostRequests is how many requests a partition remembers.
const mostRequests = 200

// before is a partition as it was before the last request changed it.
type before struct {
	Quota  corev1.ResourceList `json:"quota,omitempty"`
	Until  string              `json:"until,omitempty"`
	Holder string              `json:"holder,omitempty"`
	Frozen string              `json:"frozen,omitempty"`
}

// endOf is the end of a partition's term; nil if it has none.
func endOf(p *v1alpha1.Partition) (*metav1.Time, error) {
	text := p.Annotations[annotationUntil]
	if text == "" {
		return nil, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, action.Failed(fmt.Errorf("annotation %s of partition %s is %q: write a time such as 2027-03-31T16:00:00Z", annotationUntil, p.Name, text))
	}
	return &metav1.Time{Time: t.UTC()}, nil
}

func isApplied(p *v1alpha1.Partition, uid types.UID) bool {
	return p != nil && slices.Contains(strings.Split(p.Annotations[annotationRequests], ","), string(uid))
}

// isLast says whether no other request changed the partition since.
func isLast(p *v1alpha1.Partition, uid types.UID) bool {
	all := strings.Split(p.Annotations[annotationRequests], ",")
	return all[len(all)-1] == string(uid)
}

func holderOf(req *v1alpha1.ResourceRequest) string { return req.Name + "/" + string(req.UID) }

// holds says whether the request's run carries the partition's term.
func holds(p *v1alpha1.Partition, req *v1alpha1.ResourceRequest) bool {
	return p.Annotations[annotationHolder] == holderOf(req)
}

// sign notes on the partition that the request changes it, and the new end if that is moved: its run then carries the
// term.
func sign(p *v1alpha1.Partition, req *v1alpha1.ResourceRequest, until *metav1.Time, moved bool) {
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	var uids []string
	if text := p.Annotations[annotationRequests]; text != "" {
		uids = strings.Split(text, ",")
	}
	uids = append(uids, string(req.UID))
	p.Annotations[annotationRequests] = strings.Join(uids[max(0, len(uids)-mostRequests):], ",")
	if moved && until != nil {
		p.Annotations[annotationUntil], p.Annotations[annotationHolder] = until.UTC().Format(time.RFC3339), holderOf(req)
	}
}

// partition reads a partition of the request's tenant past the cache; nil if there is none.
func (r *Requests) partition(ctx context.Context, namespace, name string) (*v1alpha1.Partition, error) {
	p := &v1alpha1.Partition{}
	err := r.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, p)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading partition %s: %w", name, err)
	}
	return p, nil
}

// make creates the partition of a request. One that the request has made already is left as it is.
func (r *Requests) make(ctx context.Context, req *v1alpha1.ResourceRequest, g *v1alpha1.GrantedResources, moved bool) error {
	wanted := &req.Spec.Wanted
	p := &v1alpha1.Partition{
		ObjectMeta: metav1.ObjectMeta{Namespace: req.Namespace, Name: wanted.Partition},
		Spec:       v1alpha1.PartitionSpec{Cluster: g.Cluster, Environment: wanted.Environment, Quota: g.Quota},
	}
	sign(p, req, g.Until, moved)
	err := r.client.Create(ctx, p, client.FieldOwner(v1alpha1.FieldOwner))
	if apierrors.IsAlreadyExists(err) {
		there, rerr := r.partition(ctx, req.Namespace, wanted.Partition)
		switch {
		case rerr != nil:
			return rerr
		case isApplied(there, req.UID):
			return nil
		case there == nil:
			return fmt.Errorf("creating partition %s: %w", p.Name, err)
		}
		return action.Failed(fmt.Errorf("partition %s exists: choose another name, or ask for a Change of it", p.Name))
	}
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
		return action.Failed(fmt.Errorf("creating partition %s: %w", p.Name, err))
	}
	if err != nil {
		return fmt.Errorf("creating partition %s: %w", p.Name, err)
	}
	return nil
}

// change gives the partition of a request another quota and another end. What the request has changed already is left as
// it is, also where another has changed it since.
func (r *Requests) change(ctx context.Context, req *v1alpha1.ResourceRequest, g *v1alpha1.GrantedResources, moved bool) error {
	return r.rewrite(ctx, req, func(p *v1alpha1.Partition) (bool, error) {
		if isApplied(p, req.UID) {
			return false, nil
		}
		was := before{p.Spec.Quota, p.Annotations[annotationUntil], p.Annotations[annotationHolder], p.Annotations[annotationFrozen]}
		text, err := json.Marshal(was)
		if err != nil {
			return false, fmt.Errorf("writing what was before: %w", err)
		}
		if moved {
			if err := thaw(p); err != nil {
				return false, err
			}
		}
		if req.Spec.Wanted.Type == v1alpha1.RequestChange {
			p.Spec.Quota = over(p.Spec.Quota, g.Quota)
		}
		sign(p, req, g.Until, moved)
		p.Annotations[annotationBefore] = string(text)
		return true, nil
	})
}

// restore takes back what the request has changed, unless another has changed the partition since.
func (r *Requests) restore(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	return r.rewrite(ctx, req, func(p *v1alpha1.Partition) (bool, error) {
		text := p.Annotations[annotationBefore]
		if !isApplied(p, req.UID) || !isLast(p, req.UID) || text == "" {
			return false, nil
		}
		was := before{}
		if err := json.Unmarshal([]byte(text), &was); err != nil {
			return false, action.Failed(fmt.Errorf("annotation %s of partition %s cannot be read: %w", annotationBefore, p.Name, err))
		}
		p.Spec.Quota = was.Quota
		for key, value := range map[string]string{annotationUntil: was.Until, annotationHolder: was.Holder, annotationFrozen: was.Frozen} {
			if delete(p.Annotations, key); value != "" {
				p.Annotations[key] = value
			}
		}
		p.Annotations[annotationRequests] = strings.TrimSuffix(strings.TrimSuffix(p.Annotations[annotationRequests], string(req.UID)), ",")
		delete(p.Annotations, annotationBefore)
		return true, nil
	})
}

// freeze lowers a partition's quota to what is used, so that nothing grows there; what it was is kept.
func (r *Requests) freeze(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	return r.rewrite(ctx, req, func(p *v1alpha1.Partition) (bool, error) {
		if p.Annotations[annotationFrozen] != "" || len(p.Spec.Quota) == 0 {
			return false, nil
		}
		was, err := json.Marshal(p.Spec.Quota)
		if err != nil {
			return false, fmt.Errorf("writing the quota: %w", err)
		}
		used, parts := v1alpha1.NormalizedQuota(p.Status.Used), corev1.ResourceList{}
		for _, a := range p.Status.Allocated {
			v1alpha1.AddQuota(parts, a.Quota)
		}
		quota := over(p.Spec.Quota, nil)
		for name, hard := range quota {
			now, known := used[name]
			if !known {
				continue // what nobody has counted yet stays as it is
			}
			now = now.DeepCopy()
			now.Add(parts[name])
			quota[name] = smaller(now, hard)
		}
		p.Spec.Quota = quota
		p.Annotations[annotationFrozen] = string(was)
		return true, nil
	})
}

// thaw gives a partition the quota back that it had before the end of its term.
func thaw(p *v1alpha1.Partition) error {
	text := p.Annotations[annotationFrozen]
	if text == "" {
		return nil
	}
	was := corev1.ResourceList{}
	if err := json.Unmarshal([]byte(text), &was); err != nil {
		return action.Failed(fmt.Errorf("annotation %s of partition %s cannot be read: %w", annotationFrozen, p.Name, err))
	}
	p.Spec.Quota = was
	delete(p.Annotations, annotationFrozen)
	return nil
}

// rewrite changes the partition of a request by compare-and-swap.
func (r *Requests) rewrite(ctx context.Context, req *v1alpha1.ResourceRequest, change func(*v1alpha1.Partition) (bool, error)) error {
	name := req.Spec.Wanted.Partition
	err := retry.RetryOnConflict(manyTimes, func() error {
		p, err := r.partition(ctx, req.Namespace, name)
		if err != nil {
			return err
		}
		if p == nil || !p.DeletionTimestamp.IsZero() {
			return errGone
		}
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		changed, err := change(p)
		if err != nil || !changed {
			return err
		}
		return r.client.Update(ctx, p, client.FieldOwner(v1alpha1.FieldOwner))
	})
	switch {
	case errors.Is(err, errGone):
		return action.Failed(fmt.Errorf("partition %s: %w", name, err))
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err):
		return action.Failed(fmt.Errorf("changing partition %s: %w", name, err))
	case err != nil:
		return fmt.Errorf("changing partition %s: %w", name, err)
	}
	return nil
}

var errGone = errors.New("it does not exist, or is being deleted")

// occupants are the applications that are delivered to a partition and its sub-partitions, sorted.
func (r *Requests) occupants(ctx context.Context, p *v1alpha1.Partition) ([]string, error) {
	var deliveries v1alpha1.DeliveryList
	if err := r.reader.List(ctx, &deliveries, client.InNamespace(p.Namespace), client.MatchingLabels{v1alpha1.LabelPartition: p.Name}); err != nil {
		return nil, fmt.Errorf("listing the deliveries to partition %s: %w", p.Name, err)
	}
	var names []string
	for i := range deliveries.Items {
		names = append(names, "application "+deliveries.Items[i].Spec.Application)
	}
	var partitions v1alpha1.PartitionList
	if err := r.reader.List(ctx, &partitions, client.InNamespace(p.Namespace)); err != nil {
		return nil, fmt.Errorf("listing partitions: %w", err)
	}
	for i := range partitions.Items {
		if partitions.Items[i].Spec.Parent == p.Name {
			names = append(names, "sub-partition "+partitions.Items[i].Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// remove deletes a partition in which nothing is, and says whether it is gone. What was delivered in the meantime keeps
// it: the partition's own policy refuses.
func (r *Requests) remove(ctx context.Context, p *v1alpha1.Partition) error {
	if !p.DeletionTimestamp.IsZero() {
		return nil
	}
	err := r.client.Delete(ctx, p, client.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting partition %s: %w", p.Name, err)
	}
	return nil
}
