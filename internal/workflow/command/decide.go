package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// Decision is what somebody decides.
type Decision struct {
	Decision v1alpha1.Decision
	Comment  string
	// Values are NAME=VALUE, in place of those asked for.
	Values []string
}

// Decide decides on a step of a run that waits, or on the one that does if step is empty, and waits until the server has
// said whether the decision counts.
func (c *Command) Decide(ctx context.Context, name, step string, d Decision) error {
	if d.Decision == v1alpha1.DecisionRejected && d.Comment == "" {
		return cli.Usagef("say why: --comment TEXT")
	}
	hub, tenant, err := c.hub()
	if err != nil {
		return err
	}
	run := &v1alpha1.WorkflowRun{}
	if err := hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, run); err != nil {
		return fmt.Errorf("reading run %s of tenant %s: %w", name, tenant, err)
	}
	waits, err := waiting(run, step)
	if err != nil {
		return err
	}
	values, err := d.values(waits.Approval)
	if err != nil {
		return err
	}
	approval := &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, GenerateName: name + "-"},
		Spec: v1alpha1.ApprovalSpec{
			Run: name, RunUID: string(run.UID), Step: waits.Name, Digest: waits.Approval.Digest, Decision: d.Decision, Comment: d.Comment, Values: values,
		},
	}
	if err := hub.Create(ctx, approval, client.FieldOwner(fieldOwner)); err != nil {
		return fmt.Errorf("deciding on step %s of run %s: %w", waits.Name, name, err)
	}
	if err := c.accepted(ctx, hub, approval); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "run %s, step %s: %s\n", name, waits.Name, strings.ToLower(string(d.Decision)))
	return nil
}

// waiting is the step of a run that waits for a decision.
func waiting(run *v1alpha1.WorkflowRun, step string) (*v1alpha1.StepStatus, error) {
	var found []*v1alpha1.StepStatus
	var names []string
	for i := range run.Status.Steps {
		s := &run.Status.Steps[i]
		if s.Approval == nil || s.Phase != v1alpha1.StepWaiting && s.Phase != v1alpha1.StepRunning {
			continue
		}
		if names = append(names, s.Name); step == "" || s.Name == step {
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, cli.Usagef("several steps of run %s wait for a decision, name one: %s", run.Name, strings.Join(names, ", "))
	case step != "" && !slices.ContainsFunc(run.Status.Steps, func(s v1alpha1.StepStatus) bool { return s.Name == step }):
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "step"}, step)
	case len(names) > 0:
		return nil, invalid("step %s of run %s waits for no decision; these do: %s", step, run.Name, strings.Join(names, ", "))
	}
	return nil, invalid("run %s waits for no decision: it is %s", run.Name, run.Status.Phase)
}

// values reads those that are given in place of those asked for, each of the same type.
func (d Decision) values(wanted *v1alpha1.ApprovalWanted) (map[string]json.RawMessage, error) {
	values := map[string]json.RawMessage{}
	for _, pair := range d.Values {
		name, value, ok := strings.Cut(pair, "=")
		asked, known := wanted.Values[name]
		if !ok || !known {
			return nil, cli.Usagef("--value %s: write NAME=VALUE with a NAME of what is asked for: 'yunfan runs show' tells", pair)
		}
		raw, err := typed(value, strings.HasPrefix(strings.TrimSpace(string(asked)), `"`))
		if err != nil {
			return nil, cli.Usagef("--value %s: give JSON, as %s is: %w", pair, asked, err)
		}
		values[name] = raw
	}
	if len(values) == 0 {
		return nil, nil
	}
	return values, nil
}

// accepted waits until the server has said whether a decision counts. That it does not is an error with the reason.
func (c *Command) accepted(ctx context.Context, hub client.Reader, approval *v1alpha1.Approval) error {
	var said *metav1.Condition
	err := cli.Until(ctx, c.Wait.Timeout, c.Progress, func(ctx context.Context) (bool, string, error) {
		if err := hub.Get(ctx, client.ObjectKeyFromObject(approval), approval); err != nil {
			return false, "", fmt.Errorf("reading what became of the decision: %w", err)
		}
		said = meta.FindStatusCondition(approval.Status.Conditions, v1alpha1.ConditionAccepted)
		return said != nil, "", nil
	})
	if err != nil {
		return fmt.Errorf("the decision is given; whether it counts is not known yet: %w", err)
	}
	if said.Status == metav1.ConditionTrue {
		return nil
	}
	switch said.Reason {
	case "OwnRun", "NotAllowed":
		return apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("approvals").GroupResource(), approval.Name, errors.New(said.Reason+": "+said.Message))
	}
	return invalid("the decision does not count: %s: %s", said.Reason, said.Message)
}
