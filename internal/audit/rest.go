package audit

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Routes show rows. None changes any.
func (l *Log) Routes(authorizer *rest.Authorizer) []rest.Route {
	return []rest.Route{
		{Pattern: "GET /api/v1/audit", Handler: rest.Get(func(r *http.Request) (Page, error) {
			q, s, err := asked(r, authorizer)
			if err != nil {
				return Page{}, err
			}
			return l.page(r.Context(), q, s, false)
		})},
		{Pattern: "GET /api/v1/audit/{id}", Handler: rest.Get(func(r *http.Request) (Row, error) { return l.one(r, authorizer) })},
		{Pattern: "GET /api/v1/audit/export", Stream: true, Handler: func(w http.ResponseWriter, r *http.Request) error {
			return l.export(w, r, authorizer)
		}},
	}
}

func asked(r *http.Request, authorizer *rest.Authorizer) (query, scope, error) {
	s, err := scopeOf(r.Context(), authorizer)
	if err != nil {
		return query{}, s, err
	}
	q, err := parseQuery(r.URL.Query())
	return q, s, err
}

// scopeOf is whose rows the request's user may see: platform administrators all, administrators of tenants those of
// their tenants, and they and operators their own.
func scopeOf(ctx context.Context, authorizer *rest.Authorizer) (scope, error) {
	user := rest.UserOf(ctx)
	name, ours := user.OfPlatform()
	if !ours {
		// The hub's own users: whoever may do everything there may see everything here.
		return scope{all: true}, authorizer.Require(ctx, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"})
	}
	if slices.Contains(user.Groups, v1alpha1.GroupPlatformAdmin) {
		return scope{all: true}, nil
	}
	s, may := scope{user: name}, false
	for _, group := range user.Groups {
		grant, ok := v1alpha1.ParseGroup(group)
		if !ok {
			continue
		}
		switch grant.Role {
		case v1alpha1.RoleAdmin:
			may, s.tenants = true, append(s.tenants, grant.Tenant)
		case v1alpha1.RoleOperator:
			may = true
		}
	}
	if !may {
		return s, apierrors.NewForbidden(schema.GroupResource{Resource: "audit"}, "",
			fmt.Errorf("platform administrators see all rows, administrators of a tenant its rows, operators their own: ask an administrator of your tenant"))
	}
	return s, nil
}

// one gives a row with the states before and after.
func (l *Log) one(r *http.Request, authorizer *rest.Authorizer) (Row, error) {
	s, err := scopeOf(r.Context(), authorizer)
	if err != nil {
		return Row{}, err
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return Row{}, rest.NotFound("audit", r.PathValue("id"))
	}
	page, err := l.page(r.Context(), query{where: []string{"id = ?"}, args: []any{id}, size: 1, from: 1<<63 - 1}, s, true)
	if err != nil {
		return Row{}, err
	}
	if len(page.Items) == 0 {
		return Row{}, rest.NotFound("audit", r.PathValue("id"))
	}
	return page.Items[0], nil
}

// export streams all rows that are asked for, page by page: as JSON, a row a line with the states before and after, or
// as CSV for spreadsheets.
func (l *Log) export(w http.ResponseWriter, r *http.Request, authorizer *rest.Authorizer) error {
	q, s, err := asked(r, authorizer)
	if err != nil {
		return err
	}
	format := cmp.Or(r.URL.Query().Get("format"), "jsonl")
	kind, known := map[string]string{"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}[format]
	if !known {
		return apierrors.NewBadRequest(fmt.Sprintf("format=%q: choose jsonl or csv", format))
	}
	q.size = maxPageSize
	buffer := bufio.NewWriter(w)
	write := exporter(format, buffer)
	for started := false; ; {
		page, err := l.page(r.Context(), q, s, format == "jsonl")
		if err != nil {
			return err
		}
		if !started {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Disposition", `attachment; filename="audit.`+format+`"`)
			started = true
			if err := write(nil); err != nil {
				return err
			}
		}
		for i := range page.Items {
			if err := write(&page.Items[i]); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return buffer.Flush()
		}
		if q.from, err = strconv.ParseInt(page.Next, 10, 64); err != nil {
			return fmt.Errorf("exporting: %w", err)
		}
	}
}

// exporter gives a function that writes rows; nil is what stands before the first.
func exporter(format string, out io.Writer) func(*Row) error {
	if format == "jsonl" {
		encoder := json.NewEncoder(out)
		return func(row *Row) error {
			if row == nil {
				return nil
			}
			return encoder.Encode(row)
		}
	}
	table := csv.NewWriter(out)
	return func(row *Row) error {
		cells := csvHeader
		if row != nil {
			cells = csvCells(row)
		}
		if err := table.Write(cells); err != nil {
			return fmt.Errorf("exporting: %w", err)
		}
		table.Flush()
		return table.Error()
	}
}

var csvHeader = []string{
	"id", "time", "user", "origin", "via", "address", "tenant", "cluster", "action", "group", "resource", "subresource", "namespace", "name", "uid",
	"result", "code", "reason", "message", "durationMilliseconds", "dryRun", "method", "path", "userAgent", "requestID",
}

func csvCells(r *Row) []string {
	duration := ""
	if r.DurationMilliseconds != nil {
		duration = strconv.FormatInt(*r.DurationMilliseconds, 10)
	}
	cells := []string{
		r.ID, r.Time.Format(time.RFC3339Nano), r.User, r.Origin, r.Via, r.Address, r.Tenant, r.Cluster, r.Action, r.Group, r.Resource, r.Subresource, r.Namespace, r.Name, r.UID,
		r.Result, strconv.Itoa(r.Code), r.Reason, r.Message, duration, strconv.FormatBool(r.DryRun), r.Method, r.Path, r.UserAgent, r.RequestID,
	}
	for i, cell := range cells {
		// A spreadsheet would run a cell that begins so.
		if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
			cells[i] = "'" + cell
		}
	}
	return cells
}
