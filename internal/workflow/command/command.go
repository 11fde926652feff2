// Package command is the command line of workflows: start runs, look at them and their logs, decide what waits, and steer.
package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/workflow/history"
)

const (
	fieldOwner = "yunfan-cli"
	rowsAtOnce = 500
	// maxFile bounds what is read of a file with inputs, in bytes: the hub takes less.
	maxFile     = 1 << 20
	timeInTable = "2006-01-02 15:04:05"
)

// Command is what the sub-commands have in common.
type Command struct {
	Access *cli.Access
	Output cli.Output
	Wait   cli.Wait
	// Out takes results, Progress what happens on the way.
	Out, Progress io.Writer
}

// ListOptions choose runs.
type ListOptions struct {
	// Filters are what runs must be, by the names of the API.
	Filters map[string]*string
	Limit   int
}

// List prints runs, the newest first, live and archived.
func (c *Command) List(ctx context.Context, o ListOptions) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	query := url.Values{}
	if c.Access.Namespace != "" { // before the kubeconfig gives one that nobody asked for
		query.Set("tenant", c.Access.Namespace)
	}
	for name, value := range o.Filters {
		if *value != "" {
			query.Set(name, *value)
		}
	}
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	rows := []history.Row{}
	query.Set("pageSize", fmt.Sprint(min(rowsAtOnce, max(1, o.Limit))))
	for page := 1; len(rows) < o.Limit; page++ {
		query.Set("page", fmt.Sprint(page))
		var answer rest.Page[history.Row]
		if err := server.Call(ctx, http.MethodGet, "/api/v1/workflow-runs", query, nil, &answer); err != nil {
			return err
		}
		rows = append(rows, answer.Items...)
		if len(answer.Items) == 0 || len(rows) >= answer.Total {
			break
		}
	}
	rows = rows[:min(len(rows), o.Limit)]
	return c.Output.Print(c.Out, rows, func(t *cli.Table) {
		t.Header("TENANT", "RUN", "WORKFLOW", "PHASE", "STEPS", "BY", "CREATED", "TOOK", "MESSAGE")
		for _, r := range rows {
			t.Row(r.Tenant, r.Name, r.Workflow, r.Phase, fmt.Sprintf("%d/%d", r.StepsDone, r.Steps), r.User,
				r.CreatedAt.Local().Format(timeInTable), took(r.StartedAt, r.FinishedAt), r.Message)
		}
	})
}

// took is how long something lasted, as far as it has ended.
func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return ""
	}
	const precise = 10 * time.Second
	d := to.Sub(from)
	if d < precise {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// StartOptions are what a run is given.
type StartOptions struct {
	Name string
	// Inputs are NAME=VALUE; File has more of them as YAML or JSON.
	Inputs []string
	File   string
	Stdin  io.Reader
}

// Start starts a run of a workflow and, if that is wanted, waits until it has finished.
func (c *Command) Start(ctx context.Context, name string, o StartOptions) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	hub, tenant, err := c.hub()
	if err != nil {
		return err
	}
	workflow := &v1alpha1.Workflow{}
	if err := hub.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, workflow); err != nil {
		return fmt.Errorf("reading workflow %s of tenant %s: %w", name, tenant, err)
	}
	inputs, err := o.read(&workflow.Spec)
	if err != nil {
		return err
	}
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: o.Name},
		Spec:       v1alpha1.WorkflowRunSpec{Workflow: name, Inputs: inputs},
	}
	if o.Name == "" {
		run.GenerateName = name + "-"
	}
	if err := hub.Create(ctx, run, client.FieldOwner(fieldOwner)); err != nil {
		return fmt.Errorf("starting workflow %s: %w", name, err)
	}
	if !c.Output.Table() && !c.Wait.Wanted {
		run.ManagedFields = nil
		return c.Output.Print(c.Out, run, nil)
	}
	if c.Output.Table() {
		fmt.Fprintf(c.Out, "run %s: started\n", run.Name)
	}
	return c.finish(ctx, hub, run, 0)
}

