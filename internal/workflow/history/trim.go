package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
)

// What is kept if nothing else is said.
const (
	DefaultKeepFinished = time.Hour
	DefaultKeepCount    = 100
	DefaultKeepRecords  = 365 * 24 * time.Hour
	DefaultMaxRecords   = 100_000
	DefaultTrimInterval = time.Minute
)

const (
	// orphanAge is how old an approval without a run is before it is deleted: until then the run may not be known here.
	orphanAge = 10 * time.Minute
	// deletedAtOnce is how many objects of the hub one round deletes: the hub has other work.
	deletedAtOnce = 1000
	// runsAtOnce and linesAtOnce go in one transaction; batches is how many one round does.
	runsAtOnce, linesAtOnce, batches = 100, 2000, 500
)

// Trimmer keeps lists short: finished runs leave the hub once they are archived, and archived ones go when they are old.
type Trimmer struct {
	*History

	// Client deletes what the cache shows.
	Client client.Client
	// KeepFinished is how long a finished run stays on the hub, KeepCount how many of one namespace do: there it can be
	// retried.
	KeepFinished time.Duration
	KeepCount    int
	// KeepRecords and MaxRecords bound what is archived, by age and by number.
	KeepRecords time.Duration
	MaxRecords  int
	// Interval between two rounds.
	Interval time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// NewTrimmer makes a trimmer with what is kept if nothing else is said.
func NewTrimmer(h *History, c client.Client) *Trimmer {
	return &Trimmer{
		History: h, Client: c, KeepFinished: DefaultKeepFinished, KeepCount: DefaultKeepCount,
		KeepRecords: DefaultKeepRecords, MaxRecords: DefaultMaxRecords, Interval: DefaultTrimInterval, Now: time.Now,
	}
}

// SetupWithManager has runs trimmed while this server leads.
func (t *Trimmer) SetupWithManager(mgr manager.Manager) error { return mgr.Add(t) }

// NeedLeaderElection says that one server trims.
func (t *Trimmer) NeedLeaderElection() bool { return true }

// Start trims until ctx ends. What fails once is tried in the next round.
func (t *Trimmer) Start(ctx context.Context) error {
	ticker := time.NewTicker(t.Interval)
	defer ticker.Stop()
	for {
		if err := t.Trim(ctx); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "Trimming workflow runs")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Trim does one round.
func (t *Trimmer) Trim(ctx context.Context) error {
	var runs v1alpha1.WorkflowRunList
	if err := t.Client.List(ctx, &runs, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing runs: %w", err)
	}
	here := make(map[string]bool, len(runs.Items))
	for i := range runs.Items {
		here[string(runs.Items[i].UID)] = true
	}
	return errors.Join(
		t.left(ctx, here),
		t.deleteRuns(ctx, runs.Items),
		t.deleteApprovals(ctx, here),
		t.trimRecords(ctx),
	)
}

// deleteRuns takes finished runs from the hub that are too old or too many.
func (t *Trimmer) deleteRuns(ctx context.Context, runs []v1alpha1.WorkflowRun) error {
	var errs []error
	for _, run := range t.due(runs) {
		err := t.deleteRun(ctx, run)
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // changed or gone: it is looked at again
			errs = append(errs, fmt.Errorf("run %s of %s: %w", run.Name, run.Namespace, err))
		}
		if ctx.Err() != nil || len(errs) > 3 {
			break // what keeps one from being archived keeps others, too
		}
	}
	return errors.Join(errs...)
}

// due are the runs that may leave the hub, the oldest first.
func (t *Trimmer) due(runs []v1alpha1.WorkflowRun) []*v1alpha1.WorkflowRun {
	byNamespace := map[string][]*v1alpha1.WorkflowRun{}
	for i := range runs {
		run := &runs[i]
		if run.Status.Phase.Finished() && run.Status.FinishTime != nil && run.DeletionTimestamp == nil && !retried(run) {
			byNamespace[run.Namespace] = append(byNamespace[run.Namespace], run)
		}
	}
	oldest := func(a, b *v1alpha1.WorkflowRun) int {
		return cmp.Or(a.Status.FinishTime.Compare(b.Status.FinishTime.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}
	var due []*v1alpha1.WorkflowRun
	for _, finished := range byNamespace {
		slices.SortFunc(finished, oldest)
		for i, run := range finished {
			if len(finished)-i > t.KeepCount || t.Now().Sub(run.Status.FinishTime.Time) > t.KeepFinished {
				due = append(due, run)
			}
		}
	}
	slices.SortFunc(due, oldest)
	return due[:min(len(due), deletedAtOnce)]
}

// retried says that somebody has asked for a retry that was not begun yet.
func retried(run *v1alpha1.WorkflowRun) bool {
	return run.Spec.Retry != nil && run.Spec.Retry.Number > run.Status.Retries
}

// deleteRun archives a run as the cache has it, and deletes it if it still is so.
func (t *Trimmer) deleteRun(ctx context.Context, cached *v1alpha1.WorkflowRun) error {
	run := cached.DeepCopy()
	if err := t.Archive(ctx, run); err != nil {
		return err
	}
	err := t.Client.Delete(ctx, run, client.Preconditions{UID: &run.UID, ResourceVersion: &run.ResourceVersion})
	if err != nil {
		return fmt.Errorf("deleting it from the hub: %w", err)
	}
	return nil
}

// left tells the records which archived runs have left the hub.
func (t *Trimmer) left(ctx context.Context, here map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var gone []string
	err := t.Records.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			var uid string
			if err := scan(&uid); err != nil {
				return err
			}
			if !here[uid] {
				gone = append(gone, uid)
			}
			return nil
		}, `SELECT uid FROM workflow_runs WHERE live = 1`)
	})
	for part := range slices.Chunk(gone, runsAtOnce) {
		if err != nil {
			break
		}
		err = t.Records.Update(ctx, func(tx *record.Tx) error {
			for _, uid := range part {
				if err := tx.Exec(ctx, `UPDATE workflow_runs SET live = 0 WHERE uid = ?`, uid); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("marking runs that have left the hub: %w", err)
	}
	return nil
}

// deleteApprovals takes approvals from the hub whose run is gone: they are archived with it.
func (t *Trimmer) deleteApprovals(ctx context.Context, here map[string]bool) error {
	var list v1alpha1.ApprovalList
	if err := t.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing approvals: %w", err)
	}
	deleted := 0
	for i := range list.Items {
		a := &list.Items[i]
		if here[a.Spec.RunUID] || t.Now().Sub(a.CreationTimestamp.Time) < orphanAge {
			continue
		}
		err := t.Client.Delete(ctx, a.DeepCopy(), client.Preconditions{UID: &a.UID})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting approval %s of %s, whose run is gone: %w", a.Name, a.Namespace, err)
		}
		if deleted++; deleted == deletedAtOnce {
			break
		}
	}
	return nil
}

