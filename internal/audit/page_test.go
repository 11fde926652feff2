package audit

import (
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"yunfan.io/yunfan/internal/record"
)

// TestPagesStayFast reads pages of many rows; by hand with a million: the plan is the same.
func TestPagesStayFast(t *testing.T) {
	const rows = 20000
	ctx, db := t.Context(), opened(t, filepath.Join(t.TempDir(), "records.db"))
	w, err := NewWriter(ctx, db, "pages", logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := db.Update(ctx, func(tx *record.Tx) error {
		return tx.Exec(ctx, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO audit_rows (id, writer, seq, hash, result_writer, result_seq, result_hash, user_name, tenant, cluster, resource, name, action, result, words, intent, outcome, state_before, state_after)
			SELECT i * 1000, 1, i, x'00', 1, i + 100000000, x'00', 'user' || (i % 500), 'tenant' || (i % 97), '', 'applications.yunfan.io', 'app' || (i % 5000), 'update',
				CASE i % 1000 WHEN 7 THEN 'Refused' ELSE 'Succeeded' END, 'user' || (i % 500) || ' app' || i, '{"time":1}', '{"time":2,"result":"Succeeded"}', '{}', '{}' FROM n`, rows)
	}); err != nil {
		t.Fatal(err)
	}
	l := &Log{db: db, writer: w}
	for name, tc := range map[string]struct {
		query string
		scope scope
	}{
		"All":     {"", scope{all: true}},
		"User":    {"user=user7", scope{all: true}},
		"Refused": {"result=Refused", scope{all: true}},
		"Name":    {"name=app77", scope{all: true}},
		"Tenant":  {"", scope{tenants: []string{"tenant3", "tenant5"}, user: "user9"}},
		"Rare":    {"search=nowhere", scope{all: true}},
	} {
		values, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parseQuery(values)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		page, err := l.page(ctx, q, tc.scope, false)
		took := time.Since(begun)
		t.Logf("%s: %d rows in %s", name, len(page.Items), took)
		const slow = 5 * time.Second // a machine under load; a scan of all rows for each is worse
		if err != nil || name != "Rare" && len(page.Items) == 0 || took > slow {
			t.Errorf("%s: got %d rows in %s, %v", name, len(page.Items), took, err)
		}
	}
}
