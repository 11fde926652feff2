package history

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
)

// BenchmarkList reads pages of 100,000 archived runs of 50 tenants beside 1,000 that are on the hub.
func BenchmarkList(b *testing.B) {
	records, err := record.Open(b.Context(), "sqlite://"+filepath.Join(b.TempDir(), "records.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = records.Close() })
	h := New(nil, records)
	if err := h.migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	const archived, onHub, tenants, batch = 100_000, 1000, 50, 2000
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	run := func(i int) *v1alpha1.WorkflowRun {
		return newRun(fmt.Sprint("tenant-", i%tenants), fmt.Sprint("release-", i), "release", fmt.Sprint("user-", i%70), v1alpha1.RunSucceeded, begin.Add(time.Duration(i)*time.Minute))
	}
	for i := 0; i < archived; i += batch {
		if err := records.Update(b.Context(), func(tx *record.Tx) error {
			for n := i; n < i+batch; n++ {
				if err := insertRun(b.Context(), tx, run(n), make([]byte, 1000)); err != nil {
					return err
				}
			}
			return tx.Exec(b.Context(), `UPDATE workflow_runs SET live = 0 WHERE live = 1`)
		}); err != nil {
			b.Fatal(err)
		}
	}
	var live []Row
	for i := range onHub {
		live = append(live, rowOf(run(archived+i)))
	}
	for _, query := range []string{"", "page=1900", "sort=name&page=1000", "tenant=tenant-7", "user=user-3&phase=Succeeded", "search=release-77777"} {
		for who, visible := range map[string]scope{"all": {all: true}, "one tenant": {tenants: []string{"tenant-7"}}} {
			b.Run(who+"/"+query, func(b *testing.B) {
				values, err := url.ParseQuery(query)
				if err != nil {
					b.Fatal(err)
				}
				q, err := parse(values)
				if err != nil {
					b.Fatal(err)
				}
				q.visible = visible
				for b.Loop() {
					if _, err := h.list(b.Context(), seen(live, q), q); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
