package audit

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"

	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
)

// both runs a test with a database of each kind.
func both(t *testing.T, test func(t *testing.T, location string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "records.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, testkit.StartPostgreSQL(t).URL) })
}

func opened(t testing.TB, location string) *record.Database {
	t.Helper()
	d, err := record.Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func writing(t *testing.T, db *record.Database, name string) *Writer {
	t.Helper()
	w, err := NewWriter(t.Context(), db, name, testr.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func anIntent(i int) Intent {
	return Intent{
		Time: time.Now().UnixMilli(), User: fmt.Sprint("user", i%10), Origin: "yunfan", Via: "session/abc", Address: "10.0.0.1", UserAgent: "kubectl/v1.36",
		Action: "update", Tenant: fmt.Sprint("tenant", i%20), Group: "yunfan.io", Resource: "applications", Namespace: fmt.Sprint("tenant", i%20), Name: fmt.Sprint("app", i),
		Method: "PUT", Path: fmt.Sprintf("/apis/yunfan.io/v1alpha1/namespaces/tenant%d/applications/app%d", i%20, i),
	}
}

func TestThroughput(t *testing.T) {
	both(t, func(t *testing.T, location string) {
		db := opened(t, location)
		w := writing(t, db, "here")
		const users, each = 64, 100
		begin := time.Now()
		var group sync.WaitGroup
		for u := range users {
			group.Go(func() {
				for i := range each {
					row, err := w.Begin(t.Context(), anIntent(u*each+i))
					if err != nil {
						t.Error(err)
						return
					}
					w.End(row, Outcome{Time: time.Now().UnixMilli(), Result: ResultSucceeded, Code: 200, Before: `{"a":1}`, After: `{"a":2}`})
				}
			})
		}
		group.Wait()
		took := time.Since(begin)
		t.Logf("%d rows in %s: %.0f rows/s", users*each, took, users*each/took.Seconds())
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var rows, open int
		if err := db.View(context.Background(), func(tx *record.Tx) error {
			_, err := tx.One(context.Background(), []any{&rows, &open}, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN result_seq IS NULL THEN 1 ELSE 0 END), 0) FROM audit_rows`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if rows != users*each || open != 0 {
			t.Errorf("%d rows, %d without a result; want %d, all with", rows, open, users*each)
		}
	})
}
