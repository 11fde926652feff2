package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/workflow/history"
)

// maxShown bounds a value in the answer for people, in runes.
const maxShown = 200

// path of a run in the server's API.
func (c *Command) path(name string) (string, error) {
	tenant, err := c.Access.Tenant()
	if err != nil {
		return "", err
	}
	return "/api/v1/tenants/" + url.PathEscape(tenant) + "/workflow-runs/" + url.PathEscape(name), nil
}

func withUID(uid string) url.Values {
	query := url.Values{}
	if uid != "" {
		query.Set("uid", uid)
	}
	return query
}

// Show prints a run, live or archived, with its graph.
func (c *Command) Show(ctx context.Context, name, uid string) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	path, err := c.path(name)
	if err != nil {
		return err
	}
	detail := &history.Detail{}
	if err := server.Call(ctx, http.MethodGet, path, withUID(uid), nil, detail); err != nil {
		return fmt.Errorf("reading run %s: %w", name, err)
	}
	if !c.Output.Table() {
		return c.Output.Print(c.Out, detail, nil)
	}
	return printRun(c.Out, detail)
}

// Log prints the log of a step.
func (c *Command) Log(ctx context.Context, name, step string, o LogOptions) error {
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	path, err := c.path(name)
	if err != nil {
		return err
	}
	query := withUID(o.UID)
	if o.Attempt > 0 {
		query.Set("attempt", fmt.Sprint(o.Attempt))
	}
	if o.Follow {
		query.Set("follow", "true")
	}
	stream, err := server.Stream(ctx, http.MethodGet, path+"/steps/"+url.PathEscape(step)+"/log", query, nil)
	if err != nil {
		return fmt.Errorf("reading the log of step %s of run %s: %w", step, name, err)
	}
	defer stream.Close()
	if _, err := io.Copy(c.Out, stream); err != nil && ctx.Err() == nil { // Ctrl-C is how following ends
		return fmt.Errorf("reading the log of step %s of run %s: %w", step, name, err)
	}
	return nil
}

// LogOptions choose what of a log is shown.
type LogOptions struct {
	UID     string
	Attempt int
	Follow  bool
}

func printRun(out io.Writer, d *history.Detail) error {
	run := &d.Run
	what := cmp.Or(run.Spec.Workflow, "written in the run")
	where := ""
	if d.IsArchived {
		where = ", archived"
	}
	fmt.Fprintf(out, "Run %s of tenant %s, workflow %s, started by %s%s\n", run.Name, run.Namespace, what, person(run.Spec.User), where)
	fmt.Fprintf(out, "%s: %s\n", cmp.Or(run.Status.Phase, v1alpha1.RunPending), cmp.Or(run.Status.Message, "-"))
	if run.Spec.ChangedBy != nil {
		fmt.Fprintf(out, "Last steered by %s: %s\n", person(run.Spec.ChangedBy), cmp.Or(run.Spec.Reason, "without a reason"))
	}
	printValues(out, "Inputs", run.Status.Inputs)
	fmt.Fprintln(out)
	if err := printSteps(out, run); err != nil {
		return err
	}
	printValues(out, "\nOutputs", run.Status.Outputs)
	printWaiting(out, run)
	for i := range d.Approvals {
		a := &d.Approvals[i]
		fmt.Fprintf(out, "\n%s by %s at %s (step %s): %s\n", a.Spec.Decision, person(a.Spec.User), a.CreationTimestamp.Local().Format(timeInTable), a.Spec.Step, cmp.Or(a.Spec.Comment, "-"))
		printValues(out, "  with", a.Spec.Values)
	}
	return nil
}

func printWaiting(out io.Writer, run *v1alpha1.WorkflowRun) {
	for i := range run.Status.Steps {
		s := &run.Status.Steps[i]
		if s.Approval == nil || s.Phase != v1alpha1.StepWaiting && s.Phase != v1alpha1.StepRunning {
			continue
		}
		var who []string
		for _, role := range s.Approval.Roles {
			who = append(who, string(role))
		}
		who = append(who, s.Approval.Users...)
		fmt.Fprintf(out, "\nStep %s waits for %d of %s: %s\n", s.Name, max(1, s.Approval.Count), strings.Join(who, ", "), cmp.Or(s.Approval.Subject, "-"))
		printValues(out, "  asked for", s.Approval.Values)
		fmt.Fprintf(out, "  yunfan approve %s %s -n %s\n", run.Name, s.Name, run.Namespace)
	}
}

