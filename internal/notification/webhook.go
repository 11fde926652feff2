package notification

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
)

// userAgent of every request.
const userAgent = "Yunfan-Notification/1"

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 64 << 10

// Webhook is the body that webhooks are called with. It is an outward interface: fields are only ever added.
type Webhook struct {
	// ID is that of the header webhook-id: the same in each attempt.
	ID    string `json:"id"`
	Topic string `json:"topic"`
	// Tenant that it is about; empty if it is about the platform.
	Tenant string `json:"tenant"`
	// Time when it was handed over, in UTC.
	Time time.Time `json:"time"`
	// Title and Text by language: zh and en.
	Title map[v1alpha1.NotificationLanguage]string `json:"title"`
	Text  map[v1alpha1.NotificationLanguage]string `json:"text"`
	// Link leads to a page on the platform; empty if there is none.
	Link string `json:"link,omitempty"`
	// Data that title and text were made from.
	Data map[string]string `json:"data"`
}

// toReceiver finds the receiver that a delivery is for. What has changed since then counts.
func (s *Service) toReceiver(ctx context.Context, r row, e *envelope) error {
	receiver := &v1alpha1.NotificationReceiver{}
	err := s.hub.Get(ctx, client.ObjectKey{Namespace: r.namespace, Name: r.name}, receiver)
	switch {
	case apierrors.IsNotFound(err):
		return permanent("there is no receiver %s any more", r.name)
	case err != nil:
		return fmt.Errorf("looking up receiver %s: %w", r.name, err)
	case closed(receiver) != "":
		return permanent("%s", closed(receiver))
	case string(receiver.Spec.Type) != r.channel:
		return permanent("receiver %s is another one now", r.name)
	}
	e.Receiver, e.Language = receiver, receiver.Spec.Language
	return nil
}

// markGone closes a receiver whose webhook has said that it is gone, until somebody changes it.
func (s *Service) markGone(ctx context.Context, receiver *v1alpha1.NotificationReceiver) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh := &v1alpha1.NotificationReceiver{}
		if err := s.live.Get(ctx, client.ObjectKeyFromObject(receiver), fresh); err != nil {
			return client.IgnoreNotFound(err)
		}
		if fresh.UID != receiver.UID || fresh.Generation != receiver.Generation {
			return nil
		}
		fresh.Status.GoneGeneration = fresh.Generation
		fresh.Status.Message = closed(fresh)
		return s.hub.Status().Update(ctx, fresh)
	})
	if err != nil {
		return fmt.Errorf("closing receiver %s/%s: %w", receiver.Namespace, receiver.Name, err)
	}
	return nil
}

// sendWebhook calls a tenant's program.
func (s *Service) sendWebhook(ctx context.Context, e *envelope) error {
	keys, err := s.keysOf(ctx, e.Receiver)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return sick("receiver %s has no signing key: make one with POST …/notification-receivers/%s/key", e.Receiver.Name, e.Receiver.Name)
	}
	roots, err := rootsOf(e.Receiver.Spec.CABundle)
	if err != nil {
		return permanent("reading caBundle of receiver %s: %w", e.Receiver.Name, err)
	}
	body, err := json.Marshal(Webhook{
		ID: e.ID, Topic: e.Topic, Tenant: e.Tenant, Time: e.Created.UTC(), Title: e.Texts.Title, Text: e.Texts.Text, Link: s.link(e), Data: e.Data,
	})
	if err != nil {
		return permanent("writing the webhook: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Receiver.Spec.URL, bytes.NewReader(body)) //nolint:gosec // the client reaches only what the policy allows
	if err != nil {
		return permanent("the receiver's url cannot be read")
	}
	at := strconv.FormatInt(s.Now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", userAgent)
	// Written as Standard Webhooks has them; names of headers are the same in any case.
	request.Header.Set("Webhook-Id", e.ID)
	request.Header.Set("Webhook-Timestamp", at)
	request.Header.Set("Webhook-Signature", signatures(keys, e.ID, at, body))
	response, err := outbound.NewClient(s.Policy, outbound.Options{Timeout: s.Schedule.Attempt, MaxBody: maxAnswer, Roots: roots}).Do(request)
	if err != nil {
		return reached(err)
	}
	defer func() { _ = response.Body.Close() }()
	// The answer's text is nobody's business: it may come from a machine inside, and errors are shown to tenants.
	_, _ = io.Copy(io.Discard, response.Body)
	return answered(response)
}

// answered judges the status of an answer.
func answered(response *http.Response) error {
	code := response.StatusCode
	f := &failure{error: fmt.Errorf("it answered with status %d %s", code, http.StatusText(code)), after: retryAfter(response.Header.Get("Retry-After"))}
	switch {
	case code >= http.StatusOK && code < http.StatusMultipleChoices:
		return nil
	case code == http.StatusGone:
		f.permanent, f.gone = true, true
	case code >= http.StatusMultipleChoices && code < http.StatusBadRequest:
		f.error = fmt.Errorf("it answered with status %d, and redirects are not followed: give the address itself", code)
		f.sick = true
	case code >= http.StatusInternalServerError, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout,
		code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound:
		f.sick = true
	}
	return f
}

// retryAfter reads seconds or a date; zero if it is neither.
func retryAfter(text string) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		return time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}

// signatures of a webhook by each of the keys, as in Standard Webhooks.
func signatures(keys []signingKey, id, at string, body []byte) string {
	var out []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key.Key)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(body)
		out = append(out, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(out, " ")
}

// rootsOf are the certificates that a server is checked by; the machine's if nil.
func rootsOf(bundle string) (*x509.CertPool, error) {
	if strings.TrimSpace(bundle) == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(bundle)) {
		return nil, fmt.Errorf("it has no certificate in PEM")
	}
	return pool, nil
}

// link leads to a page on the platform; empty if the message names none.
func (s *Service) link(e *envelope) string {
	path := e.Data[pathKey]
	if s.URL == nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, " \t\n\\") {
		return ""
	}
	return strings.TrimSuffix(s.URL.String(), "/") + path
}
