package notification

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

// Row is one delivery, as administrators see it.
type Row struct {
	ID     string `json:"id"`
	Topic  string `json:"topic"`
	Tenant string `json:"tenant,omitempty"`
	Title  string `json:"title"`
	// Channel is Inbox, Email, SMS or Webhook.
	Channel string `json:"channel"`
	// User or Receiver that it is for, and the receiver's address; users' addresses are their own business. Namespace of
	// the receiver is the tenant or the platform's.
	User      string `json:"user,omitempty"`
	Receiver  string `json:"receiver,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Address   string `json:"address,omitempty"`
	// State is Pending, Sent or Dead.
	State    string     `json:"state"`
	Attempts int64      `json:"attempts"`
	Created  time.Time  `json:"created"`
	Finished *time.Time `json:"finished,omitempty"`
	// Next attempt, of one that is pending.
	Next *time.Time `json:"next,omitempty"`
	// Error of the last attempt that failed.
	Error string `json:"error,omitempty"`
}

// tenantsOf are the tenants whose deliveries the user may see; all, also those about the platform, if everything is true.
func (s *Service) tenantsOf(ctx context.Context) (tenants []string, everything bool, err error) {
	may := authorizationv1.ResourceAttributes{Verb: "update", Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: providers}
	if everything, err = s.Authorizer.Allowed(ctx, may); err != nil || everything {
		return nil, everything, err
	}
	var list v1alpha1.TenantList
	if err := s.hub.List(ctx, &list); err != nil {
		return nil, false, fmt.Errorf("listing tenants: %w", err)
	}
	for i := range list.Items {
		tenants = append(tenants, list.Items[i].Name)
	}
	slices.Sort(tenants)
	may.Resource = receivers
	tenants, err = s.Authorizer.Namespaces(ctx, may, tenants)
	return tenants, false, err
}

// deliveries lists what was or will be sent, the newest first.
func (s *Service) deliveries(r *http.Request) (rest.Page[Row], error) {
	ctx, query := r.Context(), r.URL.Query()
	page, size, err := paging(query, "channel", "name", "state", "tenant", "topic")
	if err != nil {
		return rest.Page[Row]{}, err
	}
	tenants, everything, err := s.tenantsOf(ctx)
	if err != nil {
		return rest.Page[Row]{}, err
	}
	w := &where{}
	if !everything {
		const most = 500 // what a database takes as arguments is bounded
		w.anyOf("d.tenant", tenants[:min(len(tenants), most)])
		w.add("(d.namespace = '' OR d.namespace = d.tenant)") // the platform's receivers are the platform's business
	}
	for _, name := range []string{"channel", "name", "state", "tenant", "topic"} {
		const most = 50
		if values := query[name]; len(values) > 0 {
			w.anyOf("d."+name, values[:min(len(values), most)])
		}
	}
	out := rest.Page[Row]{Items: []Row{}, Page: page, PageSize: size}
	err = s.Records.View(ctx, func(tx *record.Tx) error {
		if _, err := tx.One(ctx, []any{&out.Total}, `SELECT COUNT(*) FROM notification_deliveries d`+w.String(), w.args...); err != nil {
			return err
		}
		return tx.Each(ctx, func(scan func(...any) error) error {
			row, err := readRow(scan)
			out.Items = append(out.Items, row)
			return err
		}, selectRows+w.String()+` ORDER BY d.created DESC, d.seq DESC, d.id LIMIT ? OFFSET ?`, append(slices.Clone(w.args), size, (page-1)*size)...)
	})
	if err != nil {
		return out, fmt.Errorf("reading deliveries: %w", err)
	}
	return out, nil
}

const selectRows = `SELECT d.id, d.topic, d.tenant, m.title_zh, d.channel, d.name, d.uid, d.namespace, d.address, d.state, d.attempts, d.created, d.finished, d.due, d.error
	FROM notification_deliveries d JOIN notification_messages m ON m.key = d.message`

func readRow(scan func(...any) error) (Row, error) {
	var row Row
	var name, uid string
	var created, finished, due int64
	err := scan(&row.ID, &row.Topic, &row.Tenant, &row.Title, &row.Channel, &name, &uid, &row.Namespace, &row.Address, &row.State, &row.Attempts, &created, &finished, &due, &row.Error)
	if row.User = name; uid == "" {
		row.User, row.Receiver = "", name
	}
	row.Created = time.UnixMilli(created).UTC()
	if finished != 0 {
		at := time.UnixMilli(finished).UTC()
		row.Finished = &at
	}
	if row.State == statePending {
		at := time.UnixMilli(due).UTC()
		row.Next = &at
	}
	return row, err
}

// again has a delivery that is dead tried once more, with all the time that a new one has.
func (s *Service) again(r *http.Request) (*Row, error) {
	ctx, id := r.Context(), r.PathValue("id")
	facts := rest.FactsOf(ctx)
	facts.Resource, facts.Name, facts.Action = "notifications", id, "retry"
	tenants, everything, err := s.tenantsOf(ctx)
	if err != nil {
		return nil, err
	}
	row := &Row{}
	now := s.Now()
	err = s.Records.Update(ctx, func(tx *record.Tx) error {
		found := false
		err := tx.Each(ctx, func(scan func(...any) error) (err error) {
			found = true
			*row, err = readRow(scan)
			return err
		}, selectRows+` WHERE d.id = ?`, id)
		switch {
		case err != nil:
			return err
		case !found || !everything && (!slices.Contains(tenants, row.Tenant) || row.Namespace != "" && row.Namespace != row.Tenant):
			return rest.NotFound("notifications", id)
		case row.State != stateDead:
			return apierrors.NewBadRequest(fmt.Sprintf("notification %s is %s: only those that are Dead are tried again", id, row.State))
		}
		facts.Tenant = row.Tenant
		// Somebody says that it will work now: the target rests no longer.
		if err := tx.Exec(ctx, `DELETE FROM notification_lanes WHERE lane = (SELECT lane FROM notification_deliveries WHERE id = ?)`, id); err != nil {
			return err
		}
		row.State, row.Finished, row.Next = statePending, nil, &now
		return tx.Exec(ctx, `UPDATE notification_deliveries SET state = 'Pending', attempts = 0, due = ?, deadline = ?, finished = 0, holder = '' WHERE id = ? AND state = 'Dead'`,
			now.UnixMilli(), now.Add(s.Schedule.GiveUp).UnixMilli(), id)
	})
	if err != nil {
		return nil, fmt.Errorf("trying again: %w", err)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return row, nil
}
