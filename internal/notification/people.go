package notification

import (
	"context"
	"fmt"
	"maps"
	"net/mail"
	"regexp"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/rest"
)

// target is one delivery of a message: to whom, and by which way.
type target struct {
	channel string
	// user and uid, or receiver in a namespace.
	user, uid, namespace, receiver string
	// address of a receiver of mails or text messages; a user's is looked up when it is sent.
	address string
}

// lane is the queue that the target's deliveries wait in, one behind the other.
func (t target) lane() string {
	if t.user != "" {
		return t.channel + "/user/" + t.user
	}
	return t.channel + "/receiver/" + t.namespace + "/" + t.receiver + "/" + t.address
}

// targets finds everybody whom a message is for, each once, sorted.
func (s *Service) targets(ctx context.Context, m outbound.Message) ([]target, error) {
	users := map[string]*v1alpha1.User{}
	receivers := map[client.ObjectKey]*v1alpha1.NotificationReceiver{}
	for _, to := range m.To {
		names, err := s.named(ctx, m.Tenant, to)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			user := &v1alpha1.User{}
			if err := s.hub.Get(ctx, client.ObjectKey{Name: name}, user); apierrors.IsNotFound(err) {
				continue // a member who is no user, or no longer
			} else if err != nil {
				return nil, fmt.Errorf("looking up user %s: %w", name, err)
			}
			users[name] = user
		}
		if to.Receiver == "" {
			continue
		}
		key, receiver := client.ObjectKey{Namespace: s.namespaceOf(m.Tenant), Name: to.Receiver}, &v1alpha1.NotificationReceiver{}
		if err := s.hub.Get(ctx, key, receiver); apierrors.IsNotFound(err) {
			return nil, rest.NotFound("notificationreceivers", key.String())
		} else if err != nil {
			return nil, fmt.Errorf("looking up receiver %s: %w", to.Receiver, err)
		}
		receivers[key] = receiver
	}
	if err := s.subscribed(ctx, m, receivers); err != nil {
		return nil, err
	}
	return s.spread(ctx, m.Topic, users, receivers)
}

// namespaceOf is where the receivers of a tenant are, or those of the platform if it is empty.
func (s *Service) namespaceOf(tenant string) string {
	if tenant == "" {
		return s.Namespace
	}
	return tenant
}

// subscribed adds the receivers that ask for the message's topic: the tenant's, and those of the platform, which are told
// of all tenants.
func (s *Service) subscribed(ctx context.Context, m outbound.Message, receivers map[client.ObjectKey]*v1alpha1.NotificationReceiver) error {
	for _, namespace := range []string{s.Namespace, s.namespaceOf(m.Tenant)} {
		var list v1alpha1.NotificationReceiverList
		if err := s.hub.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("listing the receivers in %s: %w", namespace, err)
		}
		for i := range list.Items {
			if matches(list.Items[i].Spec.Topics, m.Topic) {
				receivers[client.ObjectKeyFromObject(&list.Items[i])] = &list.Items[i]
			}
		}
	}
	return nil
}

// named are the names of the users whom a recipient means.
func (s *Service) named(ctx context.Context, tenant string, to outbound.Recipient) ([]string, error) {
	switch {
	case to.User != "":
		return []string{v1alpha1.PlainName(to.User)}, nil
	case to.Role != "" && tenant == "":
		return nil, fmt.Errorf("looking for recipients: role %s is one in a tenant, and the message is about none", to.Role)
	case to.Role != "":
		return s.Members(ctx, tenant, to.Role)
	case to.PlatformAdministrators:
		var list v1alpha1.UserList
		if err := s.hub.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("looking for platform administrators: %w", err)
		}
		var names []string
		for i := range list.Items {
			if list.Items[i].Spec.PlatformAdministrator {
				names = append(names, list.Items[i].Name)
			}
		}
		return names, nil
	}
	return nil, nil
}

