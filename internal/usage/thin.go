package usage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"yunfan.io/yunfan/internal/record"
)

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

// grade says that samples older than age are joined into spans.
type grade struct{ age, span time.Duration }

// Samples as they were taken for two days, by the hour for 90 days, by the day for two years; then they go.
var (
	grades  = []grade{{2 * day, hour}, {90 * day, day}}
	forever = 730 * day
)

// maxSpans is how many spans one run joins: what is left waits for the next run.
const maxSpans = 500

// Thin joins old samples into longer spans and deletes the oldest.
func (h *History) Thin(ctx context.Context) error {
	now := h.now()
	for _, g := range grades {
		for range maxSpans {
			more, err := h.join(ctx, g, now)
			if err != nil {
				return fmt.Errorf("thinning out the history of usage: %w", err)
			}
			if !more {
				break
			}
		}
	}
	err := h.Records.Update(ctx, func(tx *record.Tx) error {
		return tx.Exec(ctx, `DELETE FROM usage_samples WHERE at < ?`, now.Add(-forever).Unix())
	})
	if err != nil {
		return fmt.Errorf("deleting the oldest samples of usage: %w", err)
	}
	return nil
}

// join makes one span out of the oldest samples that are due, for every partition and tenant at once.
func (h *History) join(ctx context.Context, g grade, now time.Time) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	span := int64(g.span / time.Second)
	due := now.Add(-g.age).Truncate(g.span).Unix()
	err = h.Records.Update(ctx, func(tx *record.Tx) error {
		var oldest *int64
		if _, err := tx.One(ctx, []any{&oldest}, `SELECT MIN(at) FROM usage_samples WHERE span < ? AND at < ?`, span, due); err != nil || oldest == nil {
			return err
		}
		more = true
		from := *oldest - *oldest%span
		means, err := read(ctx, tx, from, from+span, span)
		if err != nil {
			return err
		}
		if err := tx.Exec(ctx, `DELETE FROM usage_samples WHERE span < ? AND at >= ? AND at < ?`, span, from, from+span); err != nil {
			return err
		}
		for _, s := range slices.SortedFunc(maps.Keys(means), compareSubjects) {
			if err := insert(ctx, tx, s, from, span, means[s].out); err != nil {
				return err
			}
		}
		return nil
	})
	return more, err
}

// read joins the samples of a time that are shorter than span, by subject.
func read(ctx context.Context, tx *record.Tx, from, to, span int64) (map[subject]*mean, error) {
	means := map[subject]*mean{}
	err := tx.Each(ctx, func(scan func(...any) error) error {
		var s subject
		var seconds int64
		var text string
		if err := scan(&s.tenant, &s.partition, &seconds, &text); err != nil {
			return err
		}
		values, err := decode(text)
		if err != nil {
			return err
		}
		if means[s] == nil {
			means[s] = newMean()
		}
		means[s].add(values, seconds)
		return nil
	}, `SELECT tenant, partition, span, amounts FROM usage_samples WHERE span < ? AND at >= ? AND at < ? ORDER BY at`, span, from, to)
	return means, err
}
