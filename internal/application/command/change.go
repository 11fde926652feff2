package command

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// Scale sets numbers of replicas, each given as COMPONENT=N.
func (c *Command) Scale(ctx context.Context, name string, assignments []string) error {
	wanted, err := parseReplicas(assignments)
	if err != nil {
		return err
	}
	return c.change(ctx, name, "scaled to "+strings.Join(assignments, ", "), func(_ client.Reader, app *v1alpha1.Application) error {
		return setReplicas(app, wanted)
	})
}

func parseReplicas(assignments []string) (map[string]int32, error) {
	const bits = 32
	wanted := make(map[string]int32, len(assignments))
	for _, assignment := range assignments {
		component, text, ok := strings.Cut(assignment, "=")
		n, err := strconv.ParseInt(text, 10, bits)
		if !ok || err != nil || n < 0 || component == "" {
			return nil, cli.Usagef("%q: write COMPONENT=N, such as score-record=3", assignment)
		}
		wanted[component] = int32(n)
	}
	return wanted, nil
}

func setReplicas(app *v1alpha1.Application, wanted map[string]int32) error {
	for _, component := range slices.Sorted(maps.Keys(wanted)) {
		if err := app.Scale(component, wanted[component]); err != nil {
			return cli.Usagef("%v", err)
		}
	}
	return nil
}

// Restart replaces the pods of the components named, of all if none is, as their strategy replaces them. They take up
// the newest versions of their configurations.
func (c *Command) Restart(ctx context.Context, name string, components []string) error {
	return c.change(ctx, name, "restarting", func(_ client.Reader, app *v1alpha1.Application) error {
		if err := app.Restart(time.Now(), components...); err != nil {
			return cli.Usagef("%v", err)
		}
		return nil
	})
}

// Stop takes away all pods of the application; everything else stays.
func (c *Command) Stop(ctx context.Context, name string) error {
	return c.change(ctx, name, "stopping", func(_ client.Reader, app *v1alpha1.Application) error {
		app.Spec.Stopped = true
		return nil
	})
}

// Start brings the pods of a stopped application back.
func (c *Command) Start(ctx context.Context, name string) error {
	return c.change(ctx, name, "starting", func(_ client.Reader, app *v1alpha1.Application) error {
		app.Spec.Stopped = false
		return nil
	})
}

// Rollback gives the application the content of an earlier revision, named, numbered, or, if empty, the one before the
// present. Numbers of replicas, placement and stop stay as they are: they are no part of a revision.
func (c *Command) Rollback(ctx context.Context, name, revision string) error {
	return c.change(ctx, name, "rolling back", func(hub client.Reader, app *v1alpha1.Application) error {
		revisions, err := c.revisions(ctx, hub, app)
		if err != nil {
			return err
		}
		to, err := choose(revisions, app.Status.Revision, revision)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Progress, "to revision %d, %s\n", to.Spec.Number, to.Name)
		return app.RollBack(to)
	})
}

// choose finds the revision to go back to among all, newest first.
func choose(revisions []v1alpha1.ApplicationRevision, current, wanted string) (*v1alpha1.ApplicationRevision, error) {
	var now int64
	for i := range revisions {
		r := &revisions[i]
		if r.Name == current {
			now = r.Spec.Number
		}
		if wanted != "" && (r.Name == wanted || strconv.FormatInt(r.Spec.Number, 10) == wanted) {
			return r, nil
		}
	}
	if wanted != "" {
		return nil, cli.Usagef("there is no revision %q: 'yunfan revisions' lists them", wanted)
	}
	for i := range revisions {
		if revisions[i].Spec.Number < now {
			return &revisions[i], nil
		}
	}
	return nil, cli.Usagef("there is no revision before the present one")
}
