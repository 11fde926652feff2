// Package usage keeps a history of what partitions and tenants use of their quota: the ground on which a quota is raised
// or lowered. The server that leads takes a sample now and then; older ones are thinned out, so that the history of years
// stays small.
package usage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
)

// DefaultInterval is the time between two samples.
const DefaultInterval = 5 * time.Minute

const (
	// writeTimeout bounds one sample: the next one tries again.
	writeTimeout = time.Minute
	// thinInterval is how often old samples are thinned out.
	thinInterval = time.Hour
	// maxResources is how many resources of one partition are kept: a quota may name any number.
	maxResources = 40
)

// History takes samples and answers questions about them.
type History struct {
	// Hub is the cache.
	Hub     client.Reader
	Records *record.Database
	// Interval between two samples; DefaultInterval if zero.
	Interval time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

func (h *History) interval() time.Duration {
	if h.Interval == 0 {
		return DefaultInterval
	}
	return h.Interval
}

func (h *History) now() time.Time {
	if h.Now == nil {
		return time.Now()
	}
	return h.Now()
}

// SetupWithManager makes the table and has samples taken while this server leads.
func (h *History) SetupWithManager(mgr manager.Manager) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := h.migrate(ctx); err != nil {
		return err
	}
	return mgr.Add(h)
}

// NeedLeaderElection says that one server takes the samples.
func (h *History) NeedLeaderElection() bool { return true }

// Start takes samples until ctx ends. What fails once is tried at the next sample: a hole in the history is no reason to
// stop the server.
func (h *History) Start(ctx context.Context) error {
	ticker := time.NewTicker(h.interval())
	defer ticker.Stop()
	var thinned time.Time
	for {
		err := h.Sample(ctx)
		if err == nil && h.now().Sub(thinned) >= thinInterval {
			thinned = h.now()
			err = h.Thin(ctx)
		}
		if err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "Keeping the history of usage")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// migrate makes the table.
func (h *History) migrate(ctx context.Context) error {
	err := h.Records.Migrate(ctx, record.Migration{
		Capability: "usage", Version: 1,
		Statements: []string{
			// One row has all resources of a partition at a time, or of a tenant where partition is empty. span is how
			// many seconds from at on the row stands for.
			`CREATE TABLE usage_samples (tenant TEXT NOT NULL, partition TEXT NOT NULL, at BIGINT NOT NULL, span BIGINT NOT NULL,
				amounts TEXT NOT NULL, PRIMARY KEY (tenant, partition, at))`,
			`CREATE INDEX usage_samples_by_age ON usage_samples (span, at)`,
		},
	})
	if err != nil {
		return fmt.Errorf("making the table of usage: %w", err)
	}
	return nil
}

// subject is what a row is about: a partition, or a tenant if partition is empty.
type subject struct{ tenant, partition string }

// Sample writes what is used now. Partitions whose cluster does not answer are left out: nobody knows what they use.
func (h *History) Sample(ctx context.Context) error {
	samples, err := h.look(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	at := h.now().Truncate(h.interval()).Unix()
	err = h.Records.Update(ctx, func(tx *record.Tx) error {
		for _, s := range slices.SortedFunc(maps.Keys(samples), compareSubjects) {
			if err := insert(ctx, tx, s, at, int64(h.interval()/time.Second), samples[s]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing a sample of usage: %w", err)
	}
	return nil
}

// look sums up what the hub knows of every partition and tenant.
func (h *History) look(ctx context.Context) (map[subject]amounts, error) {
	var partitions v1alpha1.PartitionList
	if err := h.Hub.List(ctx, &partitions, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing partitions: %w", err)
	}
	var tenants v1alpha1.TenantList
	if err := h.Hub.List(ctx, &tenants, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing tenants: %w", err)
	}
	samples := map[subject]amounts{}
	sums := map[string]corev1.ResourceList{}
	for i := range partitions.Items {
		p := &partitions.Items[i]
		if sums[p.Namespace] == nil {
			sums[p.Namespace] = corev1.ResourceList{}
		}
		used := usedOf(p)
		v1alpha1.AddQuota(sums[p.Namespace], used)
		if known(p) {
			samples[subject{p.Namespace, p.Name}] = newAmounts(used, v1alpha1.NormalizedQuota(p.Status.Hard))
		}
	}
	for i := range tenants.Items {
		t := &tenants.Items[i]
		samples[subject{tenant: t.Name}] = newAmounts(sums[t.Name], v1alpha1.NormalizedQuota(t.Spec.Quota))
	}
	return samples, nil
}

// usedOf is what the cluster counts for the quota, and the pods where that does not.
func usedOf(p *v1alpha1.Partition) corev1.ResourceList {
	used := corev1.ResourceList{}
	v1alpha1.AddQuota(used, p.Status.Used)
	if _, counted := used[corev1.ResourcePods]; !counted {
		used[corev1.ResourcePods] = *resource.NewQuantity(int64(p.Status.Pods), resource.DecimalSI)
	}
	return used
}

// known says whether what is shown of the partition is seen now.
func known(p *v1alpha1.Partition) bool {
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || p.Status.Namespace == "" {
		return false
	}
	switch ready.Reason {
	case v1alpha1.ReasonUnreachable, v1alpha1.ReasonClusterNotFound, v1alpha1.ReasonClusterNotReady, v1alpha1.ReasonCredentialsInvalid:
		return ready.Status == metav1.ConditionTrue
	}
	return true
}
