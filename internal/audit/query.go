package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/internal/record"
)

const (
	defaultPageSize, maxPageSize = 50, 500
	// maxValues bounds what one filter may name.
	maxValues = 50
)

// Page is a part of the rows, the newest first. Next, if it is not empty, is where the following page begins.
type Page struct {
	Items []Row  `json:"items"`
	Next  string `json:"next"`
}

// scope is whose rows a user may see: all, or those of tenants and his own.
type scope struct {
	all     bool
	tenants []string
	user    string
}

// query is what of the rows is asked for.
type query struct {
	where []string
	args  []any
	size  int
	from  int64 // rows below this number
}

// filters are the columns that may be asked for by name.
var filters = []string{"user", "tenant", "cluster", "resource", "name", "action", "result"}

// parseQuery reads what a request asks for: a filter's name with one or several values, search (text in what a row
// says, whatever the case), from and to (RFC 3339), pageSize, and next of the page before.
func parseQuery(values url.Values) (query, error) {
	q := query{size: defaultPageSize, from: 1<<63 - 1}
	known := append([]string{"search", "from", "to", "pageSize", "next", "format"}, filters...)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, key) {
			return q, apierrors.NewBadRequest(fmt.Sprintf("there is no filter %q: choose from %s", key, strings.Join(known, ", ")))
		}
	}
	for _, filter := range filters {
		if err := q.filter(filter, values[filter]); err != nil {
			return q, err
		}
	}
	if text := strings.ToLower(strings.TrimSpace(values.Get("search"))); text != "" {
		pattern := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(cut(text, maxWord))
		q.where, q.args = append(q.where, `words LIKE ? ESCAPE '\'`), append(q.args, "%"+pattern+"%")
	}
	for _, bound := range []struct{ key, condition string }{{"from", "id >= ?"}, {"to", "id < ?"}} {
		key := bound.key
		if values.Get(key) == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, values.Get(key))
		if err != nil {
			return q, apierrors.NewBadRequest(fmt.Sprintf("%s=%q is no time: write it as %s", key, values.Get(key), time.RFC3339))
		}
		q.where, q.args = append(q.where, bound.condition), append(q.args, idAt(at))
	}
	return q, q.page(values)
}

func (q *query) filter(name string, values []string) error {
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	if len(values) == 0 {
		return nil
	}
	if len(values) > maxValues {
		return apierrors.NewBadRequest(fmt.Sprintf("%d values for %s are too many: give at most %d", len(values), name, maxValues))
	}
	column := name
	if name == "user" {
		column = "user_name"
		for _, value := range slices.Clone(values) {
			values = append(values, originHub+":"+value, originMachine+":"+value)
		}
	}
	for _, value := range values {
		q.args = append(q.args, cut(value, maxWord))
	}
	q.where = append(q.where, column+" IN (?"+strings.Repeat(",?", len(values)-1)+")")
	return nil
}

func (q *query) page(values url.Values) (err error) {
	if text := values.Get("pageSize"); text != "" {
		if q.size, err = strconv.Atoi(text); err != nil || q.size < 1 || q.size > maxPageSize {
			return apierrors.NewBadRequest(fmt.Sprintf("pageSize=%q: give a number from 1 to %d", text, maxPageSize))
		}
	}
	if text := values.Get("next"); text != "" {
		if q.from, err = strconv.ParseInt(text, 10, 64); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("next=%q: give what the page before says", text))
		}
	}
	return nil
}

// page reads a page. What several branches of the scope show is one list: each is read by its own index.
func (l *Log) page(ctx context.Context, q query, s scope, states bool) (Page, error) {
	page := Page{Items: []Row{}}
	var found []found
	err := l.db.View(ctx, func(tx *record.Tx) error {
		for _, branch := range s.branches() {
			rows, err := q.run(ctx, tx, branch, states)
			if err != nil {
				return err
			}
			found = append(found, rows...)
		}
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("reading rows of audit: %w", err)
	}
	slices.SortFunc(found, byNewest)
	found = slices.CompactFunc(found, sameRow)
	if len(found) > q.size {
		found = found[:q.size]
	}
	for _, f := range found {
		page.Items = append(page.Items, f.row)
	}
	if len(found) == q.size {
		page.Next = page.Items[q.size-1].ID
	}
	return page, nil
}

// found is a row with its number.
type found struct {
	id  int64
	row Row
}

func byNewest(a, b found) int { return cmp.Compare(b.id, a.id) }
func sameRow(a, b found) bool { return a.id == b.id }

// branch is one condition of a scope.
type branch struct {
	where string
	args  []any
}

func (s scope) branches() []branch {
	if s.all {
		return []branch{{}}
	}
	var all []branch
	for _, tenant := range s.tenants {
		all = append(all, branch{"tenant = ?", []any{tenant}})
	}
	if s.user != "" {
		all = append(all, branch{"user_name = ?", []any{s.user}})
	}
	return all
}

func (q *query) run(ctx context.Context, tx *record.Tx, b branch, states bool) ([]found, error) {
	where, args := append(slices.Clone(q.where), "id < ?"), append(slices.Clone(q.args), q.from)
	if b.where != "" {
		where, args = append(where, b.where), append(args, b.args...)
	}
	columns := "id, intent, outcome, '', ''"
	if states {
		columns = "id, intent, outcome, state_before, state_after"
	}
	var rows []found
	err := tx.Each(ctx, func(scan func(...any) error) error {
		f, err := scanRow(scan)
		rows = append(rows, f)
		return err
	}, `SELECT `+columns+` FROM audit_rows WHERE `+strings.Join(where, " AND ")+` ORDER BY id DESC LIMIT ?`, append(args, q.size)...)
	return rows, err
}

func scanRow(scan func(...any) error) (found, error) {
	var id int64
	var intent string
	var outcome, before, after *string
	if err := scan(&id, &intent, &outcome, &before, &after); err != nil {
		return found{}, err
	}
	var i Intent
	if err := json.Unmarshal([]byte(intent), &i); err != nil {
		return found{}, fmt.Errorf("row %d is damaged, run 'yunfan audit verify': %w", id, err)
	}
	if outcome == nil {
		return found{id, rowOf(id, i, nil)}, nil
	}
	var o Outcome
	if err := json.Unmarshal([]byte(*outcome), &o); err != nil {
		return found{}, fmt.Errorf("row %d is damaged, run 'yunfan audit verify': %w", id, err)
	}
	if before != nil && after != nil {
		o.Before, o.After = *before, *after
	}
	return found{id, rowOf(id, i, &o)}, nil
}
