package application

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// CheckQuota gives a function that says what the quotas of partitions do not hold if a revision runs there beside all that
// there is, with so many pods by partition and component. Nil if it fits.
func CheckQuota(reader client.Reader) func(ctx context.Context, to *v1alpha1.ApplicationRevision, replicas map[string]map[string]int32) error {
	return func(ctx context.Context, to *v1alpha1.ApplicationRevision, replicas map[string]map[string]int32) error {
		var problems []string
		for _, name := range sortedKeys(replicas) {
			p := &v1alpha1.Partition{}
			if err := reader.Get(ctx, client.ObjectKey{Namespace: to.Namespace, Name: name}, p); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("reading partition %s: %w", name, err)
			} else if err != nil {
				continue // nothing comes there
			}
			wanted := demandBeside(to, p, replicas[name])
			problems = append(problems, exceeded(name, hardOf(p), v1alpha1.NormalizedQuota(p.Status.Used), corev1.ResourceList{}, wanted)...)
		}
		if problems != nil {
			return reconcile.Stall(v1alpha1.ReasonQuotaExceeded,
				"both revisions run side by side, and there is no room for the second: %s: have the quota raised, or choose the strategy RollingUpdate or Recreate", strings.Join(problems, "; "))
		}
		return nil
	}
}

// demandBeside is what a second track takes of a partition's quota: pods, one service for each component that has one.
func demandBeside(to *v1alpha1.ApplicationRevision, p *v1alpha1.Partition, replicas map[string]int32) corev1.ResourceList {
	demand := corev1.ResourceList{}
	pods := podsOf(to.Spec.Components, to.OverridesFor(p.Name), p.Spec.Limits)
	for i := range to.Spec.Components {
		c := &to.Spec.Components[i]
		if c.Service != nil {
			increase(demand, corev1.ResourceServices, one, 1)
		}
		if beside, _ := c.RunsBesideItself(); !beside {
			continue
		}
		for name, quantity := range pods[c.Name] {
			increase(demand, name, quantity, int64(replicas[c.Name]))
		}
	}
	return demand
}
