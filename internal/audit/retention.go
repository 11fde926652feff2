package audit

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"yunfan.io/yunfan/internal/record"
)

const (
	retentionTime = 10 * time.Minute
	// removedAtOnce is how many rows go in one transaction.
	removedAtOnce = 500
)

// cutOff is where a chain begins after its oldest links were removed.
type cutOff struct {
	writer, seq int64
	hash        []byte
	now         int64 // where it begins until then
}

// clean removes the rows that are too old or too many. Where each chain then begins is written to the hub first, and
// to the database with the first rows that go: a chain that begins anywhere else was cut by somebody else.
func (l *Log) clean(ctx context.Context, now time.Time) error {
	limit, err := l.oldest(ctx, now)
	if err != nil || limit == 0 {
		return err
	}
	var cuts []cutOff
	err = l.db.View(ctx, func(tx *record.Tx) error {
		cuts, err = cutOffs(ctx, tx, limit)
		return err
	})
	if err != nil || len(cuts) == 0 {
		return err
	}
	if err := l.anchors.change(ctx, func(anchors map[int64]Anchor) error {
		for _, c := range cuts {
			anchor := anchors[c.writer]
			if c.seq > anchor.Seq { // what is not anchored is younger than anything that may go
				return fmt.Errorf("link %d of writer %d is not anchored yet", c.seq, c.writer)
			}
			anchor.Cut, anchor.CutHash = c.seq, hex.EncodeToString(c.hash)
			anchors[c.writer] = anchor
		}
		return nil
	}); err != nil {
		return err
	}
	if err := l.db.Update(ctx, func(tx *record.Tx) error {
		for _, c := range cuts {
			if err := tx.Exec(ctx, `UPDATE audit_writers SET cut_seq = ?, cut_hash = ? WHERE id = ?`, c.seq, c.hash, c.writer); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("cutting chains: %w", err)
	}
	return l.remove(ctx, limit)
}

// oldest is the number below which rows go; zero if none do.
func (l *Log) oldest(ctx context.Context, now time.Time) (limit int64, err error) {
	if l.Keep > 0 {
		limit = max(0, idAt(now.Add(-l.Keep)))
	}
	if l.MaxRows > 0 {
		err = l.db.View(ctx, func(tx *record.Tx) error {
			var id int64
			_, err := tx.One(ctx, []any{&id}, `SELECT id FROM audit_rows ORDER BY id DESC LIMIT 1 OFFSET ?`, l.MaxRows-1)
			limit = max(limit, id)
			return err
		})
	}
	return limit, err
}

// cutOffs finds for each chain the last link before which everything may go: it belongs to no row that stays.
func cutOffs(ctx context.Context, tx *record.Tx, limit int64) ([]cutOff, error) {
	var cuts []cutOff
	if err := tx.Each(ctx, func(scan func(...any) error) error {
		var c cutOff
		if err := scan(&c.writer, &c.seq, &c.hash, &c.now); err != nil {
			return err
		}
		if c.seq > c.now {
			cuts = append(cuts, c)
		}
		return nil
	}, `SELECT id, head_seq, head_hash, cut_seq FROM audit_writers`); err != nil {
		return nil, err
	}
	kept := cuts[:0]
	for _, c := range cuts {
		var stays *int64
		if _, err := tx.One(ctx, []any{&stays}, `SELECT MIN(seq) FROM (
			SELECT MIN(seq) AS seq FROM audit_rows WHERE writer = ? AND (id >= ? OR result_seq IS NULL)
			UNION ALL SELECT MIN(result_seq) FROM audit_rows WHERE result_writer = ? AND id >= ?) AS links`,
			c.writer, limit, c.writer, limit); err != nil {
			return nil, err
		}
		if stays != nil {
			c.seq = *stays - 1
			hash, err := linkAt(ctx, tx, c.writer, c.seq)
			if err != nil {
				return nil, err
			}
			if hash == nil || c.seq <= c.now {
				continue // nothing before it is left
			}
			c.hash = hash
		}
		kept = append(kept, c)
	}
	return kept, nil
}

// remove deletes rows both of whose links are before the cuts, the oldest first.
func (l *Log) remove(ctx context.Context, limit int64) error {
	for {
		var removed int64
		err := l.db.Update(ctx, func(tx *record.Tx) (err error) {
			removed, err = tx.Change(ctx, `DELETE FROM audit_rows WHERE id IN (
				SELECT r.id FROM audit_rows r JOIN audit_writers w ON w.id = r.writer JOIN audit_writers v ON v.id = r.result_writer
				WHERE r.id < ? AND r.seq <= w.cut_seq AND r.result_seq <= v.cut_seq ORDER BY r.id LIMIT ?)`, limit, removedAtOnce)
			return err
		})
		if err != nil {
			return fmt.Errorf("removing old rows: %w", err)
		}
		if removed == 0 {
			return nil
		}
		l.log.Info("Removed old rows of audit", "rows", removed)
	}
}
