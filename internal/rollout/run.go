package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// LabelRollout names the Rollout on its WorkflowRun.
const LabelRollout = "yunfan.io/rollout"

// runName is the name of a rollout's run: always the same, so that none is made twice.
func runName(o *v1alpha1.Rollout) string {
	const most, short = 90, 8
	name := "rollout-" + o.Name
	if len(name) > most {
		name = name[:most-short-1] + "-" + digest(name)[:short]
	}
	return name
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	const bytes = 16
	return hex.EncodeToString(sum[:bytes])
}

// start makes the run of a rollout, on behalf of whoever changed the application.
func (r *Rollouts) start(ctx context.Context, o *v1alpha1.Rollout, p *program) error {
	yes := true
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Status.Run,
			Labels: map[string]string{
				v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform, v1alpha1.LabelApplication: o.Spec.Application, LabelRollout: labelValue(o.Name),
			},
			Finalizers: []string{v1alpha1.FinalizerRun}, // saves the step engine a write
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "Rollout", Name: o.Name, UID: o.UID, Controller: &yes,
			}},
		},
		Spec: v1alpha1.WorkflowRunSpec{Definition: &p.definition, Inputs: p.inputs},
	}
	if o.Spec.User != "" {
		run.Spec.User = &v1alpha1.Actor{Name: o.Spec.User}
	}
	err := r.client.Create(ctx, run, client.FieldOwner(v1alpha1.FieldOwner))
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making run %s: %w", run.Name, err)
	}
	return nil
}

// labelValue is a name as the value of a label.
func labelValue(name string) string {
	const most, short = 63, 8
	if len(name) <= most {
		return name
	}
	return name[:most-short-1] + "-" + digest(name)[:short]
}

// run reads the run of a rollout, past the cache if that does not have it; nil if there is none.
func (r *Rollouts) run(ctx context.Context, o *v1alpha1.Rollout) (*v1alpha1.WorkflowRun, error) {
	run := &v1alpha1.WorkflowRun{}
	key := client.ObjectKey{Namespace: o.Namespace, Name: o.Status.Run}
	err := r.client.Get(ctx, key, run)
	if apierrors.IsNotFound(err) {
		err = r.reader.Get(ctx, key, run)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading run %s: %w", key.Name, err)
	}
	return run, nil
}
