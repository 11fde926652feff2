package request

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// WorkflowName is the Workflow of the platform's namespace after which requests are carried. It is made if it is missing,
// and platform administrators may change it.
const WorkflowName = "resource-request"

// labelRequest names the request on its runs.
const labelRequest = "yunfan.io/resource-request"

// values writes the inputs of a step.
func values(pairs map[string]any) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for name, value := range pairs {
		text, err := json.Marshal(value)
		if err != nil {
			panic(err) // what is written below can be marshalled
		}
		out[name] = text
	}
	return out
}

// step of the workflow: each knows the request.
func step(name, title, does string, more map[string]any, needs ...string) v1alpha1.WorkflowStep {
	with := map[string]any{"request": "${{ inputs.request }}", "uid": "${{ inputs.uid }}"}
	maps.Copy(with, more)
	const tries = 10
	return v1alpha1.WorkflowStep{
		Name: name, DisplayName: title, Action: does, With: values(with), Needs: needs,
		Retry: &v1alpha1.StepRetry{Limit: tries, Interval: &metav1.Duration{Duration: time.Second}, MaxInterval: &metav1.Duration{Duration: time.Minute}},
	}
}

func requestInputs() []v1alpha1.WorkflowInput {
	return []v1alpha1.WorkflowInput{
		{Name: "request", Type: v1alpha1.TypeString, Required: true, Description: "Name of the ResourceRequest"},
		{Name: "uid", Type: v1alpha1.TypeString, Required: true, Description: "UID of the ResourceRequest"},
	}
}

// DefaultWorkflow is the workflow of requests as it is made.
func DefaultWorkflow() v1alpha1.WorkflowSpec {
	allocate := step("allocate", "分配 Allocate", "request.allocate", map[string]any{
		"asked":   "${{ steps.check.outputs.quota }}",
		"quota":   "${{ steps.approve.outputs.values.quota }}",
		"until":   "${{ steps.approve.outputs.values.until }}",
		"cluster": "${{ steps.approve.outputs.values.cluster }}",
	}, "check", "approve")
	allocate.Compensate = &v1alpha1.StepCompensation{Action: "request.release", With: values(map[string]any{"request": "${{ inputs.request }}", "uid": "${{ inputs.uid }}"})}
	approve := v1alpha1.WorkflowStep{
		Name: "approve", DisplayName: "审批 Approve", Action: "approve", Needs: []string{"check"}, With: values(map[string]any{
			"roles":   []string{string(v1alpha1.ApproverPlatformAdministrator)},
			"subject": "${{ steps.check.outputs.subject }}",
			"values": map[string]any{
				"quota":   "${{ steps.check.outputs.quota }}",
				"until":   "${{ steps.check.outputs.until }}",
				"cluster": "${{ steps.check.outputs.cluster }}",
			},
			"editable":    []string{"quota", "until", "cluster"},
			"remindEvery": "24h",
		}),
	}
	return v1alpha1.WorkflowSpec{
		DisplayName: "资源申请 Resource request",
		Description: "Carries every ResourceRequest. It may be changed: add approvals or notifications before allocate, keep check, allocate, activate, term and reclaim.",
		Inputs:      requestInputs(),
		OnFailure:   v1alpha1.OnFailureCompensate,
		Steps: append([]v1alpha1.WorkflowStep{
			step("check", "检查 Check", "request.check", nil), approve, allocate, step("activate", "激活 Activate", "request.activate", nil, "allocate"),
		}, termSteps("activate")...),
	}
}

// termSteps are what comes after a request is active.
func termSteps(needs ...string) []v1alpha1.WorkflowStep {
	reclaim := step("reclaim", "收回 Reclaim", "request.reclaim", nil, "term")
	reclaim.When = "steps.term.outputs.ended"
	return []v1alpha1.WorkflowStep{step("term", "期限 Term", "request.term", nil, needs...), reclaim}
}

// keeper makes the workflow of requests if it is missing, so that administrators can change it before the first request.
type keeper struct{ *Requests }

// NeedLeaderElection says that one server makes it.
func (*keeper) NeedLeaderElection() bool { return true }

// Start makes the workflow; that it cannot be made now is no reason to stop the server, for the first request makes it,
// too.
func (k *keeper) Start(ctx context.Context) error {
	if _, err := k.workflow(ctx); err != nil && ctx.Err() == nil {
		log.FromContext(ctx).Error(err, "Making the workflow of resource requests")
	}
	return nil
}

// workflow reads the workflow of requests, and makes it if it is missing.
func (r *Requests) workflow(ctx context.Context) (*v1alpha1.Workflow, error) {
	w := &v1alpha1.Workflow{}
	err := r.reader.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: WorkflowName}, w)
	if !apierrors.IsNotFound(err) {
		if err != nil {
			return nil, fmt.Errorf("reading workflow %s: %w", WorkflowName, err)
		}
		return w, nil
	}
	w = &v1alpha1.Workflow{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: WorkflowName}, Spec: DefaultWorkflow()}
	if err := r.client.Create(ctx, w, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
		return nil, fmt.Errorf("making workflow %s: %w", WorkflowName, err)
	}
	return w, nil
}

// carry gives a request the run that carries it.
func (r *Requests) carry(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	if req.Status.Run != "" {
		return nil
	}
	w, err := r.workflow(ctx)
	if err != nil {
		return err
	}
	if valid := meta.FindStatusCondition(w.Status.Conditions, v1alpha1.ConditionValid); valid != nil && valid.Status == metav1.ConditionFalse && valid.ObservedGeneration == w.Generation {
		return reconcile.Wait(v1alpha1.ReasonInvalid, workflowInterval, "the workflow %s of namespace %s cannot be run, a platform administrator must mend it: %s", w.Name, w.Namespace, valid.Message)
	}
	return r.begin(ctx, req, runName(req, 1), &w.Spec)
}

// runName is the name of a run of a request: always the same, so that none is made twice.
func runName(req *v1alpha1.ResourceRequest, number int) string {
	const short = 8
	name := "request-" + req.Name + "-" + string(req.UID)[:min(short, len(req.UID))]
	if number > 1 {
		name += "-" + strconv.Itoa(number)
	}
	return name
}

func (r *Requests) begin(ctx context.Context, req *v1alpha1.ResourceRequest, name string, spec *v1alpha1.WorkflowSpec) error {
	yes := true
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: req.Namespace, Name: name,
			Labels: map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform, labelRequest: req.Name},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "ResourceRequest", Name: req.Name, UID: req.UID, Controller: &yes,
			}},
		},
		Spec: v1alpha1.WorkflowRunSpec{
			Definition: spec.DeepCopy(), Inputs: values(map[string]any{"request": req.Name, "uid": string(req.UID)}), User: req.Spec.User,
		},
	}
	err := r.client.Create(ctx, run, client.FieldOwner(v1alpha1.FieldOwner))
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making run %s: %w", name, err)
	}
	req.Status.Run = name
	return nil
}

// continueTerm has another run wait for the end of a term, where the one before was ended by somebody.
func (r *Requests) continueTerm(ctx context.Context, req *v1alpha1.ResourceRequest) error {
	number := 2
	if suffix, ok := strings.CutPrefix(req.Status.Run, runName(req, 1)+"-"); ok {
		if n, err := strconv.Atoi(suffix); err == nil {
			number = n + 1
		}
	}
	spec := &v1alpha1.WorkflowSpec{
		DisplayName: "资源期限 Term of resources", Inputs: requestInputs(), Steps: termSteps(),
		Description: "Waits for the end of the term of a ResourceRequest whose own run was ended.",
	}
	return r.begin(ctx, req, runName(req, number), spec)
}
