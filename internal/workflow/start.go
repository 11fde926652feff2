package workflow

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Internal says whether the run may have actions for the platform's own runs: the platform has written its definition,
// or it is a workflow of the platform's own namespace.
func Internal(run *v1alpha1.WorkflowRun, platform string) bool {
	if run.Spec.Definition != nil {
		return run.Labels[v1alpha1.LabelMadeBy] == v1alpha1.MadeByPlatform
	}
	return run.Namespace == platform
}

// start fixes what is run. What is wrong with it finishes the run; an error is one of the hub's.
func (e *Engine) start(ctx context.Context, run *v1alpha1.WorkflowRun) error {
	s := &run.Status
	s.Holder, s.ObservedGeneration = e.identity, run.Generation
	if run.Spec.Retry != nil {
		s.Retries = run.Spec.Retry.Number
	}
	now := metav1.NowMicro()
	s.StartTime = &now
	refuse := func(phase v1alpha1.RunPhase, message string) error {
		s.Phase, s.Message, s.FinishTime = phase, short(message, longestMessage), &now
		(&turn{run: run}).condition(metav1.ConditionFalse)
		return nil
	}
	if run.Spec.Aborted || !run.DeletionTimestamp.IsZero() {
		return refuse(v1alpha1.RunAborted, "aborted before it began")
	}
	definition := run.Spec.Definition
	if definition == nil {
		w, err := e.workflow(ctx, client.ObjectKey{Namespace: run.Namespace, Name: run.Spec.Workflow})
		if apierrors.IsNotFound(err) {
			return refuse(v1alpha1.RunFailed, fmt.Sprintf("spec.workflow: there is no workflow %s in %s", run.Spec.Workflow, run.Namespace))
		}
		if err != nil {
			return fmt.Errorf("reading workflow %s: %w", run.Spec.Workflow, err)
		}
		definition = &w.Spec
	}
	g, problems := e.graphs.get(definition, Internal(run, e.options.Namespace))
	if len(problems) > 0 {
		return refuse(v1alpha1.RunFailed, "the definition cannot be run: "+places(problems))
	}
	inputs, problems := g.Inputs(run.Spec.Inputs)
	if len(problems) > 0 {
		return refuse(v1alpha1.RunFailed, "the inputs do not fit: "+places(problems))
	}
	s.Definition, s.Inputs, s.Phase, s.Message, s.FinishTime = definition.DeepCopy(), inputs, v1alpha1.RunPending, "", nil
	s.Steps = make([]v1alpha1.StepStatus, len(definition.Steps))
	for i := range definition.Steps {
		s.Steps[i] = v1alpha1.StepStatus{Name: definition.Steps[i].Name, Phase: v1alpha1.StepPending}
	}
	// Each step needs room to be written at all.
	if all := size(s) + reserveOfRun + len(s.Steps)*reservePerStep; all > maxStatus {
		s.Definition, s.Inputs, s.Steps = nil, nil, nil
		return refuse(v1alpha1.RunFailed, fmt.Sprintf("definition and inputs need %d bytes of the run's status of %d: make them smaller", all, maxStatus))
	}
	return nil
}

// workflow reads a Workflow; one that was made a moment ago may not be in the cache yet.
func (e *Engine) workflow(ctx context.Context, key client.ObjectKey) (*v1alpha1.Workflow, error) {
	w := &v1alpha1.Workflow{}
	err := e.client.Get(ctx, key, w)
	if apierrors.IsNotFound(err) {
		err = e.reader.Get(ctx, key, w)
	}
	return w, err
}

// places are all problems with their places, as far as they go into a message.
func places(problems field.ErrorList) string {
	texts := make([]string, 0, len(problems))
	for _, p := range problems {
		texts = append(texts, short(p.Error(), longestMessage/2))
	}
	return strings.Join(texts, "; ")
}
