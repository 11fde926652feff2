package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/record"
)

const (
	linksAtOnce = 1000
	// maxFindings ends a verification that finds everything wrong.
	maxFindings = 1000
	// unanchoredTime is how long a chain may be without an anchor: the server anchors those that cannot do so.
	unanchoredTime = 5 * time.Minute
)

// Finding is something wrong.
type Finding struct {
	// Row is the number of the row, if one can be named.
	Row string `json:"row,omitempty"`
	// Writer is the number and name of the chain.
	Writer  string `json:"writer,omitempty"`
	Problem string `json:"problem"`
}

// Report is what a verification has looked at and found.
type Report struct {
	Database string `json:"database"`
	// Writers and Links are how many chains there are, and how many links were checked.
	Writers int `json:"writers"`
	Links   int `json:"links"`
	// Anchored is false if the hub's anchors were not compared.
	Anchored bool `json:"anchored"`
	// Unanchored are the newest links, which no anchor covers yet: it would not be found if they were cut off.
	Unanchored int       `json:"unanchored"`
	Findings   []Finding `json:"findings"`
}

// Verify checks every chain of the database, and what the hub's anchors say of them; anchors may be nil.
func Verify(ctx context.Context, db *record.Database, anchors *Anchors) (*Report, error) {
	v := &verification{report: Report{Database: db.String(), Findings: []Finding{}}}
	if anchors != nil {
		var err error
		// The anchors first: the chains are at least as long when they are read.
		if v.anchors, err = anchors.Read(ctx); err != nil {
			return nil, err
		}
		v.report.Anchored = true
		if err := v.others(ctx, anchors); err != nil {
			return nil, err
		}
	}
	err := db.View(ctx, func(tx *record.Tx) error { return v.run(ctx, tx) })
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", db, err)
	}
	return &v.report, nil
}

type verification struct {
	report  Report
	anchors map[int64]Anchor
}

// writerRow is a chain as the database describes it.
type writerRow struct {
	id              int64
	name, identity  string
	started, ended  int64
	headSeq, cutSeq int64
	head, cut       []byte
}

func (w *writerRow) String() string { return fmt.Sprintf("%d (%s)", w.id, w.name) }

func (v *verification) find(w *writerRow, row int64, format string, args ...any) {
	f := Finding{Problem: fmt.Sprintf(format, args...)}
	if w != nil {
		f.Writer = w.String()
	}
	if row != 0 {
		f.Row = fmt.Sprint(row)
	}
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, f)
	}
}

// others finds anchors of databases that are not this one: this one may have been put in another's place.
func (v *verification) others(ctx context.Context, anchors *Anchors) error {
	maps := &corev1.ConfigMapList{}
	if err := anchors.Hub.List(ctx, maps, client.InNamespace(anchors.Namespace)); err != nil {
		return fmt.Errorf("looking for the audit's anchors: %w", err)
	}
	for _, m := range maps.Items {
		if strings.HasPrefix(m.Name, anchorsName) && m.Name != anchors.key().Name {
			v.find(nil, 0, "the hub holds anchors of another database (ConfigMap %s): its rows are not in this one. If the records were moved on purpose, keep the old database and delete that ConfigMap", m.Name)
		}
	}
	return nil
}

func (v *verification) run(ctx context.Context, tx *record.Tx) error {
	writers, err := readWriters(ctx, tx)
	if err != nil {
		return err
	}
	v.report.Writers = len(writers)
	for _, w := range writers {
		if err := v.chain(ctx, tx, w); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.anchors)) {
		anchor := v.anchors[id]
		if !slices.ContainsFunc(writers, func(w *writerRow) bool { return w.id == id }) {
			v.find(nil, 0, "the whole chain of writer %d was removed: the hub holds an anchor at link %d of %s", id, anchor.Seq, anchor.Time.Format(time.RFC3339))
		}
	}
	return tx.Each(ctx, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		v.find(nil, id, "the row was inserted: it belongs to no chain")
		return err
	}, `SELECT id FROM audit_rows WHERE writer NOT IN (SELECT id FROM audit_writers) OR result_writer NOT IN (SELECT id FROM audit_writers) ORDER BY id LIMIT ?`, maxFindings)
}

func readWriters(ctx context.Context, tx *record.Tx) ([]*writerRow, error) {
	var writers []*writerRow
	err := tx.Each(ctx, func(scan func(...any) error) error {
		w := &writerRow{}
		writers = append(writers, w)
		return scan(&w.id, &w.name, &w.identity, &w.started, &w.ended, &w.headSeq, &w.head, &w.cutSeq, &w.cut)
	}, `SELECT id, name, identity, started, COALESCE(ended, 0), head_seq, head_hash, cut_seq, cut_hash FROM audit_writers ORDER BY id`)
	return writers, err
}

// linkRow is one link with its row.
type linkRow struct {
	seq, id         int64
	kind            byte
	hash            []byte
	closed          bool
	intent, outcome string
	before, after   string
	columns         [8]string // user_name, tenant, cluster, resource, name, action, result, words
}

