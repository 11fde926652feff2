package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// WebhookPath and RunWebhookPath are where the hub's API server asks whether a Workflow and a WorkflowRun are sound.
const (
	WebhookPath    = "/validate-yunfan-io-v1alpha1-workflow"
	RunWebhookPath = "/validate-yunfan-io-v1alpha1-workflowrun"
)

// longestRefusal is how much of what is wrong a refusal tells, in bytes.
const longestRefusal = 8 << 10

// NewWebhooks gives the handlers of admission reviews by their paths. They refuse early what would fail later, with the
// same words; the engine decides. Actions and platform are as for NewValidity.
func NewWebhooks(mgr manager.Manager, actions map[string]action.Description, platform string) map[string]http.Handler {
	if platform == "" {
		platform = platformNamespace
	}
	shared := newGraphs(actions)
	return map[string]http.Handler{
		WebhookPath:    admission.WithValidator[*v1alpha1.Workflow](mgr.GetScheme(), &workflowValidator{shared, platform}),
		RunWebhookPath: admission.WithValidator[*v1alpha1.WorkflowRun](mgr.GetScheme(), &runValidator{mgr.GetClient(), mgr.GetAPIReader(), shared, platform}),
	}
}

type workflowValidator struct {
	graphs   *graphs
	platform string
}

// ValidateCreate refuses a workflow that cannot be run.
func (v *workflowValidator) ValidateCreate(_ context.Context, w *v1alpha1.Workflow) (admission.Warnings, error) {
	_, problems := v.graphs.get(&w.Spec, w.Namespace == v.platform)
	return nil, refusal("", problems)
}

// ValidateUpdate refuses a change after which it could not be run. One that leaves the spec alone is let through.
func (v *workflowValidator) ValidateUpdate(ctx context.Context, before, after *v1alpha1.Workflow) (admission.Warnings, error) {
	if after.DeletionTimestamp != nil || same(before.Spec, after.Spec) {
		return nil, nil
	}
	return v.ValidateCreate(ctx, after)
}

// ValidateDelete lets every deletion through: runs have the definition with which they began.
func (*workflowValidator) ValidateDelete(context.Context, *v1alpha1.Workflow) (admission.Warnings, error) {
	return nil, nil
}

type runValidator struct {
	cached, live client.Reader
	graphs       *graphs
	platform     string
}

// ValidateCreate refuses a run that would fail before its first step.
func (v *runValidator) ValidateCreate(ctx context.Context, run *v1alpha1.WorkflowRun) (admission.Warnings, error) {
	err := v.judge(ctx, v.cached, run)
	if err != nil && run.Spec.Workflow != "" {
		// The workflow may have been made or changed a moment ago: the hub itself is asked before the run is refused.
		err = v.judge(ctx, v.live, run)
	}
	return nil, err
}

// judge says what is wrong with a run. That the hub does not answer is nothing: the engine decides.
func (v *runValidator) judge(ctx context.Context, hub client.Reader, run *v1alpha1.WorkflowRun) error {
	definition, where := run.Spec.Definition, ""
	if definition == nil {
		w := &v1alpha1.Workflow{}
		err := hub.Get(ctx, client.ObjectKey{Namespace: run.Namespace, Name: run.Spec.Workflow}, w)
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("spec.workflow: there is no workflow %s in %s", run.Spec.Workflow, run.Namespace)
		}
		if err != nil {
			return nil //nolint:nilerr // the engine decides
		}
		definition, where = &w.Spec, "workflow "+w.Name+" cannot be run: "
	}
	g, problems := v.graphs.get(definition, Internal(run, v.platform))
	if len(problems) > 0 {
		if run.Spec.Definition != nil {
			problems = within(problems)
		}
		return refusal(where, problems)
	}
	_, problems = g.Inputs(run.Spec.Inputs)
	return refusal("", problems)
}

// ValidateUpdate refuses a change of what is run, and a retry from a step that is not there.
func (v *runValidator) ValidateUpdate(_ context.Context, before, after *v1alpha1.WorkflowRun) (admission.Warnings, error) {
	if after.DeletionTimestamp != nil {
		return nil, nil
	}
	if !same(before.Spec.Definition, after.Spec.Definition) {
		return nil, errors.New("spec.definition: what is run cannot be changed: start another run")
	}
	if len(before.Spec.Inputs)+len(after.Spec.Inputs) > 0 && !same(before.Spec.Inputs, after.Spec.Inputs) {
		return nil, errors.New("spec.inputs: the inputs of a run cannot be changed: start another run")
	}
	retry, definition := after.Spec.Retry, after.Status.Definition
	if retry == nil || retry.From == "" || definition == nil || same(before.Spec.Retry, retry) {
		return nil, nil
	}
	if !slices.ContainsFunc(definition.Steps, func(s v1alpha1.WorkflowStep) bool { return s.Name == retry.From }) {
		return nil, fmt.Errorf("spec.retry.from: the run has no step %s", retry.From)
	}
	return nil, nil
}

// ValidateDelete lets every deletion through.
func (*runValidator) ValidateDelete(context.Context, *v1alpha1.WorkflowRun) (admission.Warnings, error) {
	return nil, nil
}

// same compares two values as JSON.
func same(a, b any) bool {
	one, errOne := json.Marshal(a)
	other, errOther := json.Marshal(b)
	return errOne == nil && errOther == nil && bytes.Equal(one, other)
}

// within gives problems of a definition the place that they have in a run.
func within(problems field.ErrorList) field.ErrorList {
	moved := make(field.ErrorList, len(problems))
	for i, p := range problems {
		here := *p
		here.Field = "spec.definition" + strings.TrimPrefix(p.Field, "spec")
		moved[i] = &here
	}
	return moved
}

// refusal is problems as one error; none if there are none.
func refusal(where string, problems field.ErrorList) error {
	if len(problems) == 0 {
		return nil
	}
	return errors.New(short(where+places(problems), longestRefusal))
}
