package notification

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

// Preferences are how a user wants to be told.
type Preferences struct {
	// Email and Phone are where he is reached. Users of a directory have the directory's address of mail.
	Email string `json:"email"`
	Phone string `json:"phone"`
	// Language of mails and text messages: zh or en.
	Language v1alpha1.NotificationLanguage `json:"language"`
	// Channels by which he is told besides his inbox: none if it is empty, by mail if it is not given.
	Channels []v1alpha1.NotificationChannel `json:"channels"`
	// MutedTopics are left in the inbox.
	MutedTopics []string `json:"mutedTopics"`
	// Directory that has his address of mail; empty if he changes it here.
	Directory string `json:"directory,omitempty"`
}

// Item is a message in an inbox.
type Item struct {
	ID     string    `json:"id"`
	Topic  string    `json:"topic"`
	Tenant string    `json:"tenant,omitempty"`
	Time   time.Time `json:"time"`
	Read   bool      `json:"read"`
	// Title and Text by language.
	Title map[v1alpha1.NotificationLanguage]string `json:"title"`
	Text  map[v1alpha1.NotificationLanguage]string `json:"text"`
	// Path on the platform that it leads to; empty if there is none.
	Path string            `json:"path,omitempty"`
	Data map[string]string `json:"data"`
}

// Inbox is a page of messages, the newest first.
type Inbox struct {
	rest.Page[Item]

	// Unread is how many are in all of the inbox.
	Unread int `json:"unread"`
}

// myself is the User who asks.
func (s *Service) myself(ctx context.Context, from client.Reader) (*v1alpha1.User, error) {
	asking := rest.UserOf(ctx)
	name, own := asking.OfPlatform()
	if !own {
		return nil, apierrors.NewBadRequest("only users of the platform have an inbox: you are known by the hub's own means")
	}
	user := &v1alpha1.User{}
	if err := from.Get(ctx, client.ObjectKey{Name: name}, user); err != nil {
		return nil, fmt.Errorf("looking up user %s: %w", name, err)
	}
	if string(user.UID) != asking.UID {
		return nil, apierrors.NewUnauthorized("sign in again: this user is another one now")
	}
	return user, nil
}

func (s *Service) getPreferences(r *http.Request) (*Preferences, error) {
	user, err := s.myself(r.Context(), s.hub)
	if err != nil {
		return nil, err
	}
	return preferencesOf(user), nil
}

func preferencesOf(user *v1alpha1.User) *Preferences {
	p := &Preferences{
		Email: user.Spec.Email, Phone: user.Spec.Phone, Language: languageOf(user), Directory: user.Spec.Directory,
		Channels: append([]v1alpha1.NotificationChannel{}, channelsOf(user)...), MutedTopics: []string{},
	}
	if n := user.Spec.Notifications; n != nil {
		p.MutedTopics = append(p.MutedTopics, n.MutedTopics...)
	}
	return p
}

// putPreferences writes how the user wants to be told, in place of him: Users are the administrators' to write.
func (s *Service) putPreferences(r *http.Request) (*Preferences, error) {
	wanted := &Preferences{}
	if err := rest.ReadBody(r, wanted); err != nil {
		return nil, err
	}
	ctx := r.Context()
	var user *v1alpha1.User
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		var err error
		if user, err = s.myself(ctx, s.live); err != nil {
			return err
		}
		facts := rest.FactsOf(ctx)
		facts.Resource, facts.Name, facts.Action = "users", user.Name, "update"
		if err := wanted.check(user); err != nil {
			return err
		}
		user.Spec.Email, user.Spec.Phone = wanted.Email, wanted.Phone
		user.Spec.Notifications = &v1alpha1.UserNotifications{Language: wanted.Language, MutedTopics: wanted.MutedTopics}
		if wanted.Channels != nil { // none is something else than not saying which
			channels := append([]v1alpha1.NotificationChannel{}, slices.Compact(slices.Sorted(slices.Values(wanted.Channels)))...)
			user.Spec.Notifications.Channels = &channels
		}
		return s.hub.Update(ctx, user)
	})
	if err != nil {
		return nil, fmt.Errorf("writing how %s is told: %w", rest.UserOf(ctx).Name, err)
	}
	return preferencesOf(user), nil
}

func (p *Preferences) check(user *v1alpha1.User) error {
	switch {
	case p.Directory != "" && p.Directory != user.Spec.Directory:
		return apierrors.NewBadRequest("the directory cannot be changed")
	case user.Spec.Directory != "" && p.Email != user.Spec.Email:
		return apierrors.NewBadRequest(fmt.Sprintf("your address of mail is that of directory %s: change it there", user.Spec.Directory))
	case p.Email != "" && !isMail(p.Email):
		return apierrors.NewBadRequest("email must be one plain address such as li@example.com")
	case p.Phone != "" && !phone.MatchString(p.Phone):
		return apierrors.NewBadRequest("phone must be in international form such as +8613800138000, or 11 digits of China")
	case p.Language != "" && !slices.Contains(languages, p.Language):
		return apierrors.NewBadRequest("language must be zh or en")
	}
	for _, channel := range p.Channels {
		switch {
		case channel == v1alpha1.ChannelEmail:
		case channel != v1alpha1.ChannelSMS:
			return apierrors.NewBadRequest("channels are Email and SMS")
		case p.Phone == "":
			return apierrors.NewBadRequest("channel SMS needs a phone")
		}
	}
	return nil
}

