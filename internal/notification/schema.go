package notification

import (
	"context"
	"fmt"

	"yunfan.io/yunfan/internal/record"
)

// States of a delivery.
const (
	statePending = "Pending"
	stateSent    = "Sent"
	// stateDead is never tried again, unless somebody asks for it.
	stateDead = "Dead"
)

// migrate makes the tables. Times are in milliseconds since 1970.
func (s *Service) migrate(ctx context.Context) error {
	err := s.Records.Migrate(ctx, record.Migration{
		Capability: "notification", Version: 1,
		Statements: []string{
			`CREATE TABLE notification_messages (key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, topic TEXT NOT NULL, created BIGINT NOT NULL,
				title_zh TEXT NOT NULL, title_en TEXT NOT NULL, text_zh TEXT NOT NULL, text_en TEXT NOT NULL, data TEXT NOT NULL)`,
			`CREATE INDEX notification_messages_by_age ON notification_messages (created)`,
			// name is that of a user, with his uid, or of a receiver in a namespace, without. lane is the queue that a delivery
			// waits in, deadline when it is given up, holder the server that has it under way, seq its place in the lane (nanoseconds).
			`CREATE TABLE notification_deliveries (id TEXT NOT NULL PRIMARY KEY, message TEXT NOT NULL, tenant TEXT NOT NULL, topic TEXT NOT NULL,
				channel TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL, namespace TEXT NOT NULL, address TEXT NOT NULL, lane TEXT NOT NULL, state TEXT NOT NULL,
				attempts BIGINT NOT NULL, due BIGINT NOT NULL, deadline BIGINT NOT NULL, holder TEXT NOT NULL,
				seq BIGINT NOT NULL, created BIGINT NOT NULL, finished BIGINT NOT NULL, error TEXT NOT NULL, read_at BIGINT NOT NULL)`,
			`CREATE INDEX notification_deliveries_waiting ON notification_deliveries (lane, seq, id, due) WHERE state = 'Pending'`,
			`CREATE INDEX notification_deliveries_inbox ON notification_deliveries (uid, created) WHERE channel = 'Inbox'`,
			`CREATE INDEX notification_deliveries_by_tenant ON notification_deliveries (tenant, created)`,
			`CREATE INDEX notification_deliveries_by_age ON notification_deliveries (created, id)`,
			`CREATE INDEX notification_deliveries_by_message ON notification_deliveries (message)`,
			// A lane is here while its target is not well: nothing is sent before until.
			`CREATE TABLE notification_lanes (lane TEXT NOT NULL PRIMARY KEY, until BIGINT NOT NULL, failures BIGINT NOT NULL)`,
		},
	})
	if err != nil {
		return fmt.Errorf("making the tables of notifications: %w", err)
	}
	return nil
}
