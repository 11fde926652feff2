//go:build e2e

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/workflow/history"
)

const (
	fewRuns, manyRuns, stepsOfRun = 10, 1000, 10
	archivedRuns                  = 10_000
	// runsPatience is how long all runs may take.
	runsPatience = 15 * time.Minute
	// keptRuns is how many finished runs of a tenant stay on the hub.
	keptRuns = 100
)

// workflows measures runs of steps that do nothing: what is left is the engine. The lists are those of a tenant with many
// live and archived runs.
func (b *bench) workflows(ctx context.Context) error {
	if err := b.startSteps(ctx); err != nil {
		return err
	}
	if err := b.manyRuns(ctx); err != nil {
		return err
	}
	return b.runLists(ctx)
}

// startSteps times how soon a step begins that is ready, with few runs.
func (b *bench) startSteps(ctx context.Context) error {
	before, err := b.stepWaits(ctx)
	if err != nil {
		return err
	}
	ended, err := b.stepsEnded(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := b.createRuns(ctx, "few", fewRuns, chain("0s")); err != nil {
		return err
	}
	if err := b.runsFinished(ctx, "few", fewRuns, ended); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := b.stepWaits(ctx)
	if err != nil {
		return err
	}
	figure(fmt.Sprintf("%d runs of %d steps", fewRuns, stepsOfRun), "%.1f s", took.Seconds())
	figure("a ready step begins within", "P50 %s   P99 %s   (wanted: 200 ms)", within(before, after, 0.5), within(before, after, 0.99)) //nolint:mnd // the usual quantiles
	return nil
}

// manyRuns times many runs at once, counts the hub's writes, and waits until what has finished is trimmed.
func (b *bench) manyRuns(ctx context.Context) error {
	before, err := b.runWrites(ctx)
	if err != nil {
		return err
	}
	ended, err := b.stepsEnded(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := b.createRuns(ctx, "many", manyRuns, chain("0s")); err != nil {
		return err
	}
	created := time.Since(start)
	peak := make(chan int, 1)
	watching, stop := context.WithCancel(ctx)
	go func() {
		most := 0
		for wait(watching, time.Second) == nil {
			most = max(most, costs(b.dir)["yunfan server"].pss)
		}
		peak <- most
	}()
	err = b.runsFinished(ctx, "many", manyRuns, ended)
	took := time.Since(start)
	stop()
	most := <-peak
	if err != nil {
		return err
	}
	after, err := b.runWrites(ctx)
	if err != nil {
		return err
	}
	steps := float64(manyRuns * stepsOfRun)
	figure(fmt.Sprintf("%d runs of %d steps at once", manyRuns, stepsOfRun), "%.0f s, %.0f steps a second (all created after %.0f s)",
		took.Seconds(), steps/took.Seconds(), created.Seconds())
	figure("writes of runs for each step", "%.2f   (wanted: at most 2)", (after-before)/steps)
	figure("memory of the server meanwhile (PSS)", "%d MiB", most>>10)
	start = time.Now()
	if err := b.trimmed(ctx); err != nil {
		return err
	}
	figure(fmt.Sprintf("trimmed to %d finished runs", keptRuns), "%.0f s after the last had finished", time.Since(start).Seconds())
	return nil
}

// runLists times the first page of a tenant with many runs that wait and many more in the records.
func (b *bench) runLists(ctx context.Context) error {
	if err := b.createRuns(ctx, "waiting", manyRuns, chain("24h")); err != nil {
		return err
	}
	if err := b.archiveRuns(ctx); err != nil {
		return err
	}
	user, err := b.SignIn(ctx, "bench-operator")
	if err != nil {
		return err
	}
	admin, err := b.SignIn(ctx, "bench-runs", func(s *v1alpha1.UserSpec) { s.PlatformAdministrator = true })
	if err != nil {
		return err
	}
	err = b.Clusters[journey.Hub].Create(ctx, &v1alpha1.Membership{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: user.Name},
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: user.Name}, Role: v1alpha1.RoleOperator},
	})
	if err != nil {
		return fmt.Errorf("making a member: %w", err)
	}
	if err := user.Again(ctx); err != nil {
		return err
	}
	figure("lists of", "%d live runs and %d in the records", manyRuns, archivedRuns)
	for _, path := range []string{"/api/v1/workflow-runs", "/api/v1/workflow-runs?search=waiting"} {
		if err := b.list(ctx, "operator", user, path); err != nil {
			return err
		}
		if err := b.list(ctx, "administrator", admin, path); err != nil {
			return err
		}
	}
	return nil
}

