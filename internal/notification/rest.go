package notification

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Resources of the API group.
const (
	providers = "notificationproviders"
	receivers = "notificationreceivers"
)

// Routes are the capability's.
func (s *Service) Routes() []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/me/notifications", Handler: rest.Get(s.getPreferences)},
		{Pattern: "PUT /api/v1/me/notifications", Handler: rest.Get(s.putPreferences)},
		{Pattern: "GET /api/v1/me/messages", Handler: rest.Get(s.inbox)},
		{Pattern: "POST /api/v1/me/messages/read", Handler: rest.Get(s.markRead)},
		{Pattern: "GET /api/v1/notifications", Handler: rest.Get(s.deliveries)},
		{Pattern: "POST /api/v1/notifications/{id}/retry", Handler: rest.Get(s.again)},
		{Pattern: "GET /api/v1/notification-topics", Handler: rest.Get(s.listTopics)},
		{Pattern: "PUT /api/v1/notification-providers/{name}/secret", Handler: rest.Get(s.putSecret)},
		{Pattern: "POST /api/v1/notification-providers/{name}/test", Handler: rest.Get(s.testProvider)},
		{Pattern: "POST /api/v1/tenants/{tenant}/notification-receivers/{name}/key", Handler: rest.Get(s.makeKey)},
		{Pattern: "POST /api/v1/tenants/{tenant}/notification-receivers/{name}/test", Handler: rest.Get(s.testReceiver)},
	}
}

// TopicRow is a topic that people may mute and receivers may ask for.
type TopicRow struct {
	Name string `json:"name"`
}

func (s *Service) listTopics(r *http.Request) (rest.Page[TopicRow], error) {
	rows := make([]TopicRow, 0, len(s.topics))
	for _, name := range s.topics.names() {
		rows = append(rows, TopicRow{name})
	}
	return rest.Paginate(rows, r.URL.Query(), rest.Field[TopicRow]{Name: "name", Text: func(t TopicRow) string { return t.Name }})
}

// require asks whether the user may change the object, and tells the audit what it is about.
func (s *Service) require(ctx context.Context, action, resource, tenant, name string) error {
	facts := rest.FactsOf(ctx)
	facts.Tenant, facts.Resource, facts.Name, facts.Action = tenant, resource, name, action
	return s.Authorizer.Require(ctx, authorizationv1.ResourceAttributes{
		Verb: "update", Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version,
		Resource: resource, Namespace: tenant, Name: name,
	})
}

// paging reads page and pageSize, and takes the rest of what is asked from known names.
func paging(query url.Values, known ...string) (page, size int, err error) {
	const defaultSize, maxSize, maxPage = 50, 500, 1_000_000
	page, size = 1, defaultSize
	known = append(known, "page", "pageSize")
	for name, values := range query {
		if !slices.Contains(known, name) {
			return 0, 0, apierrors.NewBadRequest(fmt.Sprintf("there is no %q: ask with %s", name, strings.Join(known, ", ")))
		}
		into, most := &page, maxPage
		switch name {
		case "page":
		case "pageSize":
			into, most = &size, maxSize
		default:
			continue
		}
		n, err := strconv.Atoi(values[len(values)-1])
		if err != nil || n < 1 || n > most {
			return 0, 0, apierrors.NewBadRequest(fmt.Sprintf("%s=%q: give a number from 1 to %d", name, values[len(values)-1], most))
		}
		*into = n
	}
	return page, size, nil
}

// where gathers conditions of a query with their arguments.
type where struct {
	conditions []string
	args       []any
}

func (w *where) add(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

// anyOf adds that a column has one of the values.
func (w *where) anyOf(column string, values []string) {
	args := make([]any, len(values))
	for i, value := range values {
		args[i] = value
	}
	if len(values) == 0 {
		w.add("1 = 0")
		return
	}
	w.add(column+" IN (?"+strings.Repeat(", ?", len(values)-1)+")", args...)
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}
