package audit

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
)

// written is a database with rows of two servers that have ended, anchored on the hub.
func written(t *testing.T, db *record.Database, hub client.Client) *Anchors {
	t.Helper()
	g := NewWithT(t)
	anchors := &Anchors{Hub: hub, Database: db, Namespace: testkit.Namespace(t, hub)}
	for server := range 2 {
		w := writing(t, db, fmt.Sprint("server", server))
		for i := range 10 {
			row, err := w.Begin(t.Context(), anIntent(i))
			g.Expect(err).NotTo(HaveOccurred())
			if i != 7 { // one never ends
				w.End(row, Outcome{Time: time.Now().UnixMilli(), Result: ResultSucceeded, Code: 200, Before: `{"a":1}`, After: `{"a":2}`, Name: "made"})
			}
		}
		g.Expect(w.Close()).To(Succeed())
		g.Expect(anchors.Set(t.Context(), w.Head())).To(Succeed())
	}
	return anchors
}

// problems are what a verification finds, in one text.
func problems(t *testing.T, db *record.Database, anchors *Anchors) string {
	t.Helper()
	report, err := Verify(t.Context(), db, anchors)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range report.Findings {
		all = append(all, fmt.Sprintf("row %s: %s", f.Row, f.Problem))
	}
	return strings.Join(all, "\n")
}

