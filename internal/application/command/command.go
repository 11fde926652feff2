// Package command is the command line's verbs for applications: each acts on all partitions of an application at once.
package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// Command is a verb for one application.
type Command struct {
	Access *cli.Access
	Output cli.Output
	Wait   cli.Wait
	// Out takes results, Progress what happens on the way.
	Out, Progress io.Writer
}

// refusals are the reasons for which an application is not delivered until somebody changes it: waiting is in vain.
var refusals = []string{
	v1alpha1.ReasonInvalid, v1alpha1.ReasonPartitionNotFound, v1alpha1.ReasonConfigurationNotFound,
	v1alpha1.ReasonQuotaExceeded, v1alpha1.ReasonNodePortTaken, v1alpha1.ReasonChartNotSupported,
}

func (c *Command) get(ctx context.Context, hub client.Reader, name string) (*v1alpha1.Application, error) {
	tenant, err := c.Access.Tenant()
	if err != nil {
		return nil, err
	}
	app := &v1alpha1.Application{}
	if err := hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, app); err != nil {
		return nil, fmt.Errorf("reading application %s of tenant %s: %w", name, tenant, err)
	}
	return app, nil
}

// change reads the application, changes it and writes it, again if somebody else wrote it in between; then it waits
// until every partition has the change, if that is wanted.
func (c *Command) change(ctx context.Context, name, done string, mutate func(client.Reader, *v1alpha1.Application) error) error {
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	var app *v1alpha1.Application
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if app, err = c.get(ctx, hub, name); err != nil {
			return err
		}
		if err := mutate(hub, app); err != nil {
			return err
		}
		return hub.Update(ctx, app, client.FieldOwner("yunfan-cli"))
	})
	if err != nil {
		return fmt.Errorf("changing application %s: %w", name, err)
	}
	fmt.Fprintf(c.Out, "application %s: %s\n", name, done)
	if !c.Wait.Wanted {
		return nil
	}
	return Await(ctx, hub, client.ObjectKeyFromObject(app), app.Generation, c.Wait, c.Progress)
}

// Await waits until every partition has what generation of the application asks for.
func Await(ctx context.Context, hub client.Reader, key client.ObjectKey, generation int64, wait cli.Wait, progress io.Writer) error {
	return cli.Until(ctx, wait.Timeout, progress, func(ctx context.Context) (bool, string, error) {
		app := &v1alpha1.Application{}
		if err := hub.Get(ctx, key, app); err != nil {
			return false, "", fmt.Errorf("reading application %s: %w", key.Name, err)
		}
		return settled(app, generation)
	})
}

// settled says whether the application is as generation asks for, and how far it is. That it is refused is an error.
func settled(app *v1alpha1.Application, generation int64) (bool, string, error) {
	ready := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || app.Status.ObservedGeneration < generation || ready.ObservedGeneration < generation {
		return false, "waiting for the server to look at it", nil
	}
	if ready.Status != metav1.ConditionTrue && slices.Contains(refusals, ready.Reason) {
		return false, "", &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid, Message: ready.Reason + ": " + ready.Message,
		}}
	}
	byPeople := []string{"", v1alpha1.ReasonWaitingForApproval, v1alpha1.ReasonApprovalRejected}
	if slices.Contains(byPeople[1:], ready.Reason) && !slices.ContainsFunc(app.Status.Placements, func(p v1alpha1.PlacementStatus) bool {
		return !slices.Contains(byPeople, p.Reason)
	}) {
		return true, ready.Reason + ": " + ready.Message, nil // nothing else is left to do, and people may take days
	}
	done := ready.Status == metav1.ConditionTrue || (app.Spec.Stopped && ready.Reason == v1alpha1.ReasonStopped && withoutPods(app))
	return done, summary(app, ready), nil
}

func withoutPods(app *v1alpha1.Application) bool {
	return !slices.ContainsFunc(app.Status.Placements, func(p v1alpha1.PlacementStatus) bool { return p.Ready > 0 })
}

// summary is the state of every partition in one line.
func summary(app *v1alpha1.Application, ready *metav1.Condition) string {
	if len(app.Status.Placements) == 0 {
		return ready.Reason + ": " + ready.Message
	}
	parts := make([]string, 0, len(app.Status.Placements))
	for _, p := range app.Status.Placements {
		part := fmt.Sprintf("%s %d/%d", p.Partition, p.Ready, p.Desired)
		if p.Reason != "" {
			part += " " + p.Reason
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}
