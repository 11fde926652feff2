package history

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

const (
	defaultPageSize, maxPageSize = 50, 500
	maxPage                      = 1_000_000
	// maxValues bounds what one filter may name, maxText the length of each, in bytes.
	maxValues, maxText = 50, 256
)

// Row is a run in a list.
type Row struct {
	Tenant      string    `json:"tenant"`
	Name        string    `json:"name"`
	UID         string    `json:"uid"`
	Workflow    string    `json:"workflow,omitempty"`
	DisplayName string    `json:"displayName,omitempty"`
	Phase       string    `json:"phase"`
	Message     string    `json:"message,omitempty"`
	User        string    `json:"user,omitempty"`
	Steps       int       `json:"steps"`
	StepsDone   int       `json:"stepsDone"`
	CreatedAt   time.Time `json:"createdAt"`
	StartedAt   time.Time `json:"startedAt,omitzero"`
	FinishedAt  time.Time `json:"finishedAt,omitzero"`
	// Archived says that the run is no longer an object of the hub.
	Archived bool `json:"archived"`
}

// rowOf makes a row of a run.
func rowOf(run *v1alpha1.WorkflowRun) Row {
	row := Row{
		Tenant: run.Namespace, Name: run.Name, UID: string(run.UID), Workflow: run.Spec.Workflow, Phase: string(cmp.Or(run.Status.Phase, v1alpha1.RunPending)),
		Message: run.Status.Message, User: userName(run.Spec.User), CreatedAt: run.CreationTimestamp.UTC(),
	}
	definition := cmp.Or(run.Status.Definition, run.Spec.Definition)
	if definition != nil {
		row.DisplayName, row.Steps = definition.DisplayName, len(definition.Steps)
	}
	if run.Status.StartTime != nil {
		row.StartedAt = run.Status.StartTime.UTC()
	}
	if run.Status.FinishTime != nil {
		row.FinishedAt = run.Status.FinishTime.UTC()
	}
	for i := range run.Status.Steps {
		switch run.Status.Steps[i].Phase {
		case v1alpha1.StepSucceeded, v1alpha1.StepSkipped, v1alpha1.StepFailed, v1alpha1.StepAborted, v1alpha1.StepCompensated:
			row.StepsDone++
		}
	}
	return row
}

// words is the text in which a search looks.
func (r *Row) words() string {
	text := clean(strings.ToLower(strings.Join([]string{r.Tenant, r.Name, r.Workflow, r.DisplayName, r.Phase, r.User, r.Message}, " ")))
	return strings.ToValidUTF8(text[:min(len(text), maxWords)], "")
}

// column is something rows are sorted and filtered by, here and in the database.
type column struct {
	sql    string
	text   func(*Row) string
	number func(*Row) int64 // in place of text; such a column is only sorted by
}

func (c column) compare(a, b *Row) int {
	if c.number != nil {
		return cmp.Compare(c.number(a), c.number(b))
	}
	return cmp.Compare(c.text(a), c.text(b))
}

var columns = map[string]column{
	"tenant":     {sql: "tenant", text: func(r *Row) string { return r.Tenant }},
	"name":       {sql: "name", text: func(r *Row) string { return r.Name }},
	"workflow":   {sql: "workflow", text: func(r *Row) string { return r.Workflow }},
	"phase":      {sql: "phase", text: func(r *Row) string { return r.Phase }},
	"user":       {sql: "user_name", text: func(r *Row) string { return r.User }},
	"createdAt":  {sql: "created", number: func(r *Row) int64 { return micros(r.CreatedAt) }},
	"startedAt":  {sql: "started", number: func(r *Row) int64 { return micros(r.StartedAt) }},
	"finishedAt": {sql: "finished", number: func(r *Row) int64 { return micros(r.FinishedAt) }},
	"steps":      {sql: "steps", number: func(r *Row) int64 { return int64(r.Steps) }},
}

// query is what of the runs is asked for, and whose the user may see.
type query struct {
	filters    map[string][]string
	search     string
	since      time.Time
	sort       column
	down       bool
	page, size int
	visible    scope
}

// scope is whose runs a user may see: all, all of some tenants, and of others those that he started himself.
type scope struct {
	all          bool
	tenants, own []string
	user         string
}