func printValues(out io.Writer, title string, values map[string]json.RawMessage) {
	for i, name := range slices.Sorted(maps.Keys(values)) {
		if i == 0 {
			fmt.Fprintln(out, title+":")
		}
		value := []rune(string(values[name]))
		if len(value) > maxShown {
			value = append(value[:maxShown], '…')
		}
		fmt.Fprintf(out, "    %s = %s\n", name, string(value))
	}
}

// printSteps prints the graph as a tree: each step below the last of those that it needs.
func printSteps(out io.Writer, run *v1alpha1.WorkflowRun) error {
	var text strings.Builder
	tab := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tab, "STEP\tACTION\tPHASE\tATTEMPT\tSTARTED\tTOOK\tBY\tMESSAGE")
	for _, line := range tree(run) {
		s := line.status
		attempt := "-"
		if s.Attempt > 0 {
			attempt = fmt.Sprint(s.Attempt)
		}
		message := strings.Join(strings.Fields(s.Message), " ")
		if len(line.alsoAfter) > 0 {
			message = strings.TrimSpace("(also after " + strings.Join(line.alsoAfter, ", ") + ") " + message)
		}
		fmt.Fprintf(tab, "%s%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line.indent, line.step.Name, line.step.Action, cmp.Or(s.Phase, v1alpha1.StepPending), attempt,
			stamp(s.StartTime), cmp.Or(took(timeOf(s.StartTime), timeOf(s.FinishTime)), "-"), cmp.Or(v1alpha1.PlainName(s.Actor), "-"), cmp.Or(message, "-"))
	}
	if err := tab.Flush(); err != nil {
		return fmt.Errorf("writing the steps: %w", err)
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	return nil
}

// treeLine is a step in the tree.
type treeLine struct {
	indent    string
	step      *v1alpha1.WorkflowStep
	status    v1alpha1.StepStatus
	alsoAfter []string
}

// tree lays the graph out. Of several needs, the one that stands lowest carries the step.
func tree(run *v1alpha1.WorkflowRun) []treeLine {
	definition := cmp.Or(run.Status.Definition, run.Spec.Definition)
	if definition == nil {
		return nil
	}
	depth := depths(definition.Steps)
	children := map[string][]*v1alpha1.WorkflowStep{}
	also := map[string][]string{}
	for i := range definition.Steps {
		s := &definition.Steps[i]
		parent := ""
		for _, need := range s.Needs {
			if parent == "" || depth[need] >= depth[parent] {
				parent = need
			}
		}
		for _, need := range s.Needs {
			if need != parent {
				also[s.Name] = append(also[s.Name], need)
			}
		}
		children[parent] = append(children[parent], s)
	}
	status := map[string]v1alpha1.StepStatus{}
	for _, s := range run.Status.Steps {
		status[s.Name] = s
	}
	var lines []treeLine
	var walk func(parent, indent string)
	walk = func(parent, indent string) {
		for i, s := range children[parent] {
			branch, below := "├─ ", "│  "
			if i == len(children[parent])-1 {
				branch, below = "└─ ", "   "
			}
			if parent == "" {
				branch, below = "", ""
			}
			lines = append(lines, treeLine{indent + branch, s, status[s.Name], also[s.Name]})
			walk(s.Name, indent+below)
		}
	}
	walk("", "")
	return lines
}

// depths is how many steps come before each on the longest way.
func depths(steps []v1alpha1.WorkflowStep) map[string]int {
	depth := map[string]int{}
	for range steps { // a graph without cycles settles within as many rounds
		changed := false
		for _, s := range steps {
			for _, need := range s.Needs {
				if depth[need]+1 > depth[s.Name] {
					depth[s.Name], changed = depth[need]+1, true
				}
			}
		}
		if !changed {
			break
		}
	}
	return depth
}

func timeOf(at *metav1.MicroTime) time.Time {
	if at == nil {
		return time.Time{}
	}
	return at.Time
}

func stamp(at *metav1.MicroTime) string {
	if at == nil {
		return "-"
	}
	return at.Local().Format(timeInTable)
}

func person(a *v1alpha1.Actor) string {
	if a == nil {
		return "-"
	}
	return v1alpha1.PlainName(a.Name)
}