// read puts inputs together; what is given one by one comes over what is in the file.
func (o StartOptions) read(w *v1alpha1.WorkflowSpec) (map[string]json.RawMessage, error) {
	inputs := map[string]json.RawMessage{}
	if o.File != "" {
		text, err := readFile(o.File, o.Stdin)
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(text, &inputs); err != nil {
			return nil, cli.Usagef("%s: give inputs as YAML or JSON, NAME: VALUE: %w", o.File, err)
		}
	}
	for _, pair := range o.Inputs {
		name, value, ok := strings.Cut(pair, "=")
		at := slices.IndexFunc(w.Inputs, func(i v1alpha1.WorkflowInput) bool { return i.Name == name })
		if !ok || at < 0 {
			var known []string
			for _, i := range w.Inputs {
				known = append(known, i.Name)
			}
			return nil, cli.Usagef("--input %s: write NAME=VALUE with a NAME of the workflow: %s", pair, strings.Join(known, ", "))
		}
		raw, err := typed(value, w.Inputs[at].Type == v1alpha1.TypeString || w.Inputs[at].Type == "")
		if err != nil {
			return nil, cli.Usagef("--input %s: the workflow wants %s, as JSON: %w", pair, w.Inputs[at].Type, err)
		}
		inputs[name] = raw
	}
	return inputs, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, cli.Usagef("reading the inputs: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxFile))
	if err != nil {
		return nil, fmt.Errorf("reading the inputs: %w", err)
	}
	return text, nil
}

// typed makes a JSON value of a text.
func typed(value string, isText bool) (json.RawMessage, error) {
	if !isText {
		var raw json.RawMessage
		if err := json.Unmarshal([]byte(value), &raw); err != nil {
			return nil, fmt.Errorf("reading %q: %w", value, err)
		}
		return raw, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("writing %q: %w", value, err)
	}
	return text, nil
}

// hub is a client of the hub, and the tenant that was asked for.
func (c *Command) hub() (client.WithWatch, string, error) {
	hub, err := c.Access.Client()
	if err != nil {
		return nil, "", err
	}
	tenant, err := c.Access.Tenant()
	return hub, tenant, err
}

// finish waits, if that is wanted, until a run has finished that was retried so often, and says how. That it did not
// succeed is an error.
func (c *Command) finish(ctx context.Context, hub client.Reader, started *v1alpha1.WorkflowRun, retries int32) error {
	if !c.Wait.Wanted {
		return nil
	}
	run := started.DeepCopy()
	err := cli.Until(ctx, c.Wait.Timeout, c.Progress, func(ctx context.Context) (bool, string, error) {
		if err := hub.Get(ctx, client.ObjectKeyFromObject(started), run); err != nil {
			return false, "", fmt.Errorf("reading run %s: %w", started.Name, err)
		}
		if run.UID != started.UID {
			return false, "", fmt.Errorf("run %s was deleted, and another has its name", started.Name)
		}
		return run.Status.Phase.Finished() && run.Status.Retries >= retries, progress(run), nil
	})
	if err != nil {
		return err
	}
	run.ManagedFields = nil
	if err := c.Output.Print(c.Out, run, func(*cli.Table) {}); !c.Output.Table() && err != nil {
		return err
	}
	if run.Status.Phase != v1alpha1.RunSucceeded {
		return fmt.Errorf("run %s: %s: %s", run.Name, run.Status.Phase, run.Status.Message)
	}
	return nil
}

// progress is where a run is, in one line.
func progress(run *v1alpha1.WorkflowRun) string {
	byPhase := map[v1alpha1.StepPhase][]string{}
	for _, s := range run.Status.Steps {
		switch s.Phase {
		case v1alpha1.StepRunning, v1alpha1.StepFailed, v1alpha1.StepCompensating:
			byPhase[s.Phase] = append(byPhase[s.Phase], s.Name)
		case v1alpha1.StepWaiting:
			name := s.Name
			if s.Approval != nil {
				name += " (for approval: " + s.Approval.Subject + ")"
			}
			byPhase[s.Phase] = append(byPhase[s.Phase], name)
		}
	}
	says := []string{string(run.Status.Phase)}
	for _, phase := range slices.Sorted(maps.Keys(byPhase)) {
		says = append(says, fmt.Sprintf("%s: %s", phase, strings.Join(byPhase[phase], ", ")))
	}
	return strings.Join(says, "; ")
}

// invalid is the error for what a run's state does not allow.
func invalid(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid, Message: fmt.Sprintf(format, args...),
	}}
}
