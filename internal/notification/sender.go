package notification

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
)

const (
	// pollInterval is how often the sender looks for what is due, at least.
	pollInterval = time.Second
	// writeTime bounds one transaction.
	writeTime = 30 * time.Second
	// maxPicked is how many lanes are looked at in one round, and maxUnderWay how many send at once.
	maxPicked, maxUnderWay = 4096, 256
	// maxOfGroup is how many send at once to one tenant's webhooks, or to mail servers or gateways.
	maxOfGroup = 16
	// maxRetryAfter is how long a target may put the next attempt off.
	maxRetryAfter = time.Hour
	// leaseFactor is how many times as long as an attempt may take a delivery that is under way is left to its server.
	leaseFactor = 4
)

// sender delivers what waits. One server has it: the leader.
type sender struct {
	*Service

	mu      sync.Mutex
	lanes   map[string]bool // under way
	groups  map[string]int
	running sync.WaitGroup
	// released says that what servers before had under way was taken from them.
	released bool
}

// NeedLeaderElection says that one server sends.
func (s *sender) NeedLeaderElection() bool { return true }

// Start sends until ctx ends. What a server before has left under way is taken up at once: it is the only case in which
// something is sent twice, with the same ID.
func (s *sender) Start(ctx context.Context) error {
	s.lanes, s.groups = map[string]bool{}, map[string]int{}
	defer s.running.Wait()
	ticker := time.NewTicker(min(pollInterval, s.Schedule.First))
	defer ticker.Stop()
	for {
		var err error
		if !s.released {
			err = s.release(ctx)
			s.released = err == nil
		}
		if err == nil {
			err = s.round(ctx)
		}
		if err != nil && ctx.Err() == nil {
			log.FromContext(ctx).Error(err, "Sending notifications")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.wake:
		}
	}
}

// release takes deliveries from servers that led before.
func (s *sender) release(ctx context.Context) error {
	err := s.Records.Update(ctx, func(tx *record.Tx) error {
		return tx.Exec(ctx, `UPDATE notification_deliveries SET due = ?, holder = '' WHERE state = 'Pending' AND holder <> ''`, s.Now().UnixMilli())
	})
	if err != nil {
		return fmt.Errorf("taking over deliveries: %w", err)
	}
	return nil
}

// row is a delivery that is due.
type row struct {
	id, message, tenant, topic, channel, name, uid, namespace, address, lane string
	attempts, deadline                                                       int64
}

// round starts whatever is due and whose lane is free.
func (s *sender) round(ctx context.Context) error {
	rows, err := s.due(ctx)
	if err != nil {
		return err
	}
	var chosen []row
	for _, r := range rows {
		if s.take(r) {
			chosen = append(chosen, r)
		}
	}
	claimed, err := s.claim(ctx, chosen)
	if err != nil {
		for _, r := range chosen {
			s.give(r)
		}
		return err
	}
	for _, r := range chosen {
		if !claimed[r.id] {
			s.give(r)
			continue
		}
		s.running.Go(func() {
			s.deliver(ctx, r)
			s.give(r)
			select {
			case s.wake <- struct{}{}:
			default:
			}
		})
	}
	return nil
}

// due finds the first delivery of every lane that is due and not resting, the oldest first.
func (s *sender) due(ctx context.Context) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	var rows []row
	now := s.Now().UnixMilli()
	err := s.Records.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			var r row
			err := scan(&r.id, &r.message, &r.tenant, &r.topic, &r.channel, &r.name, &r.uid, &r.namespace, &r.address, &r.lane, &r.attempts, &r.deadline)
			rows = append(rows, r)
			return err
		}, `SELECT d.id, d.message, d.tenant, d.topic, d.channel, d.name, d.uid, d.namespace, d.address, d.lane, d.attempts, d.deadline
			FROM (SELECT DISTINCT lane FROM notification_deliveries WHERE state = 'Pending') waiting
			LEFT JOIN notification_lanes resting ON resting.lane = waiting.lane
			JOIN notification_deliveries d ON d.id = (SELECT x.id FROM notification_deliveries x
				WHERE x.state = 'Pending' AND x.lane = waiting.lane AND x.due <= ? ORDER BY x.seq, x.id LIMIT 1)
			WHERE resting.until IS NULL OR resting.until <= ? ORDER BY d.seq, d.id LIMIT ?`, now, now, maxPicked)
	})
	if err != nil {
		return nil, fmt.Errorf("looking for deliveries: %w", err)
	}
	return rows, nil
}

// group of deliveries that share a bound: one tenant's webhooks, or everything that goes to mail servers or to gateways.
func (r row) group() string {
	if r.channel == channelWebhook {
		return channelWebhook + "/" + r.namespace
	}
	return r.channel
}

// take reserves a lane; false if it is under way, or too much is.
func (s *sender) take(r row) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes[r.lane] || len(s.lanes) >= maxUnderWay || s.groups[r.group()] >= maxOfGroup {
		return false
	}
	s.lanes[r.lane] = true
	s.groups[r.group()]++
	return true
}

func (s *sender) give(r row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lanes, r.lane)
	if s.groups[r.group()]--; s.groups[r.group()] == 0 {
		delete(s.groups, r.group())
	}
}