// chain follows one chain from its beginning, or from where retention has cut it, to its head.
func (v *verification) chain(ctx context.Context, tx *record.Tx, w *writerRow) error {
	anchor, anchored := v.anchors[w.id]
	hash, next := genesis(w.name, w.identity), int64(1)
	if w.cutSeq > 0 {
		hash, next = w.cut, w.cutSeq+1
		if v.report.Anchored && (w.cutSeq > anchor.Cut || w.cutSeq == anchor.Cut && hex.EncodeToString(w.cut) != anchor.CutHash) {
			v.find(w, 0, "the oldest links, up to %d, were removed, and not by retention: the hub knows of a cut at %d", w.cutSeq, anchor.Cut)
		}
	}
	for {
		links, err := readLinks(ctx, tx, w.id, next-1)
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.seq > next {
				v.find(w, 0, "links %d to %d are missing: rows, or results of rows, before row %d were removed", next, l.seq-1, l.id)
				hash = nil
			}
			v.link(w, l, hash)
			if anchored && anchor.Seq == l.seq && anchor.Hash != hex.EncodeToString(l.hash) {
				v.find(w, l.id, "the chain up to link %d was written anew: it is not the one that the hub's anchor of %s holds", l.seq, anchor.Time.Format(time.RFC3339))
			}
			hash, next = l.hash, l.seq+1
			v.report.Links++
		}
		if len(links) < linksAtOnce || len(v.report.Findings) >= maxFindings {
			break
		}
	}
	v.end(w, next-1, hash, anchor, anchored)
	return nil
}

// link checks one link and the row it belongs to. Without a hash before it only the row is checked.
func (v *verification) link(w *writerRow, l linkRow, before []byte) {
	var outcome []byte
	what := "when it was begun"
	if l.kind == kindOutcome {
		outcome, what = []byte(l.outcome), "of its result"
	}
	if before != nil && !bytes.Equal(link(before, l.seq, l.kind, l.id, []byte(l.intent), outcome), l.hash) {
		v.find(w, l.id, "the row was changed, put in another's place or inserted: link %d, %s, has another hash", l.seq, what)
		return
	}
	if l.closed && l.kind == kindIntent {
		return // its result's link checks the rest
	}
	var i Intent
	var o *Outcome
	if err := json.Unmarshal([]byte(l.intent), &i); err != nil {
		v.find(w, l.id, "the row cannot be read: %v", err)
		return
	}
	if l.kind == kindOutcome {
		o = &Outcome{}
		if err := json.Unmarshal([]byte(l.outcome), o); err != nil {
			v.find(w, l.id, "the row's result cannot be read: %v", err)
			return
		}
		if !bytes.Equal(o.DigestBefore, digest(l.before)) || !bytes.Equal(o.DigestAfter, digest(l.after)) {
			v.find(w, l.id, "the row's state before or after was changed")
		}
	} else if l.outcome != "" {
		v.find(w, l.id, "the row was given a result that is in no chain")
	}
	row := rowOf(l.id, i, o)
	if want := row.columns(); want != l.columns {
		v.find(w, l.id, "the row's columns for searching were changed: they do not say what its documents do")
	}
}

// end checks that the chain ends where the database and the hub say.
func (v *verification) end(w *writerRow, last int64, hash []byte, anchor Anchor, anchored bool) {
	switch {
	case last < w.headSeq:
		v.find(w, 0, "the newest links, %d to %d, were cut off", last+1, w.headSeq)
	case last > w.headSeq || hash != nil && !bytes.Equal(hash, w.head):
		v.find(w, 0, "the chain does not end where the database says (link %d)", w.headSeq)
	}
	switch {
	case !v.report.Anchored:
	case anchored && anchor.Seq > last:
		v.find(w, 0, "the newest links, %d to %d, were cut off: the hub holds an anchor of %s", last+1, anchor.Seq, anchor.Time.Format(time.RFC3339))
	case !anchored && time.Since(time.UnixMilli(w.started)) > unanchoredTime:
		v.find(w, 0, "the chain was inserted: the hub holds no anchor of it")
	default:
		v.report.Unanchored += int(last - anchor.Seq)
	}
}

func readLinks(ctx context.Context, tx *record.Tx, writer, after int64) ([]linkRow, error) {
	const columns = `id, CASE WHEN result_seq IS NULL THEN 0 ELSE 1 END AS closed, intent, COALESCE(outcome, '') AS outcome, COALESCE(state_before, '') AS state_before,
		COALESCE(state_after, '') AS state_after, user_name, tenant, cluster, resource, name, action, result, words`
	const shown = `link, kind, link_hash, id, closed, intent, outcome, state_before, state_after, user_name, tenant, cluster, resource, name, action, result, words`
	var links []linkRow
	err := tx.Each(ctx, func(scan func(...any) error) error {
		var l linkRow
		var kind, closed int
		c := &l.columns
		if err := scan(&l.seq, &kind, &l.hash, &l.id, &closed, &l.intent, &l.outcome, &l.before, &l.after, &c[0], &c[1], &c[2], &c[3], &c[4], &c[5], &c[6], &c[7]); err != nil {
			return err
		}
		l.kind, l.closed = kindIntent, closed == 1
		if kind == 1 {
			l.kind = kindOutcome
		}
		links = append(links, l)
		return nil
	}, `SELECT `+shown+` FROM (SELECT seq AS link, 0 AS kind, hash AS link_hash, `+columns+` FROM audit_rows WHERE writer = ? AND seq > ? ORDER BY seq LIMIT ?) AS begun
		UNION ALL SELECT `+shown+` FROM (SELECT result_seq AS link, 1 AS kind, result_hash AS link_hash, `+columns+` FROM audit_rows WHERE result_writer = ? AND result_seq > ? ORDER BY result_seq LIMIT ?) AS ended
		ORDER BY link LIMIT ?`, writer, after, linksAtOnce, writer, after, linksAtOnce, linksAtOnce)
	return links, err
}