func (s *scope) has(tenant, user string) bool {
	return s.all || slices.Contains(s.tenants, tenant) || user != "" && user == s.user && slices.Contains(s.own, tenant)
}

// parse reads what a request asks for: page, pageSize, sort, search, since (RFC 3339), and a filter's name with one or
// several values.
func parse(values url.Values) (*query, error) {
	q := &query{filters: map[string][]string{}, sort: columns["createdAt"], down: true, page: 1, size: defaultPageSize}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := q.read(key, values[key]); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *query) read(key string, values []string) (err error) {
	switch value := values[len(values)-1]; key {
	case "page":
		q.page, err = number(key, value, maxPage)
	case "pageSize":
		q.size, err = number(key, value, maxPageSize)
	case "search":
		q.search = strings.ToLower(value[:min(len(value), maxText)])
	case "sort":
		name, down := strings.CutPrefix(value, "-")
		if columns[name].sql == "" {
			return unknown(name)
		}
		q.sort, q.down = columns[name], down
	case "since":
		if q.since, err = time.Parse(time.RFC3339, value); err != nil {
			err = apierrors.NewBadRequest(fmt.Sprintf("since=%q is no time: write it as %s", value, time.RFC3339))
		}
	default:
		if columns[key].text == nil {
			return unknown(key)
		}
		if len(values) > maxValues {
			return apierrors.NewBadRequest(fmt.Sprintf("%d values for %s are too many: give at most %d", len(values), key, maxValues))
		}
		q.filters[key] = values
	}
	return err
}

func number(key, value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%s=%q: give a number from 1 to %d", key, value, most))
	}
	return n, nil
}

func unknown(name string) error {
	return apierrors.NewBadRequest(fmt.Sprintf("there is no field %q: filter by tenant, name, workflow, phase and user; sort by %s; further there are search, since, page, pageSize and sort",
		name, strings.Join(slices.Sorted(maps.Keys(columns)), ", ")))
}

// matches says whether a row of the hub is asked for.
func (q *query) matches(r *Row) bool {
	for name, wanted := range q.filters {
		if !slices.Contains(wanted, columns[name].text(r)) {
			return false
		}
	}
	return !r.CreatedAt.Before(q.since) && (q.search == "" || strings.Contains(r.words(), q.search))
}

// compare is the order of rows, which is the database's: equal ones by age, the newest first, and by UID.
func (q *query) compare(a, b *Row) int {
	order := q.sort.compare(a, b)
	if q.down {
		order = -order
	}
	return cmp.Or(order, cmp.Compare(micros(b.CreatedAt), micros(a.CreatedAt)), cmp.Compare(a.UID, b.UID))
}