// inbox lists the user's messages.
func (s *Service) inbox(r *http.Request) (*Inbox, error) {
	ctx, query := r.Context(), r.URL.Query()
	user, err := s.myself(ctx, s.hub)
	if err != nil {
		return nil, err
	}
	page, size, err := paging(query, "unread", "tenant", "topic")
	if err != nil {
		return nil, err
	}
	w := &where{}
	w.add("d.channel = 'Inbox' AND d.uid = ?", string(user.UID))
	if query.Get("unread") == "true" {
		w.add("d.read_at = 0")
	}
	for _, column := range []string{"tenant", "topic"} {
		if values := query[column]; len(values) > 0 {
			w.anyOf("d."+column, values)
		}
	}
	out := &Inbox{Page: rest.Page[Item]{Items: []Item{}, Page: page, PageSize: size}}
	err = s.Records.View(ctx, func(tx *record.Tx) error {
		if _, err := tx.One(ctx, []any{&out.Unread}, `SELECT COUNT(*) FROM notification_deliveries WHERE channel = 'Inbox' AND uid = ? AND read_at = 0`, string(user.UID)); err != nil {
			return err
		}
		if _, err := tx.One(ctx, []any{&out.Total}, `SELECT COUNT(*) FROM notification_deliveries d`+w.String(), w.args...); err != nil {
			return err
		}
		return tx.Each(ctx, func(scan func(...any) error) error {
			item, err := readItem(scan)
			out.Items = append(out.Items, item)
			return err
		}, `SELECT d.id, d.topic, d.tenant, d.created, d.read_at, m.title_zh, m.title_en, m.text_zh, m.text_en, m.data
			FROM notification_deliveries d JOIN notification_messages m ON m.key = d.message`+w.String()+` ORDER BY d.created DESC, d.seq DESC, d.id LIMIT ? OFFSET ?`,
			append(slices.Clone(w.args), size, (page-1)*size)...)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the inbox: %w", err)
	}
	return out, nil
}

func readItem(scan func(...any) error) (Item, error) {
	var item Item
	var created, read int64
	var titleZH, titleEN, textZH, textEN, data string
	if err := scan(&item.ID, &item.Topic, &item.Tenant, &created, &read, &titleZH, &titleEN, &textZH, &textEN, &data); err != nil {
		return item, err
	}
	item.Time, item.Read = time.UnixMilli(created).UTC(), read != 0
	item.Title = map[v1alpha1.NotificationLanguage]string{v1alpha1.Chinese: titleZH, v1alpha1.English: titleEN}
	item.Text = map[v1alpha1.NotificationLanguage]string{v1alpha1.Chinese: textZH, v1alpha1.English: textEN}
	if err := json.Unmarshal([]byte(data), &item.Data); err != nil {
		return item, fmt.Errorf("reading message %s: %w", item.ID, err)
	}
	item.Path = item.Data[pathKey]
	return item, nil
}

// Marking says which messages have been read.
type Marking struct {
	IDs []string `json:"ids,omitempty"`
	// All of them.
	All bool `json:"all,omitempty"`
}

// Marked says what is left.
type Marked struct {
	Unread int `json:"unread"`
}

func (s *Service) markRead(r *http.Request) (*Marked, error) {
	ctx := r.Context()
	user, err := s.myself(ctx, s.hub)
	if err != nil {
		return nil, err
	}
	asked := &Marking{}
	if err := rest.ReadBody(r, asked); err != nil {
		return nil, err
	}
	const most = 500
	if len(asked.IDs) > most || len(asked.IDs) == 0 && !asked.All {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("give ids, at most %d, or all: true", most))
	}
	w := &where{}
	w.add("channel = 'Inbox' AND uid = ? AND read_at = 0", string(user.UID))
	if !asked.All {
		w.anyOf("id", asked.IDs)
	}
	left := &Marked{}
	err = s.Records.Update(ctx, func(tx *record.Tx) error {
		args := append([]any{s.Now().UnixMilli()}, w.args...)
		if err := tx.Exec(ctx, `UPDATE notification_deliveries SET read_at = ?`+w.String(), args...); err != nil {
			return err
		}
		_, err := tx.One(ctx, []any{&left.Unread}, `SELECT COUNT(*) FROM notification_deliveries WHERE channel = 'Inbox' AND uid = ? AND read_at = 0`, string(user.UID))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("marking messages: %w", err)
	}
	return left, nil
}
