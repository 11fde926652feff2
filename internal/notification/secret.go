package notification

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

// SecretInput is a provider's password or token. It is written and never read back.
type SecretInput struct {
	Secret string `json:"secret"`
}

// SecretWritten says that it was.
type SecretWritten struct {
	Provider  string    `json:"provider"`
	WrittenAt time.Time `json:"writtenAt"`
	WrittenBy string    `json:"writtenBy"`
}

// Key is a key that webhooks are signed with, told once.
type Key struct {
	Tenant   string `json:"tenant"`
	Receiver string `json:"receiver"`
	// Key in the form of Standard Webhooks: whsec_ and base64.
	Key string `json:"key"`
	// FormerUntil is until when webhooks are signed with the key before, too.
	FormerUntil *time.Time `json:"formerKeyUntil,omitempty"`
}

// Tried is what became of a test message.
type Tried struct {
	Sent bool `json:"sent"`
	// Error says why it was not sent.
	Error string `json:"error,omitempty"`
}

func (s *Service) putSecret(r *http.Request) (*SecretWritten, error) {
	ctx, name := r.Context(), r.PathValue("name")
	if err := s.require(ctx, "update", providers, "", name); err != nil {
		return nil, err
	}
	in := &SecretInput{}
	if err := rest.ReadBody(r, in); err != nil { // its message might quote the body
		return nil, apierrors.NewBadRequest(`the body cannot be read: it is an object {"secret": "…"}`)
	}
	const longest = 8 << 10
	if in.Secret == "" || len(in.Secret) > longest || !utf8.ValidString(in.Secret) || strings.ContainsAny(in.Secret, "\x00\r\n") {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the secret must be one line of at most %d bytes", longest))
	}
	provider := &v1alpha1.NotificationProvider{}
	if err := s.live.Get(ctx, client.ObjectKey{Name: name}, provider); err != nil {
		return nil, fmt.Errorf("looking up provider %s: %w", name, err)
	}
	if err := s.keepSecret(ctx, provider, in.Secret); err != nil {
		return nil, err
	}
	now := metav1.NewTime(s.Now().UTC().Truncate(time.Second))
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := s.live.Get(ctx, client.ObjectKey{Name: name}, provider); err != nil {
			return err
		}
		provider.Status.SecretTime, provider.Status.SecretWrittenBy = &now, rest.UserOf(ctx).Name
		return s.hub.Status().Update(ctx, provider)
	})
	if err != nil {
		return nil, fmt.Errorf("updating provider %s: %w", name, err)
	}
	return &SecretWritten{Provider: name, WrittenAt: now.Time, WrittenBy: provider.Status.SecretWrittenBy}, nil
}

func (s *Service) makeKey(r *http.Request) (*Key, error) {
	ctx, tenant, name := r.Context(), r.PathValue("tenant"), r.PathValue("name")
	if err := s.require(ctx, "makekey", receivers, tenant, name); err != nil {
		return nil, err
	}
	receiver := &v1alpha1.NotificationReceiver{}
	if err := s.live.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, receiver); err != nil {
		return nil, fmt.Errorf("looking up receiver %s: %w", name, err)
	}
	if receiver.Spec.Type != v1alpha1.ReceiverWebhook {
		return nil, apierrors.NewBadRequest("only webhooks are signed: this receiver is of type " + string(receiver.Spec.Type))
	}
	key, former, err := s.rotate(ctx, receiver)
	if err != nil {
		return nil, err
	}
	out := &Key{Tenant: tenant, Receiver: name, Key: key}
	now := metav1.NewTime(s.Now().UTC().Truncate(time.Second))
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := s.live.Get(ctx, client.ObjectKeyFromObject(receiver), receiver); err != nil {
			return err
		}
		receiver.Status.KeyTime, receiver.Status.FormerKeyUntil = &now, nil
		if !former.IsZero() {
			until := metav1.NewTime(former)
			receiver.Status.FormerKeyUntil, out.FormerUntil = &until, &former
		}
		return s.hub.Status().Update(ctx, receiver)
	})
	if err != nil {
		return nil, fmt.Errorf("updating receiver %s: %w", name, err)
	}
	return out, nil
}

