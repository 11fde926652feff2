package notification

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/record"
)

// sendTime bounds the handing over of a message.
const sendTime = 30 * time.Second

// Send takes a message: once it returns nil, the message is kept and will be sent to everybody whom it was for at that
// moment. A message whose key was there before is left alone.
func (s *Service) Send(ctx context.Context, m outbound.Message) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	stormy, err := s.send(ctx, m, false)
	if err != nil {
		return fmt.Errorf("sending message %s: %w", cut(m.Key, maxTitle), err)
	}
	if !stormy {
		return nil
	}
	if _, err := s.send(ctx, s.storm(m.Tenant), true); err != nil {
		return fmt.Errorf("telling that there are too many messages: %w", err)
	}
	return nil
}

// storm is the one message that tells of too many in this hour.
func (s *Service) storm(tenant string) outbound.Message {
	hour := s.Now().UTC().Truncate(time.Hour)
	m := outbound.Message{
		Key: fmt.Sprintf("notification/storm/%s/%d", tenant, hour.Unix()), Tenant: tenant, Topic: topicStorm,
		To:   []outbound.Recipient{{PlatformAdministrators: true}},
		Data: map[string]string{"tenant": tenant, "limit": strconv.Itoa(s.Limits.Outside), "until": hour.Add(time.Hour).Format("15:04 MST")},
	}
	if tenant != "" {
		m.To = []outbound.Recipient{{Role: v1alpha1.RoleAdmin}}
	}
	return m
}

// send does the work of Send. It says whether deliveries were left out because there were too many; exempt messages are
// not counted.
func (s *Service) send(ctx context.Context, m outbound.Message, exempt bool) (stormy bool, err error) {
	t, known := s.topics[m.Topic]
	switch {
	case m.Key == "" || len(m.Key) > maxKey:
		return false, fmt.Errorf("a message needs a key of at most %d bytes", maxKey)
	case !known:
		return false, fmt.Errorf("there is no topic %q", m.Topic)
	}
	data := bounded(m.Data)
	said, err := t.render(data)
	if err != nil {
		return false, err
	}
	if said.Title[v1alpha1.Chinese] == "" || said.Title[v1alpha1.English] == "" {
		return false, fmt.Errorf("a message of topic %s needs data for its title", m.Topic)
	}
	packed, err := json.Marshal(data)
	if err != nil {
		return false, fmt.Errorf("writing the data: %w", err)
	}
	targets, err := s.targets(ctx, m)
	if err != nil {
		return false, err
	}
	now := s.Now()
	err = s.Records.Update(ctx, func(tx *record.Tx) error {
		stormy = false // the function may run again
		added, err := tx.Change(ctx, `INSERT INTO notification_messages (key, tenant, topic, created, title_zh, title_en, text_zh, text_en, data)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING`, m.Key, m.Tenant, m.Topic, now.UnixMilli(),
			said.Title[v1alpha1.Chinese], said.Title[v1alpha1.English], said.Text[v1alpha1.Chinese], said.Text[v1alpha1.English], string(packed))
		if err != nil || added == 0 {
			return err
		}
		stormy, err = s.keep(ctx, tx, m, targets, now, exempt)
		return err
	})
	if err != nil {
		return false, err
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return stormy, nil
}

// keep writes the deliveries of a message, as many as the tenant may cause in this hour.
func (s *Service) keep(ctx context.Context, tx *record.Tx, m outbound.Message, targets []target, now time.Time, exempt bool) (stormy bool, err error) {
	inside, outside, err := counted(ctx, tx, m.Tenant, now)
	if err != nil {
		return false, err
	}
	for _, t := range targets {
		if t.channel == channelInbox {
			if inside++; inside > s.Limits.Inside && !exempt {
				stormy = true
				continue
			}
		} else if outside++; outside > s.Limits.Outside && !exempt {
			stormy = true
			continue
		}
		if err := s.insert(ctx, tx, m, t, now); err != nil {
			return false, err
		}
	}
	return stormy, nil
}

// counted is how many deliveries the tenant has caused in this hour.
func counted(ctx context.Context, tx *record.Tx, tenant string, now time.Time) (inside, outside int, err error) {
	err = tx.Each(ctx, func(scan func(...any) error) error {
		var channel string
		var n int
		if err := scan(&channel, &n); err != nil {
			return err
		}
		if channel == channelInbox {
			inside += n
		} else {
			outside += n
		}
		return nil
	}, `SELECT channel, COUNT(*) FROM notification_deliveries WHERE tenant = ? AND created >= ? GROUP BY channel`,
		tenant, now.UTC().Truncate(time.Hour).UnixMilli())
	return inside, outside, err
}

// insert writes one delivery. What is for the inbox has arrived by that; of a target that too many wait for already it is
// kept as dead.
func (s *Service) insert(ctx context.Context, tx *record.Tx, m outbound.Message, t target, now time.Time) error {
	lane, state, finished, why := t.lane(), statePending, int64(0), ""
	if t.channel == channelInbox {
		state, finished = stateSent, now.UnixMilli()
	} else {
		var waiting int
		if _, err := tx.One(ctx, []any{&waiting}, `SELECT COUNT(*) FROM notification_deliveries WHERE state = 'Pending' AND lane = ?`, lane); err != nil {
			return err
		}
		if waiting >= s.Limits.Waiting {
			state, finished = stateDead, now.UnixMilli()
			why = fmt.Sprintf("%d messages wait for this target already: see why the first of them do not arrive", waiting)
		}
	}
	name := t.user
	if name == "" {
		name = t.receiver
	}
	return tx.Exec(ctx, `INSERT INTO notification_deliveries (id, message, tenant, topic, channel, name, uid, namespace, address, lane, state,
		attempts, due, deadline, holder, seq, created, finished, error, read_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, '', ?, ?, ?, ?, 0)
		ON CONFLICT (id) DO NOTHING`,
		deliveryID(m.Key, lane), m.Key, m.Tenant, m.Topic, t.channel, name, t.uid, t.namespace, t.address, lane, state,
		now.UnixMilli(), now.Add(s.Schedule.GiveUp).UnixMilli(), now.UnixNano(), now.UnixMilli(), finished, why)
}

// deliveryID follows from the message's key and the target: what is sent twice by a server that was killed in between can
// be recognised by it.
func deliveryID(key, lane string) string {
	const length = 20
	sum := sha256.Sum256([]byte(key + "\x00" + lane))
	return "msg_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:length]))
}
