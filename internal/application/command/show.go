package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// State is what Status prints as JSON or YAML.
type State struct {
	Application string                     `json:"application"`
	Tenant      string                     `json:"tenant"`
	Version     string                     `json:"version,omitempty"`
	Status      v1alpha1.ApplicationStatus `json:"status"`
	// Components by partition.
	Components map[string][]v1alpha1.ComponentStatus `json:"components,omitempty"`
}

// Status shows an application in all its partitions. With waiting, it first waits until all have what the application
// asks for.
func (c *Command) Status(ctx context.Context, name string) error {
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	app, err := c.get(ctx, hub, name)
	if err != nil {
		return err
	}
	if c.Wait.Wanted {
		if err := Await(ctx, hub, client.ObjectKeyFromObject(app), app.Generation, c.Wait, c.Progress); err != nil {
			return err
		}
		if app, err = c.get(ctx, hub, name); err != nil {
			return err
		}
	}
	deliveries := &v1alpha1.DeliveryList{}
	if err := hub.List(ctx, deliveries, client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: name}); err != nil {
		return fmt.Errorf("reading the deliveries of application %s: %w", name, err)
	}
	return c.printStatus(stateOf(app, deliveries.Items), time.Now())
}

func stateOf(app *v1alpha1.Application, deliveries []v1alpha1.Delivery) State {
	s := State{Application: app.Name, Tenant: app.Namespace, Version: app.Spec.Version, Status: app.Status, Components: map[string][]v1alpha1.ComponentStatus{}}
	for _, d := range deliveries {
		for _, track := range d.Status.Tracks {
			s.Components[d.Spec.Partition] = append(s.Components[d.Spec.Partition], track.Components...)
		}
	}
	return s
}

func (c *Command) printStatus(s State, now time.Time) error {
	if !c.Output.Table() {
		return c.Output.Print(c.Out, s, nil)
	}
	fmt.Fprintf(c.Out, "Application %s of tenant %s, version %s, revision %s\n", s.Application, s.Tenant, cmp.Or(s.Version, "-"), cmp.Or(s.Status.Revision, "-"))
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionProgressing} {
		if condition := meta.FindStatusCondition(s.Status.Conditions, kind); condition != nil {
			fmt.Fprintln(c.Out, sentence(condition))
		}
	}
	fmt.Fprintln(c.Out)
	err := c.Output.Print(c.Out, nil, func(t *cli.Table) {
		t.Header("PARTITION", "CLUSTER", "REVISION", "PODS", "SEEN", "REASON", "MESSAGE")
		for _, p := range s.Status.Placements {
			t.Row(p.Partition, p.Cluster, p.Revision, fmt.Sprintf("%d/%d", p.Ready, p.Desired), seen(&p, now), p.Reason, p.Message)
		}
	})
	if err != nil || len(s.Components) == 0 {
		return err
	}
	fmt.Fprintln(c.Out)
	return c.Output.Print(c.Out, nil, func(t *cli.Table) {
		t.Header("COMPONENT", "PARTITION", "READY", "UPDATED", "REVISION", "REASON", "MESSAGE")
		for _, p := range s.Status.Placements {
			for _, m := range s.Components[p.Partition] {
				t.Row(m.Name, p.Partition, fmt.Sprintf("%d/%d", m.Ready, m.Desired), m.Updated, m.Revision, m.Reason, m.Message)
			}
		}
	})
}

func sentence(condition *metav1.Condition) string {
	text := fmt.Sprintf("%s: %s", condition.Type, condition.Status)
	if condition.Reason != "" && condition.Reason != condition.Type {
		text += " (" + condition.Reason + ")"
	}
	if condition.Message != "" {
		text += " " + condition.Message
	}
	return text
}

// seen is when a partition was last heard of. Clusters that answer tell of every change at once, so what is shown of
// them is what is now, however long ago something changed.
func seen(p *v1alpha1.PlacementStatus, now time.Time) string {
	switch {
	case p.LastSeenTime.IsZero():
		return ""
	case p.Reason == v1alpha1.ReasonUnreachable, p.Reason == v1alpha1.ReasonClusterNotFound:
		return duration.HumanDuration(now.Sub(p.LastSeenTime.Time)) + " ago"
	}
	return "now"
}

// Revisions lists the revisions of an application, newest first.
func (c *Command) Revisions(ctx context.Context, name string) error {
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	app, err := c.get(ctx, hub, name)
	if err != nil {
		return err
	}
	revisions, err := c.revisions(ctx, hub, app)
	if err != nil {
		return err
	}
	return c.Output.Print(c.Out, revisions, func(t *cli.Table) {
		t.Header("NUMBER", "REVISION", "VERSION", "CURRENT", "AGE", "CONFIGURATIONS")
		for _, r := range revisions {
			current, configurations := "", ""
			if r.Name == app.Status.Revision {
				current = "*"
			}
			for _, pin := range r.Spec.Configurations {
				configurations += pin.Name + "@" + pin.Version + " "
			}
			t.Row(r.Spec.Number, r.Name, r.Spec.Version, current, duration.HumanDuration(time.Since(r.CreationTimestamp.Time)), configurations)
		}
	})
}

func (c *Command) revisions(ctx context.Context, hub client.Reader, app *v1alpha1.Application) ([]v1alpha1.ApplicationRevision, error) {
	list := &v1alpha1.ApplicationRevisionList{}
	if err := hub.List(ctx, list, client.InNamespace(app.Namespace), client.MatchingLabels{v1alpha1.LabelApplication: app.Name}); err != nil {
		return nil, fmt.Errorf("reading the revisions of application %s: %w", app.Name, err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.ApplicationRevision) int { return cmp.Compare(b.Spec.Number, a.Spec.Number) })
	return list.Items, nil
}