// TestInput says where a provider's test message goes.
type TestInput struct {
	// To is an address of mail or a phone.
	To string `json:"to"`
	// Language of the message: zh (the default) or en.
	Language v1alpha1.NotificationLanguage `json:"language,omitempty"`
}

func (s *Service) testProvider(r *http.Request) (*Tried, error) {
	ctx, name := r.Context(), r.PathValue("name")
	if err := s.require(ctx, "test", providers, "", name); err != nil {
		return nil, err
	}
	in := &TestInput{}
	if err := rest.ReadBody(r, in); err != nil {
		return nil, err
	}
	provider := &v1alpha1.NotificationProvider{}
	if err := s.live.Get(ctx, client.ObjectKey{Name: name}, provider); err != nil {
		return nil, fmt.Errorf("looking up provider %s: %w", name, err)
	}
	if provider.Spec.Type == v1alpha1.ProviderEmail && !isMail(in.To) || provider.Spec.Type == v1alpha1.ProviderSMS && !phone.MatchString(in.To) {
		return nil, apierrors.NewBadRequest("to must be one plain address of mail, or a phone's number such as +8613800138000")
	}
	e, err := s.testEnvelope(ctx, "")
	if err != nil {
		return nil, err
	}
	e.Provider, e.Address = provider, in.To
	if in.Language != "" {
		e.Language = in.Language
	}
	return s.try(ctx, string(provider.Spec.Type), e)
}

func (s *Service) testReceiver(r *http.Request) (*Tried, error) {
	ctx, tenant, name := r.Context(), r.PathValue("tenant"), r.PathValue("name")
	if err := s.require(ctx, "test", receivers, tenant, name); err != nil {
		return nil, err
	}
	receiver := &v1alpha1.NotificationReceiver{}
	if err := s.live.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, receiver); err != nil {
		return nil, fmt.Errorf("looking up receiver %s: %w", name, err)
	}
	for _, addresses := range [][]string{receiver.Spec.Addresses, receiver.Spec.Phones, {""}} {
		if len(addresses) == 0 {
			continue
		}
		e, err := s.testEnvelope(ctx, tenant)
		if err != nil {
			return nil, err
		}
		e.Receiver, e.Address, e.Language = receiver, addresses[0], receiver.Spec.Language
		tried, err := s.try(ctx, string(receiver.Spec.Type), e)
		if err != nil || !tried.Sent {
			return tried, err
		}
		// It works again: what waits for it need not wait longer.
		lane := target{channel: string(receiver.Spec.Type), namespace: tenant, receiver: name, address: addresses[0]}.lane()
		err = s.Records.Update(ctx, func(tx *record.Tx) error { return tx.Exec(ctx, `DELETE FROM notification_lanes WHERE lane = ?`, lane) })
		return tried, err
	}
	return nil, nil
}

func (s *Service) testEnvelope(ctx context.Context, tenant string) (*envelope, error) {
	data := bounded(map[string]string{"user": v1alpha1.PlainName(rest.UserOf(ctx).Name)})
	said, err := s.topics[topicTest].render(data)
	if err != nil {
		return nil, err
	}
	return &envelope{
		ID: "msg_test_" + strings.ToLower(rand.Text()), Topic: topicTest, Tenant: tenant, Created: s.Now(), Texts: said, Data: data,
		Language: v1alpha1.Chinese, Attempt: 1,
	}, nil
}

// try sends one message at once, and no second time.
func (s *Service) try(ctx context.Context, channel string, e *envelope) (*Tried, error) {
	select {
	case s.tests <- struct{}{}:
		defer func() { <-s.tests }()
	default:
		return nil, apierrors.NewTooManyRequests("too many test messages are under way: try again in a few seconds", 5) //nolint:mnd // seconds
	}
	ctx, cancel := context.WithTimeout(ctx, s.Schedule.Attempt)
	defer cancel()
	if err := s.channelOf(channel)(ctx, e); err != nil {
		return &Tried{Error: cut(err.Error(), maxError)}, nil
	}
	return &Tried{Sent: true}, nil
}