// where is what rows of the database must be that are no objects of the hub any more.
func (q *query) where() (condition string, args []any) {
	conditions := []string{"live = 0"}
	in := func(column string, values []string) {
		conditions = append(conditions, column+" IN (?"+strings.Repeat(",?", len(values)-1)+")")
		for _, v := range values {
			args = append(args, clean(v))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(q.filters)) {
		in(columns[name].sql, q.filters[name])
	}
	if !q.since.IsZero() {
		conditions, args = append(conditions, "created >= ?"), append(args, micros(q.since))
	}
	if q.search != "" {
		pattern := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(clean(q.search))
		conditions, args = append(conditions, `words LIKE ? ESCAPE '\'`), append(args, "%"+pattern+"%")
	}
	if q.visible.all {
		return strings.Join(conditions, " AND "), args
	}
	visible := []string{"1 = 0"}
	if len(q.visible.tenants) > 0 {
		in("tenant", q.visible.tenants)
		visible = append(visible, conditions[len(conditions)-1])
		conditions = conditions[:len(conditions)-1]
	}
	if len(q.visible.own) > 0 {
		args = append(args, q.visible.user)
		in("user_name = ? AND tenant", q.visible.own)
		visible = append(visible, conditions[len(conditions)-1])
		conditions = conditions[:len(conditions)-1]
	}
	return strings.Join(append(conditions, "("+strings.Join(visible, " OR ")+")"), " AND "), args
}

const rowColumns = `uid, live, tenant, name, workflow, title, phase, message, user_name, created, started, finished, steps, steps_done`

func scanRow(scan func(...any) error) (Row, error) {
	var r Row
	var live, created, started, finished int64
	err := scan(&r.UID, &live, &r.Tenant, &r.Name, &r.Workflow, &r.DisplayName, &r.Phase, &r.Message, &r.User, &created, &started, &finished, &r.Steps, &r.StepsDone)
	r.CreatedAt, r.StartedAt, r.FinishedAt, r.Archived = fromMicros(created), fromMicros(started), fromMicros(finished), true
	return r, err
}

// list gives a page of the hub's rows and those of the database together, as if they were one list. Of the database it
// reads no more than the page and as many rows as the hub has.
func (h *History) list(ctx context.Context, live []Row, q *query) (rest.Page[Row], error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	page := rest.Page[Row]{Items: []Row{}, Page: q.page, PageSize: q.size}
	err := h.Records.View(ctx, func(tx *record.Tx) error {
		mine, err := q.inMemory(ctx, tx, live)
		if err != nil {
			return err
		}
		condition, args := q.where()
		var archived int
		if _, err := tx.One(ctx, []any{&archived}, `SELECT COUNT(*) FROM workflow_runs WHERE `+condition, args...); err != nil {
			return err
		}
		page.Total = len(mine) + archived
		from := (q.page - 1) * q.size
		skip := max(0, from-len(mine))
		stored, err := q.stored(ctx, tx, condition, args, skip, from+q.size-skip)
		if err != nil {
			return err
		}
		page.Items = q.merge(mine, stored, skip)
		return nil
	})
	if err != nil {
		return page, fmt.Errorf("listing runs: %w", err)
	}
	return page, nil
}

func (q *query) stored(ctx context.Context, tx *record.Tx, condition string, args []any, skip, limit int) ([]Row, error) {
	direction := ""
	if q.down {
		direction = " DESC"
	}
	order := q.sort.sql + direction
	if q.sort.sql != "created" {
		order += ", created DESC"
	}
	var rows []Row
	err := tx.Each(ctx, func(scan func(...any) error) error {
		r, err := scanRow(scan)
		rows = append(rows, r)
		return err
	}, `SELECT `+rowColumns+` FROM workflow_runs WHERE `+condition+` ORDER BY `+order+`, uid LIMIT ? OFFSET ?`, append(slices.Clone(args), limit, skip)...)
	return rows, err
}

// inMemory are the hub's rows that are asked for, in order, and those of runs that have just left it: the database counts
// them as the hub's until the leader has looked.
func (q *query) inMemory(ctx context.Context, tx *record.Tx, live []Row) ([]Row, error) {
	here := make(map[string]bool, len(live))
	for i := range live {
		here[live[i].UID] = true
	}
	var rows []Row
	err := tx.Each(ctx, func(scan func(...any) error) error {
		r, err := scanRow(scan)
		if err == nil && !here[r.UID] && q.visible.has(r.Tenant, r.User) {
			rows = append(rows, r)
		}
		return err
	}, `SELECT `+rowColumns+` FROM workflow_runs WHERE live = 1`)
	if err != nil {
		return nil, err
	}
	// Which of the others the user may see is known.
	rows = slices.DeleteFunc(append(rows, live...), func(r Row) bool { return !q.matches(&r) })
	slices.SortFunc(rows, func(a, b Row) int { return q.compare(&a, &b) })
	return rows, nil
}

// merge gives the page. Stored are the rows of the database from the one on that skip others stand before; a row's place in
// the whole list is its place in its own part and the number of rows of the other part before it.
func (q *query) merge(mine, stored []Row, skip int) []Row {
	from := (q.page - 1) * q.size
	placed := make([]*Row, q.size)
	put := func(place int, r *Row) {
		if place >= from && place < from+q.size {
			placed[place-from] = r
		}
	}
	before := func(rows []Row, r *Row) int {
		n, _ := slices.BinarySearchFunc(rows, r, func(row Row, r *Row) int { return q.compare(&row, r) })
		return n
	}
	for i := range mine {
		put(i+skip+before(stored, &mine[i]), &mine[i])
	}
	for i := range stored {
		put(skip+i+before(mine, &stored[i]), &stored[i])
	}
	items := []Row{}
	for _, r := range placed {
		if r != nil {
			items = append(items, *r)
		}
	}
	return items
}
