package notification

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"

	"yunfan.io/yunfan/internal/record"
)

const (
	trimInterval = time.Hour
	// trimStep is how many messages one transaction removes, and maxTrimSteps how many of those one run has.
	trimStep, maxTrimSteps = 1000, 100
)

// trimmer removes what is too old, what is too much, and keys of receivers that are no more.
type trimmer struct{ *Service }

// NeedLeaderElection says that one server trims.
func (t *trimmer) NeedLeaderElection() bool { return true }

// Start trims until ctx ends. What fails is tried the next time.
func (t *trimmer) Start(ctx context.Context) error {
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	for {
		if err := t.trim(ctx); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "Trimming notifications")
		}
		if err := t.dropKeys(ctx); err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "Removing signing keys")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// trim removes messages with their deliveries, the oldest first. A message is forgotten with its key: the same key would
// be sent again then.
func (s *Service) trim(ctx context.Context) error {
	for range maxTrimSteps {
		more, err := s.trimSome(ctx)
		if err != nil {
			return fmt.Errorf("trimming notifications: %w", err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

func (s *Service) trimSome(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	now := s.Now()
	err = s.Records.Update(ctx, func(tx *record.Tx) error {
		var all int64
		if _, err := tx.One(ctx, []any{&all}, `SELECT COUNT(*) FROM notification_messages`); err != nil {
			return err
		}
		var keys []string
		collect := func(scan func(...any) error) error {
			var key string
			err := scan(&key)
			keys = append(keys, key)
			return err
		}
		var err error
		if surplus := all - int64(s.Limits.Messages); surplus > 0 {
			err = tx.Each(ctx, collect, `SELECT key FROM notification_messages ORDER BY created LIMIT ?`, min(surplus, trimStep))
		} else {
			err = tx.Each(ctx, collect, `SELECT key FROM notification_messages WHERE created < ? ORDER BY created LIMIT ?`,
				now.Add(-s.Limits.Age).UnixMilli(), trimStep)
		}
		if err != nil {
			return err
		}
		for _, key := range keys {
			if err := tx.Exec(ctx, `DELETE FROM notification_deliveries WHERE message = ?`, key); err != nil {
				return err
			}
			if err := tx.Exec(ctx, `DELETE FROM notification_messages WHERE key = ?`, key); err != nil {
				return err
			}
		}
		more = len(keys) > 0
		return tx.Exec(ctx, `DELETE FROM notification_lanes WHERE until < ?`, now.Add(-s.Schedule.GiveUp).UnixMilli())
	})
	return more, err
}