// tamper changes the database behind the server's back.
func tamper(t *testing.T, db *record.Database, statement string, args ...any) {
	t.Helper()
	err := db.Update(t.Context(), func(tx *record.Tx) error {
		n, err := tx.Change(t.Context(), statement, args...)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s changed nothing", statement)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAUD01_Tampering(t *testing.T) {
	hub := testkit.StartMember(t)
	both(t, func(t *testing.T, location string) {
		db := opened(t, location)
		anchors := written(t, db, hub.Client)
		if found := problems(t, db, anchors); found != "" {
			t.Fatalf("nothing was changed, and yet:\n%s", found)
		}
		ctx := t.Context()
		// The row in the middle of the first chain, its neighbour, and the last.
		id := func(writer, seq int) (id int64) {
			if err := db.View(ctx, func(tx *record.Tx) error {
				_, err := tx.One(ctx, []any{&id}, `SELECT id FROM audit_rows WHERE writer = ? AND seq >= ? ORDER BY seq LIMIT 1`, writer, seq)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return id
		}
		row, other := id(1, 4), id(1, 9)
		intent := func(id int64) (text string) {
			if err := db.View(ctx, func(tx *record.Tx) error {
				_, err := tx.One(ctx, []any{&text}, `SELECT intent FROM audit_rows WHERE id = ?`, id)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return text
		}
		type change struct {
			statement string
			args      []any
		}
		for _, tc := range []struct {
			name, reason string
			changes      []change
			says         []string
			alone        bool // found without the hub, too
		}{
			{"FlippedByte", "one byte of what was asked", []change{{`UPDATE audit_rows SET intent = REPLACE(intent, 'kubectl/v1.36', 'kubectl/v1.37') WHERE id = ?`, []any{row}}}, []string{fmt.Sprintf("row %d: the row was changed", row)}, true},
			{"FlippedResult", "one byte of the result", []change{{`UPDATE audit_rows SET outcome = REPLACE(outcome, '200', '201') WHERE id = ?`, []any{row}}}, []string{fmt.Sprintf("row %d: the row was changed", row), "of its result"}, true},
			{"FlippedState", "one byte of the state", []change{{`UPDATE audit_rows SET state_after = '{"a":3}' WHERE id = ?`, []any{row}}}, []string{fmt.Sprintf("row %d: the row's state", row)}, true},
			{"FlippedColumn", "a row that searches do not find", []change{{`UPDATE audit_rows SET user_name = 'nobody' WHERE id = ?`, []any{row}}}, []string{fmt.Sprintf("row %d: the row's columns", row)}, true},
			{"Moved", "another time of the whole row", []change{{`UPDATE audit_rows SET id = id + 2000 WHERE id = ?`, []any{row}}}, []string{"the row was changed"}, true},
			{"Deleted", "a row in the middle", []change{{`DELETE FROM audit_rows WHERE id = ?`, []any{row}}}, []string{"are missing", "were removed"}, true},
			{"NoResult", "a row without its result", []change{{`UPDATE audit_rows SET result_seq = NULL, result_writer = NULL, outcome = NULL, result = 'Pending' WHERE id = ?`, []any{row}}}, []string{"are missing"}, true},
			{"TailOfHead", "the newest rows", []change{{`DELETE FROM audit_rows WHERE writer = 2 AND seq > 10`, nil}}, []string{"newest links", "were cut off"}, true},
			{"Tail", "the newest rows, and the head moved back", []change{
				{`DELETE FROM audit_rows WHERE writer = 2 AND result_writer = 2 AND result_seq > 4`, nil},
				{`DELETE FROM audit_rows WHERE writer = 2 AND seq > 4`, nil},
				{`UPDATE audit_writers SET head_seq = (SELECT MAX(s) FROM (SELECT seq AS s FROM audit_rows WHERE writer = 2 UNION ALL SELECT result_seq FROM audit_rows WHERE result_writer = 2) AS x),
					head_hash = (SELECT h FROM (SELECT seq AS s, hash AS h FROM audit_rows WHERE writer = 2 UNION ALL SELECT result_seq, result_hash FROM audit_rows WHERE result_writer = 2) AS x ORDER BY s DESC LIMIT 1) WHERE id = 2`, nil},
			}, []string{"were cut off: the hub holds an anchor"}, false},
			{"Head", "a cut that retention did not make", []change{
				{`UPDATE audit_writers SET cut_seq = 5, cut_hash = (SELECT h FROM (SELECT seq AS s, hash AS h FROM audit_rows WHERE writer = 1 UNION ALL SELECT result_seq, result_hash FROM audit_rows WHERE result_writer = 1) AS x WHERE s = 5) WHERE id = 1`, nil},
			}, []string{"not by retention"}, false},
			{"Swapped", "what two rows say, exchanged", []change{
				{`UPDATE audit_rows SET intent = ? WHERE id = ?`, []any{intent(other), row}}, {`UPDATE audit_rows SET intent = ? WHERE id = ?`, []any{intent(row), other}},
			}, []string{fmt.Sprintf("row %d: the row was changed", row), fmt.Sprintf("row %d: the row was changed", other)}, true},
			{"Inserted", "a row of nobody", []change{{`INSERT INTO audit_rows (id, writer, seq, hash, user_name, tenant, cluster, resource, name, action, result, words, intent)
				SELECT id + 2000, 99, 1, hash, user_name, tenant, cluster, resource, name, action, result, words, intent FROM audit_rows WHERE id = ?`, []any{row}}}, []string{fmt.Sprintf("row %d: the row was inserted", row+2000)}, true},
			{"Chain", "everything of one server", []change{
				{`DELETE FROM audit_rows WHERE writer = 2 OR result_writer = 2`, nil}, {`DELETE FROM audit_writers WHERE id = 2`, nil},
			}, []string{"whole chain of writer 2 was removed"}, true},
		} {
			t.Run(tc.name, func(t *testing.T) {
				back := dump(t, db)
				defer restore(t, db, back)
				for _, c := range tc.changes {
					tamper(t, db, c.statement, c.args...)
				}
				found := problems(t, db, anchors)
				for _, says := range tc.says {
					if !strings.Contains(found, says) {
						t.Errorf("%s: got\n%s\nwant %q", tc.reason, found, says)
					}
				}
				if alone := problems(t, db, nil); (alone != "") != tc.alone {
					t.Errorf("%s: without the hub got\n%s", tc.reason, alone)
				}
			})
		}
		if found := problems(t, db, anchors); found != "" {
			t.Fatalf("everything was put back, and yet:\n%s", found)
		}
	})
}

// dump reads both tables whole.
func dump(t *testing.T, db *record.Database) map[string][][]any {
	t.Helper()
	all := map[string][][]any{}
	if err := db.View(t.Context(), func(tx *record.Tx) error {
		for table, columns := range map[string]int{"audit_rows": 19, "audit_writers": 10} {
			if err := tx.Each(t.Context(), func(scan func(...any) error) error {
				row, into := make([]any, columns), make([]any, columns)
				for i := range row {
					into[i] = &row[i]
				}
				all[table] = append(all[table], row)
				return scan(into...)
			}, `SELECT * FROM `+table); err != nil { //nolint:unqueryvet // whole rows, to be put back
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func restore(t *testing.T, db *record.Database, all map[string][][]any) {
	t.Helper()
	ctx := context.Background()
	if err := db.Update(ctx, func(tx *record.Tx) error {
		for table, rows := range all {
			if err := tx.Exec(ctx, `DELETE FROM `+table); err != nil {
				return err
			}
			for _, row := range rows {
				if err := tx.Exec(ctx, `INSERT INTO `+table+` VALUES (?`+strings.Repeat(",?", len(row)-1)+`)`, row...); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAUD01_Retention(t *testing.T) {
	hub := testkit.StartMember(t)
	both(t, func(t *testing.T, location string) {
		g, ctx := NewWithT(t), t.Context()
		db := opened(t, location)
		anchors := written(t, db, hub.Client)
		w := writing(t, db, "server2")
		l := &Log{Options: Options{MaxRows: 12}, db: db, writer: w, anchors: anchors, log: w.log}
		row, err := w.Begin(ctx, anIntent(1))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(anchors.Set(ctx, w.Head())).To(Succeed())
		heads, err := anchors.heads(ctx, w.Head().Writer)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(anchors.Set(ctx, heads...)).To(Succeed())
		g.Expect(l.clean(ctx, time.Now())).To(Succeed())
		var rows int
		count := func() int {
			g.Expect(db.View(ctx, func(tx *record.Tx) error {
				_, err := tx.One(ctx, []any{&rows}, `SELECT COUNT(*) FROM audit_rows`)
				return err
			})).To(Succeed())
			return rows
		}
		g.Expect(count()).To(And(BeNumerically(">=", 12), BeNumerically("<", 21)), "the oldest went")
		g.Expect(problems(t, db, anchors)).To(BeEmpty(), "chains hold over the cut")
		g.Expect(problems(t, db, nil)).To(BeEmpty())

		w.End(row, Outcome{Time: time.Now().UnixMilli(), Result: ResultSucceeded})
		l.MaxRows, l.Keep = 0, time.Millisecond
		g.Eventually(func() int64 { return w.Head().Seq }).Should(BeNumerically(">=", 3))
		g.Expect(anchors.Set(ctx, w.Head())).To(Succeed())
		g.Expect(l.clean(ctx, time.Now().Add(time.Minute))).To(Succeed())
		g.Expect(count()).To(BeZero(), "all are too old")
		g.Expect(problems(t, db, anchors)).To(BeEmpty())

		_, err = w.Begin(ctx, anIntent(2))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(problems(t, db, anchors)).To(BeEmpty(), "the chain goes on")
		tamper(t, db, `DELETE FROM audit_rows`)
		g.Expect(problems(t, db, anchors)).To(ContainSubstring("cut off"), "a row that retention did not remove")
	})
}

func TestLinksDiffer(t *testing.T) {
	start := genesis("a", "b")
	seen := map[string]bool{hex.EncodeToString(start): true}
	for _, hash := range [][]byte{
		genesis("ab", ""), link(start, 1, kindIntent, 1, []byte("a"), nil), link(start, 2, kindIntent, 1, []byte("a"), nil), link(start, 1, kindIntent, 2, []byte("a"), nil),
		link(start, 1, kindOutcome, 1, []byte("a"), nil), link(start, 1, kindOutcome, 1, []byte("a"), []byte("b")), link(start, 1, kindOutcome, 1, []byte("ab"), nil),
		link(genesis("b", "a"), 1, kindIntent, 1, []byte("a"), nil),
	} {
		if key := hex.EncodeToString(hash); seen[key] {
			t.Errorf("two links have the hash %s", key)
		} else {
			seen[key] = true
		}
	}
}
