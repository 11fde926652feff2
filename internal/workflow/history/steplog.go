package history

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// followInterval is how often it is looked whether a followed log has grown.
	followInterval = 500 * time.Millisecond
	// linesInMemory bounds what of a log is held at a time.
	linesInMemory = 1000
	timeInLog     = "2006-01-02T15:04:05.000Z07:00"
)

// log answers with a step's log as text, each line with its time. A followed one goes on until the step has ended.
func (a *API) log(w http.ResponseWriter, r *http.Request) error {
	attempt, follow, err := parseLog(r.URL.Query())
	if err != nil {
		return err
	}
	found, err := a.find(r)
	if err != nil {
		return err
	}
	step := r.PathValue("step")
	if !hasStep(&found.Run, step) {
		return rest.NotFound("steps of "+found.Run.Name, step)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	reader := &logReader{api: a, run: &found.Run, step: step, attempt: attempt, out: w, flush: http.NewResponseController(w).Flush}
	if !follow || found.IsArchived {
		return reader.read(r.Context())
	}
	return reader.follow(r.Context())
}

func parseLog(values url.Values) (attempt int32, follow bool, err error) {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(key)
		switch key {
		case "attempt":
			n, failed := strconv.ParseInt(value, 10, 32)
			if failed != nil || n < 1 {
				return 0, false, apierrors.NewBadRequest(fmt.Sprintf("attempt=%q: give a number from 1 on", value))
			}
			attempt = int32(n)
		case "follow":
			if follow, err = strconv.ParseBool(value); err != nil {
				return 0, false, apierrors.NewBadRequest(fmt.Sprintf("follow=%q: give true or false", value))
			}
		case "uid":
		default:
			return 0, false, apierrors.NewBadRequest(fmt.Sprintf("there is no %q: ask with attempt, follow and uid", key))
		}
	}
	return attempt, follow, nil
}

func hasStep(run *v1alpha1.WorkflowRun, step string) bool {
	is := func(s v1alpha1.WorkflowStep) bool { return s.Name == step }
	return run.Status.Definition != nil && slices.ContainsFunc(run.Status.Definition.Steps, is) ||
		run.Spec.Definition != nil && slices.ContainsFunc(run.Spec.Definition.Steps, is) ||
		slices.ContainsFunc(run.Status.Steps, func(s v1alpha1.StepStatus) bool { return s.Name == step })
}

// logReader writes a log from where it was last.
type logReader struct {
	api     *API
	run     *v1alpha1.WorkflowRun
	step    string
	attempt int32
	out     http.ResponseWriter
	flush   func() error

	position Position
}

// read writes all lines there are.
func (l *logReader) read(ctx context.Context) error {
	for {
		lines, next, err := l.api.Lines(ctx, l.run.UID, l.step, l.attempt, l.position, linesInMemory)
		if err != nil {
			return err
		}
		for _, line := range lines {
			if line.Attempt != l.position.Attempt && line.Attempt > 1 && l.attempt == 0 {
				if _, err := fmt.Fprintf(l.out, "--- attempt %d ---\n", line.Attempt); err != nil {
					return nil //nolint:nilerr // the client went
				}
			}
			l.position.Attempt = line.Attempt
			if _, err := fmt.Fprintf(l.out, "%s %s\n", line.At.Format(timeInLog), line.Text); err != nil {
				return nil //nolint:nilerr // as above
			}
		}
		l.position = next
		if len(lines) < linesInMemory {
			return nil
		}
	}
}

// follow writes lines as they come, until the step has ended or the client goes.
func (l *logReader) follow(ctx context.Context) error {
	ticker := time.NewTicker(followInterval)
	defer ticker.Stop()
	for last := false; ; {
		if err := l.read(ctx); err != nil {
			return err
		}
		if err := l.flush(); err != nil || last {
			return nil // the client went
		}
		// What was logged before the end is written a moment later: it is read once more.
		var err error
		if last, err = l.ended(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (l *logReader) ended(ctx context.Context) (bool, error) {
	run := &v1alpha1.WorkflowRun{}
	err := l.api.Hub.Get(ctx, client.ObjectKeyFromObject(l.run), run, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading run %s: %w", l.run.Name, err)
	}
	for i := range run.Status.Steps {
		if s := &run.Status.Steps[i]; s.Name == l.step && ended(s.Phase) {
			return true, nil
		}
	}
	return run.UID != l.run.UID || run.Status.Phase.Finished(), nil
}

// ended says that nothing more happens in a step by itself.
func ended(phase v1alpha1.StepPhase) bool {
	switch phase {
	case v1alpha1.StepSucceeded, v1alpha1.StepSkipped, v1alpha1.StepFailed, v1alpha1.StepAborted, v1alpha1.StepCompensated:
		return true
	}
	return false
}