// chain is a definition of steps one after the other, each of which waits for so long.
func chain(pause string) *v1alpha1.WorkflowSpec {
	text := json.RawMessage(strconv.Quote(pause))
	d := &v1alpha1.WorkflowSpec{}
	for i := range stepsOfRun {
		step := v1alpha1.WorkflowStep{Name: fmt.Sprintf("s%d", i), Action: "wait", With: map[string]json.RawMessage{"for": text}}
		if i > 0 {
			step.Needs = []string{d.Steps[i-1].Name}
		}
		d.Steps = append(d.Steps, step)
	}
	return d
}

func (b *bench) createRuns(ctx context.Context, prefix string, count int, definition *v1alpha1.WorkflowSpec) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range count {
		group.Go(func() error {
			return b.Clusters[journey.Hub].Create(ctx, newRun(fmt.Sprintf("%s-%d", prefix, i), definition))
		})
	}
	return group.Wait()
}

func newRun(name string, definition *v1alpha1.WorkflowSpec) *v1alpha1.WorkflowRun {
	return &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}, Spec: v1alpha1.WorkflowRunSpec{Definition: definition},
	}
}

// runsFinished waits until all runs of the prefix have finished. Those that were trimmed meanwhile had.
func (b *bench) runsFinished(ctx context.Context, prefix string, count int, before float64) error {
	ctx, cancel := context.WithTimeout(ctx, runsPatience)
	defer cancel()
	for {
		ended, err := b.stepsEnded(ctx)
		if err != nil {
			return err
		}
		if ended-before >= float64(count*stepsOfRun) {
			break
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%.0f of %d steps have ended: %w", ended-before, count*stepsOfRun, err)
		}
	}
	var all v1alpha1.WorkflowRunList
	if err := b.Clusters[journey.Hub].List(ctx, &all, client.InNamespace(tenant)); err != nil {
		return fmt.Errorf("listing runs: %w", err)
	}
	for i := range all.Items {
		if run := &all.Items[i]; strings.HasPrefix(run.Name, prefix+"-") && run.Status.Phase != v1alpha1.RunSucceeded {
			return fmt.Errorf("run %s is %s: %s", run.Name, run.Status.Phase, run.Status.Message)
		}
	}
	return nil
}

// trimmed waits until no more finished runs than are kept are left on the hub.
func (b *bench) trimmed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, runsPatience)
	defer cancel()
	for {
		var all metav1.PartialObjectMetadataList
		all.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRunList"))
		if err := b.Clusters[journey.Hub].List(ctx, &all, client.InNamespace(tenant)); err != nil {
			return fmt.Errorf("listing runs: %w", err)
		}
		if len(all.Items) <= keptRuns {
			return nil
		}
		if err := wait(ctx, time.Second); err != nil {
			return fmt.Errorf("%d runs are left: %w", len(all.Items), err)
		}
	}
}