// spread makes deliveries of people and receivers, by the ways that each of them wants.
func (s *Service) spread(ctx context.Context, topic string, users map[string]*v1alpha1.User, receivers map[client.ObjectKey]*v1alpha1.NotificationReceiver) ([]target, error) {
	open := map[v1alpha1.NotificationProviderType]bool{}
	for _, kind := range []v1alpha1.NotificationProviderType{v1alpha1.ProviderEmail, v1alpha1.ProviderSMS} {
		providers, err := s.providers(ctx, kind)
		if err != nil {
			return nil, err
		}
		open[kind] = len(providers) > 0
	}
	var out []target
	for _, name := range slices.Sorted(maps.Keys(users)) {
		user := users[name]
		if user.Spec.Disabled || !user.DeletionTimestamp.IsZero() {
			continue
		}
		t := target{user: name, uid: string(user.UID)}
		t.channel = channelInbox
		out = append(out, t)
		if user.Spec.Notifications != nil && matches(user.Spec.Notifications.MutedTopics, topic) {
			continue
		}
		for _, wanted := range channelsOf(user) {
			if open[v1alpha1.NotificationProviderType(wanted)] && addressOf(user, string(wanted)) != "" {
				t.channel = string(wanted)
				out = append(out, t)
			}
		}
	}
	byName := func(a, b client.ObjectKey) int { return strings.Compare(a.String(), b.String()) }
	for _, key := range slices.SortedFunc(maps.Keys(receivers), byName) {
		r := receivers[key]
		if closed(r) != "" {
			continue
		}
		addresses := slices.Concat(r.Spec.Addresses, r.Spec.Phones)
		if r.Spec.Type == v1alpha1.ReceiverWebhook {
			addresses = []string{""}
		} else if !open[v1alpha1.NotificationProviderType(r.Spec.Type)] {
			continue
		}
		for _, address := range addresses {
			out = append(out, target{channel: string(r.Spec.Type), namespace: key.Namespace, receiver: key.Name, address: address})
		}
	}
	return out, nil
}

// closed says why nothing is sent to a receiver; empty if it is.
func closed(r *v1alpha1.NotificationReceiver) string {
	switch {
	case r.Spec.Suspended:
		return "the receiver is suspended"
	case r.Status.GoneGeneration != 0 && r.Status.GoneGeneration == r.Generation:
		return "the webhook has answered that it is gone (410): change the receiver to have it called again"
	}
	return ""
}

// channelsOf are the ways by which a user wants to be told besides his inbox.
func channelsOf(user *v1alpha1.User) []v1alpha1.NotificationChannel {
	if n := user.Spec.Notifications; n != nil && n.Channels != nil {
		return *n.Channels
	}
	return []v1alpha1.NotificationChannel{v1alpha1.ChannelEmail}
}

// languageOf is the language in which a user is told.
func languageOf(user *v1alpha1.User) v1alpha1.NotificationLanguage {
	if n := user.Spec.Notifications; n != nil && n.Language != "" {
		return n.Language
	}
	return v1alpha1.Chinese
}

// addressOf is where a user is reached by a channel; empty if nowhere.
func addressOf(user *v1alpha1.User, channel string) string {
	switch {
	case channel == channelEmail && isMail(user.Spec.Email):
		return user.Spec.Email
	case channel == channelSMS && phone.MatchString(user.Spec.Phone):
		return user.Spec.Phone
	}
	return ""
}

var (
	mailPattern = regexp.MustCompile(`^[A-Za-z0-9.!#$%&*+/=?^_{|}~-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	phone       = regexp.MustCompile(`^(\+[1-9][0-9]{6,14}|1[3-9][0-9]{9})$`)
)

// isMail says whether a text is one plain address of mail and nothing more: no name, no second one, no header.
func isMail(text string) bool {
	const longest = 254
	parsed, err := mail.ParseAddress(text)
	return err == nil && parsed.Address == text && len(text) <= longest && mailPattern.MatchString(text)
}

// providers of a type that send, in the order in which they are used.
func (s *Service) providers(ctx context.Context, kind v1alpha1.NotificationProviderType) ([]*v1alpha1.NotificationProvider, error) {
	var list v1alpha1.NotificationProviderList
	if err := s.hub.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the providers of notifications: %w", err)
	}
	var out []*v1alpha1.NotificationProvider
	for i := range list.Items {
		if p := &list.Items[i]; p.Spec.Type == kind && !p.Spec.Suspended && p.DeletionTimestamp.IsZero() {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.NotificationProvider) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
