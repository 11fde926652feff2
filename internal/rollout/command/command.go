// Package command is the command line of rollouts: look at one, and ask for it again.
package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

const (
	fieldOwner = "yunfan-cli"
	timeShown  = "15:04:05"
)

// Command is what the sub-commands have in common.
type Command struct {
	Access *cli.Access
	Output cli.Output
	Out    io.Writer
}

// detail is a rollout as the server's view gives it.
type detail struct {
	Rollout v1alpha1.Rollout      `json:"rollout"`
	Steps   []v1alpha1.StepStatus `json:"steps,omitempty"`
}

// Show prints a rollout, or the newest of an application: its plan, its steps, its partitions, its weight.
func (c *Command) Show(ctx context.Context, name string) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	tenant, err := c.Access.Tenant()
	if err != nil {
		return err
	}
	app := &v1alpha1.Application{}
	err = hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, app)
	switch {
	case err == nil && app.Status.Rollout == "":
		return fmt.Errorf("application %s has had no rollout: change what it runs, and it gets one", name)
	case err == nil:
		name = app.Status.Rollout
	case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return fmt.Errorf("reading application %s: %w", name, err)
	}
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	d := &detail{}
	path := "/api/v1/tenants/" + url.PathEscape(tenant) + "/rollouts/" + url.PathEscape(name)
	if err := server.Call(ctx, http.MethodGet, path, nil, nil, d); err != nil {
		return fmt.Errorf("reading rollout %s: %w", name, err)
	}
	if !c.Output.Table() {
		return c.Output.Print(c.Out, d, nil)
	}
	return d.print(c.Out)
}

func (d *detail) print(out io.Writer) error {
	o := &d.Rollout
	fmt.Fprintf(out, "Rollout %s of application %s in tenant %s, for %s\n", o.Name, o.Spec.Application, o.Namespace, cmp.Or(v1alpha1.PlainName(o.Spec.User), "somebody unknown"))
	fmt.Fprintf(out, "%s: %s\n", cmp.Or(o.Status.Phase, v1alpha1.RolloutPending), cmp.Or(o.Status.Message, "-"))
	fmt.Fprintf(out, "From %s to %s, which has %d%% of the requests where both run\n", o.Spec.From, o.Spec.To, o.Status.Weight)
	if o.Status.Run != "" {
		fmt.Fprintf(out, "Run %s: yunfan pause, resume, approve, reject and abort steer it\n", o.Status.Run)
	}
	fmt.Fprintln(out, "\nPlan")
	for _, line := range o.Status.Plan {
		fmt.Fprintf(out, "  %s\n", line)
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PARTITION\tCLUSTER\tPHASE\tMESSAGE")
	for _, p := range o.Status.Partitions {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", p.Partition, p.Cluster, p.Phase, p.Message)
	}
	fmt.Fprintln(table, "\t\t\t")
	fmt.Fprintln(table, "STEP\tPHASE\tBEGAN\tTOOK\tBY\tMESSAGE")
	for i := range d.Steps {
		s := &d.Steps[i]
		began, took := "", ""
		if s.StartTime != nil {
			began = s.StartTime.Local().Format(timeShown)
		}
		if s.StartTime != nil && s.FinishTime != nil {
			took = s.FinishTime.Sub(s.StartTime.Time).Round(time.Millisecond).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Phase, began, took, v1alpha1.PlainName(s.Actor), s.Message)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing the rollout: %w", err)
	}
	return nil
}

// Again has the newest rollout of an application begin once more, which has failed, was aborted or refused.
func (c *Command) Again(ctx context.Context, name string) error {
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	tenant, err := c.Access.Tenant()
	if err != nil {
		return err
	}
	app := &v1alpha1.Application{}
	if err := hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, app); err != nil {
		return fmt.Errorf("reading application %s of tenant %s: %w", name, tenant, err)
	}
	before := app.DeepCopy()
	metav1.SetMetaDataAnnotation(&app.ObjectMeta, v1alpha1.AnnotationRolloutAgain, time.Now().UTC().Format(time.RFC3339Nano))
	if err := hub.Patch(ctx, app, client.MergeFrom(before), client.FieldOwner(fieldOwner)); err != nil {
		return fmt.Errorf("asking for another rollout of %s: %w", name, err)
	}
	fmt.Fprintf(c.Out, "application %s: asked for another rollout\n", name)
	return nil
}