// claim marks deliveries as under way here, each only if nobody else has: a leader that was stopped for a while and has
// lost the lead gets none.
func (s *sender) claim(ctx context.Context, rows []row) (map[string]bool, error) {
	claimed := map[string]bool{}
	if len(rows) == 0 {
		return claimed, nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	lease := s.Now().Add(leaseFactor * s.Schedule.Attempt).UnixMilli()
	err := s.Records.Update(ctx, func(tx *record.Tx) error {
		clear(claimed)
		for _, r := range rows {
			n, err := tx.Change(ctx, `UPDATE notification_deliveries SET attempts = attempts + 1, due = ?, holder = ?
				WHERE id = ? AND state = 'Pending' AND attempts = ?`, lease, s.holder, r.id, r.attempts)
			if err != nil {
				return err
			}
			claimed[r.id] = n == 1
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("taking deliveries: %w", err)
	}
	return claimed, nil
}

// deliver makes one attempt and records what became of it.
func (s *sender) deliver(ctx context.Context, r row) {
	r.attempts++
	e, err := s.envelope(ctx, r)
	if err == nil {
		attempt, cancel := context.WithTimeout(ctx, s.Schedule.Attempt)
		err = s.channelOf(r.channel)(attempt, e)
		cancel()
	}
	if ctx.Err() != nil && err != nil {
		return // the next leader takes it up
	}
	// What has been sent is recorded even if the server is stopping.
	write, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	if e != nil && e.Receiver != nil && isGone(err) {
		if marking := s.markGone(write, e.Receiver); marking != nil {
			log.FromContext(ctx).Error(marking, "Closing a receiver")
		}
	}
	if recording := s.record(write, r, err); recording != nil {
		log.FromContext(ctx).Error(recording, "A notification that was tried is tried again", "id", r.id)
	}
}

// envelope reads what a delivery is about, and where it goes now.
func (s *Service) envelope(ctx context.Context, r row) (*envelope, error) {
	e := &envelope{ID: r.id, Topic: r.topic, Tenant: r.tenant, Address: r.address, Attempt: r.attempts}
	var created int64
	var data string
	said := texts{map[v1alpha1.NotificationLanguage]string{}, map[v1alpha1.NotificationLanguage]string{}}
	var titleZH, titleEN, textZH, textEN string
	err := s.Records.View(ctx, func(tx *record.Tx) error {
		found, err := tx.One(ctx, []any{&created, &titleZH, &titleEN, &textZH, &textEN, &data},
			`SELECT created, title_zh, title_en, text_zh, text_en, data FROM notification_messages WHERE key = ?`, r.message)
		if err == nil && !found {
			return permanent("the message is no longer kept")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	said.Title[v1alpha1.Chinese], said.Title[v1alpha1.English] = titleZH, titleEN
	said.Text[v1alpha1.Chinese], said.Text[v1alpha1.English] = textZH, textEN
	e.Created, e.Texts = time.UnixMilli(created), said
	if err := json.Unmarshal([]byte(data), &e.Data); err != nil {
		return nil, permanent("its data cannot be read")
	}
	if r.uid != "" {
		return e, s.toUser(ctx, r, e)
	}
	return e, s.toReceiver(ctx, r, e)
}

// record writes what became of an attempt, and how the lane is.
func (s *Service) record(ctx context.Context, r row, err error) error {
	now := s.Now()
	return s.Records.Update(ctx, func(tx *record.Tx) error {
		if err == nil {
			if err := tx.Exec(ctx, `DELETE FROM notification_lanes WHERE lane = ?`, r.lane); err != nil {
				return err
			}
			return tx.Exec(ctx, `UPDATE notification_deliveries SET state = 'Sent', finished = ?, holder = '', error = '' WHERE id = ? AND state = 'Pending'`,
				now.UnixMilli(), r.id)
		}
		f := failureOf(err)
		if f.permanent || now.UnixMilli() >= r.deadline {
			return tx.Exec(ctx, `UPDATE notification_deliveries SET state = 'Dead', finished = ?, holder = '', error = ?
				WHERE id = ? AND state = 'Pending' AND attempts = ?`, now.UnixMilli(), cut(f.Error(), maxError), r.id, r.attempts)
		}
		failures := r.attempts
		if f.sick {
			if _, err := tx.One(ctx, []any{&failures}, `SELECT failures + 1 FROM notification_lanes WHERE lane = ?`, r.lane); err != nil {
				return err
			}
		}
		due := now.Add(max(s.pause(failures), min(f.after, maxRetryAfter)))
		if f.sick {
			err := tx.Exec(ctx, `INSERT INTO notification_lanes (lane, until, failures) VALUES (?, ?, ?)
				ON CONFLICT (lane) DO UPDATE SET until = excluded.until, failures = excluded.failures`, r.lane, due.UnixMilli(), failures)
			if err != nil {
				return err
			}
		}
		return tx.Exec(ctx, `UPDATE notification_deliveries SET due = ?, holder = '', error = ? WHERE id = ? AND state = 'Pending' AND attempts = ?`,
			due.UnixMilli(), cut(f.Error(), maxError), r.id, r.attempts)
	})
}

// maxError is how much of an error is kept, in bytes.
const maxError = 1 << 10

// pause before the attempt after so many that failed.
func (s *Service) pause(failures int64) time.Duration {
	const doublings, fifth = 20, 5
	p := min(s.Schedule.First<<min(max(failures-1, 0), doublings), s.Schedule.Longest)
	if p <= 0 {
		p = s.Schedule.Longest
	}
	return p - p/fifth + time.Duration(rand.Int64N(int64(2*p/fifth)+1)) //nolint:gosec // nobody gains by guessing it
}