// archiveRuns puts runs into the server's records as if they had been run in the past.
func (b *bench) archiveRuns(ctx context.Context) error {
	db, err := record.Open(ctx, filepath.Join(b.dir, "records", "records.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	kept := history.New(noApprovals{b.Clusters[journey.Hub]}, db)
	definition := chain("0s")
	for i := range archivedRuns {
		at := metav1.NewMicroTime(time.Now().Add(-time.Duration(i) * time.Minute))
		run := newRun(fmt.Sprintf("archived-%d", i), definition)
		run.UID, run.CreationTimestamp = types.UID(run.Name), metav1.NewTime(at.Time)
		run.Spec.User = &v1alpha1.Actor{Name: v1alpha1.UserPrefix + "bench-operator"}
		run.Status = v1alpha1.WorkflowRunStatus{Phase: v1alpha1.RunSucceeded, Definition: definition, StartTime: &at, FinishTime: &at}
		for _, s := range definition.Steps {
			run.Status.Steps = append(run.Status.Steps, v1alpha1.StepStatus{Name: s.Name, Phase: v1alpha1.StepSucceeded, Attempt: 1, StartTime: &at, FinishTime: &at})
		}
		if err := kept.Archive(ctx, run); err != nil {
			return err
		}
	}
	return nil
}

// noApprovals spares the hub a question for each run that is archived.
type noApprovals struct{ client.Reader }

// List finds nothing.
func (noApprovals) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// runWrites is how often the hub was asked to change a run or its status, by its own count.
func (b *bench) runWrites(ctx context.Context) (sum float64, err error) {
	text, err := b.Clusters[journey.Hub].Set.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the hub's metrics: %w", err)
	}
	for name, value := range samples(text, "apiserver_request_total") {
		if strings.Contains(name, `resource="workflowruns"`) && (strings.Contains(name, `verb="PUT"`) || strings.Contains(name, `verb="PATCH"`) || strings.Contains(name, `verb="APPLY"`)) {
			sum += value
		}
	}
	return sum, nil
}

// stepWaits is how many steps have waited at most how long until they began, by the server's own count.
func (b *bench) stepWaits(ctx context.Context) (map[string]float64, error) {
	return b.counts(ctx, "yunfan_workflow_step_wait_seconds_bucket")
}

// stepsEnded is how many steps have succeeded, by the server's own count: listing runs would cost more than running them.
func (b *bench) stepsEnded(ctx context.Context) (sum float64, err error) {
	counts, err := b.counts(ctx, "yunfan_workflow_steps_total")
	for name, value := range counts {
		if strings.Contains(name, `result="`+string(v1alpha1.StepSucceeded)+`"`) {
			sum += value
		}
	}
	return sum, err
}

// counts are the samples of one of the server's metrics.
func (b *bench) counts(ctx context.Context, metric string) (map[string]float64, error) {
	config, err := b.Server(ctx)
	if err != nil {
		return nil, err
	}
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := c.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading the server's metrics: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server answers %s", answer.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the server's metrics: %w", err)
	}
	return samples(text, metric), nil
}

// within is the bound of the bucket in which a quantile of what came between two counts is.
func within(before, after map[string]float64, q float64) string {
	type bucket struct{ bound, count float64 }
	var all []bucket
	for _, name := range slices.Sorted(maps.Keys(after)) {
		_, text, _ := strings.Cut(name, `le="`)
		bound, err := strconv.ParseFloat(strings.TrimRight(text, `"}`), 64)
		if err == nil {
			all = append(all, bucket{bound, after[name] - before[name]})
		}
	}
	slices.SortFunc(all, func(a, b bucket) int { return int(a.bound*1000) - int(b.bound*1000) }) //nolint:mnd // milliseconds
	for _, one := range all {
		if len(all) > 0 && one.count >= q*all[len(all)-1].count {
			return fmt.Sprintf("≤ %.0f ms", one.bound*1000) //nolint:mnd // milliseconds
		}
	}
	return "unknown"
}

// samples reads a metric's samples from an exposition, by name and labels.
func samples(text []byte, metric string) map[string]float64 {
	found := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	const longest = 1 << 20
	lines.Buffer(nil, longest)
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text())
		if number, err := strconv.ParseFloat(value, 64); ok && err == nil && strings.HasPrefix(name, metric+"{") {
			found[name] = number
		}
	}
	return found
}

func cutLast(line string) (name, value string, ok bool) {
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return "", "", false
	}
	return line[:at], line[at+1:], true
}