// trimRecords deletes archived runs that are too old or too many, and logs of runs that were never archived. Runs that are
// still objects of the hub stay.
func (t *Trimmer) trimRecords(ctx context.Context) error {
	cutoff := micros(t.Now().Add(-t.KeepRecords))
	for range batches {
		more, err := t.trimBatch(ctx, cutoff)
		if err != nil {
			return fmt.Errorf("trimming the records of runs: %w", err)
		}
		if !more {
			break
		}
	}
	return nil
}

func (t *Trimmer) trimBatch(ctx context.Context, cutoff int64) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err = t.Records.Update(ctx, func(tx *record.Tx) error {
		runs, err := column1[string](ctx, tx, `SELECT uid FROM workflow_runs WHERE live = 0 AND finished < ? ORDER BY finished, uid LIMIT ?`, cutoff, runsAtOnce)
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			runs, err = column1[string](ctx, tx, `SELECT uid FROM workflow_runs WHERE live = 0 ORDER BY created DESC, uid LIMIT ? OFFSET ?`, runsAtOnce, t.MaxRecords)
			if err != nil {
				return err
			}
		}
		for _, uid := range runs {
			for _, statement := range []string{
				// Its logs go by their age: the very oldest, which the next batches find.
				`UPDATE workflow_logs SET written = 0 WHERE run_uid = ?`,
				`DELETE FROM workflow_run_objects WHERE uid = ?`,
				`DELETE FROM workflow_runs WHERE uid = ?`,
			} {
				if err := tx.Exec(ctx, statement, uid); err != nil {
					return err
				}
			}
		}
		logs, err := trimLogs(ctx, tx, cutoff)
		more = len(runs) > 0 || logs
		return err
	})
	return more, err
}

// trimLogs deletes lines of logs that nobody has written to since cutoff and whose run is not there, and then the logs.
func trimLogs(ctx context.Context, tx *record.Tx, cutoff int64) (more bool, err error) {
	logs, err := column1[int64](ctx, tx, `SELECT g.id FROM workflow_logs g LEFT JOIN workflow_runs r ON r.uid = g.run_uid
		WHERE g.written < ? AND r.uid IS NULL ORDER BY g.written, g.id LIMIT ?`, cutoff, runsAtOnce)
	if err != nil {
		return false, err
	}
	left := int64(linesAtOnce)
	for _, id := range logs {
		n, err := tx.Change(ctx, `DELETE FROM workflow_lines WHERE log = ? AND number IN (SELECT number FROM workflow_lines WHERE log = ? ORDER BY number LIMIT ?)`, id, id, left)
		if err != nil {
			return false, err
		}
		if left -= n; left == 0 {
			return true, nil // the rest of this one is the next batch's
		}
		if err := tx.Exec(ctx, `DELETE FROM workflow_logs WHERE id = ?`, id); err != nil {
			return false, err
		}
	}
	return len(logs) > 0, nil
}

// column1 reads the one column of a query.
func column1[T any](ctx context.Context, tx *record.Tx, query string, args ...any) ([]T, error) {
	var all []T
	err := tx.Each(ctx, func(scan func(...any) error) error {
		var value T
		if err := scan(&value); err != nil {
			return err
		}
		all = append(all, value)
		return nil
	}, query, args...)
	return all, err
}
