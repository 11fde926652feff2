// Package notification tells people what concerns them: in their inbox on the platform, by mail, by text message to
// their phones, and tenants' own programs by webhooks. Messages are handed over once by Send and kept in the records
// database; the server that leads sends them on, again and again until they have arrived or are too old.
package notification

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

// Channels of deliveries. The inbox needs no sending.
const (
	channelInbox   = "Inbox"
	channelEmail   = string(v1alpha1.ChannelEmail)
	channelSMS     = string(v1alpha1.ChannelSMS)
	channelWebhook = string(v1alpha1.ReceiverWebhook)
)

// Limits are what keeps a flood of messages from doing harm. Zero fields have defaults.
type Limits struct {
	// Outside is how many deliveries by mail, phone and webhook one tenant may cause in an hour, by the clock. Then one
	// message tells of it, and the rest is in inboxes only. 1,000 by default.
	Outside int
	// Inside is how many of one tenant's are put into inboxes in an hour. 5,000 by default.
	Inside int
	// Waiting is how many deliveries may wait for one target. 1,000 by default.
	Waiting int
	// Messages is how many are kept at all. 200,000 by default.
	Messages int
	// Age is how long messages are kept, read or not. 90 days by default.
	Age time.Duration
}

// Schedule is when a delivery that failed is tried again. Zero fields have defaults.
type Schedule struct {
	// First pause, 5 seconds by default; each further one is twice as long, up to Longest, 30 minutes by default. All
	// vary by a fifth.
	First, Longest time.Duration
	// GiveUp is after which time a delivery that still fails is dead. 24 hours by default.
	GiveUp time.Duration
	// Attempt is how long one attempt may take: 15 seconds by default.
	Attempt time.Duration
}

// Options are what the capability is told.
type Options struct {
	// Records keeps messages and deliveries.
	Records *record.Database
	// Policy says which addresses webhooks, mail servers and gateways may have.
	Policy     outbound.Policy
	Authorizer *rest.Authorizer
	// Namespace is where the platform keeps its own objects on the hub.
	Namespace string
	// URL is where users reach the platform; links in messages begin with it. Nil for messages without links.
	URL *url.URL
	// Topics of all capabilities.
	Topics []outbound.Topic
	// Members of a tenant's roles.
	Members Members
	Limits  Limits
	// Schedule of attempts.
	Schedule Schedule
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Members gives the names of the users who have the role in all of a tenant, sorted.
type Members func(ctx context.Context, tenant string, role v1alpha1.Role) ([]string, error)

// Service takes messages and sends them on.
type Service struct {
	Options

	hub    client.Client // reads from the cache, but Secrets
	live   client.Reader
	topics topics
	// holder names this server in deliveries that it has under way.
	holder string
	// wake tells the sender that something waits.
	wake chan struct{}
	// tests are the slots of messages sent at once for trying.
	tests chan struct{}
}

// maxTests are tried at once.
const maxTests = 8

// New makes the capability on the hub of mgr, and its tables. It refuses topics that lack a language or whose templates
// cannot be read. The manager's client must not cache Secrets.
func New(mgr manager.Manager, o Options) (*Service, error) {
	known, err := newTopics(append(ownTopics(), o.Topics...))
	if err != nil {
		return nil, err
	}
	o.setDefaults()
	host, _ := os.Hostname() // only for people
	return &Service{
		Options: o, hub: mgr.GetClient(), live: mgr.GetAPIReader(), topics: known,
		holder: host + "-" + rand.Text(), wake: make(chan struct{}, 1), tests: make(chan struct{}, maxTests),
	}, nil
}

func (o *Options) setDefaults() {
	const day = 24 * time.Hour
	for _, number := range []struct {
		of        *int
		byDefault int
	}{{&o.Limits.Outside, 1000}, {&o.Limits.Inside, 5000}, {&o.Limits.Waiting, 1000}, {&o.Limits.Messages, 200_000}} {
		if *number.of <= 0 {
			*number.of = number.byDefault
		}
	}
	for _, duration := range []struct {
		of        *time.Duration
		byDefault time.Duration
	}{
		{&o.Limits.Age, 90 * day}, {&o.Schedule.First, 5 * time.Second}, {&o.Schedule.Longest, 30 * time.Minute},
		{&o.Schedule.GiveUp, day}, {&o.Schedule.Attempt, 15 * time.Second},
	} {
		if *duration.of <= 0 {
			*duration.of = duration.byDefault
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// setupTime bounds the making of tables.
const setupTime = time.Minute

// SetupWithManager makes the tables, has the kinds watched that messages are sent by, and sends while this server leads.
func (s *Service) SetupWithManager(mgr manager.Manager) error {
	ctx, cancel := context.WithTimeout(context.Background(), setupTime)
	defer cancel()
	if err := s.migrate(ctx); err != nil {
		return err
	}
	for _, kind := range []client.Object{
		&v1alpha1.User{}, &v1alpha1.UserGroup{}, &v1alpha1.Membership{}, &v1alpha1.Tenant{},
		&v1alpha1.NotificationProvider{}, &v1alpha1.NotificationReceiver{},
	} {
		if _, err := mgr.GetCache().GetInformer(ctx, kind); err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
	}
	for _, runnable := range []manager.Runnable{&sender{Service: s}, &trimmer{s}} {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	return nil
}

// channel is one way to deliver. Its error is nil once the other side has taken the message.
type channel func(ctx context.Context, e *envelope) error

// channelOf is the way that a delivery goes.
func (s *Service) channelOf(name string) channel {
	switch name {
	case channelEmail:
		return s.sendEmail
	case channelSMS:
		return s.sendSMS
	default:
		return s.sendWebhook
	}
}

// envelope is a message on its way to one address.
type envelope struct {
	// ID is the same in each attempt, and no other delivery's.
	ID      string
	Topic   string
	Tenant  string
	Created time.Time
	Texts   texts
	Data    map[string]string
	// Language and Address of mails and text messages.
	Language v1alpha1.NotificationLanguage
	Address  string
	// Attempt counts from 1.
	Attempt int64
	// Receiver of webhooks.
	Receiver *v1alpha1.NotificationReceiver
	// Provider is the only one to be used, by those who try it; any if nil.
	Provider *v1alpha1.NotificationProvider
}
