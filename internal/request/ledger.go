package request

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/record"
)

// Ledger is the account of all requests: a row for everything that ever became of one. Rows are added and never changed.
type Ledger struct{ Records *record.Database }

// Events of the ledger besides the phases.
const (
	eventExpiring = "Expiring"
	eventInUse    = "InUse"
	eventDeleted  = "Deleted"
)

// LedgerRow is one event of one request.
type LedgerRow struct {
	Time time.Time `json:"time"`
	// Event is the phase that the request came to, or Expiring, InUse, Deleted.
	Event     string               `json:"event"`
	Tenant    string               `json:"tenant"`
	Request   string               `json:"request"`
	UID       string               `json:"uid"`
	Type      v1alpha1.RequestType `json:"type"`
	Partition string               `json:"partition"`
	Cluster   string               `json:"cluster,omitempty"`
	// Applicant is who asked, Actor who brought the event about; empty where it was the platform.
	Applicant string `json:"applicant"`
	Actor     string `json:"actor,omitempty"`
	// Asked and Granted are how much; until when it was asked for, and granted.
	Asked        corev1.ResourceList `json:"asked,omitempty"`
	AskedUntil   *metav1.Time        `json:"askedUntil,omitempty"`
	Granted      corev1.ResourceList `json:"granted,omitempty"`
	GrantedUntil *metav1.Time        `json:"grantedUntil,omitempty"`
	Comment      string              `json:"comment,omitempty"`
	// Evidence is what was known of the use when it was decided.
	Evidence *Evidence `json:"evidence,omitempty"`

	// key tells the event from others of the same request: a row with the same key is written once.
	key string
}

// Migrate makes the ledger's table.
func (l *Ledger) Migrate(ctx context.Context) error {
	err := l.Records.Migrate(ctx, record.Migration{
		Capability: "request", Version: 1,
		Statements: []string{
			// at is in milliseconds since 1970, ends in seconds; quotas and evidence are JSON.
			`CREATE TABLE request_ledger (uid TEXT NOT NULL, event_key TEXT NOT NULL, at BIGINT NOT NULL, event TEXT NOT NULL,
				tenant TEXT NOT NULL, request TEXT NOT NULL, type TEXT NOT NULL, partition_name TEXT NOT NULL, cluster TEXT NOT NULL,
				applicant TEXT NOT NULL, actor TEXT NOT NULL, asked TEXT NOT NULL, asked_until BIGINT NOT NULL, granted TEXT NOT NULL,
				granted_until BIGINT NOT NULL, comment TEXT NOT NULL, evidence TEXT NOT NULL, PRIMARY KEY (uid, event_key))`,
			`CREATE INDEX request_ledger_by_time ON request_ledger (at, uid, event_key)`,
			`CREATE INDEX request_ledger_by_partition ON request_ledger (tenant, partition_name, at)`,
		},
	})
	if err != nil {
		return fmt.Errorf("making the ledger of requests: %w", err)
	}
	return nil
}

// Add writes rows; those that are there already stay as they are.
func (l *Ledger) Add(ctx context.Context, rows ...LedgerRow) error {
	if len(rows) == 0 {
		return nil
	}
	err := l.Records.Update(ctx, func(tx *record.Tx) error {
		for i := range rows {
			if err := insert(ctx, tx, &rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing the ledger of requests: %w", err)
	}
	return nil
}

const columns = `uid, event_key, at, event, tenant, request, type, partition_name, cluster, applicant, actor, asked, asked_until, granted, granted_until, comment, evidence`

func insert(ctx context.Context, tx *record.Tx, r *LedgerRow) error {
	texts := make([]string, 0, 3) //nolint:mnd // asked, granted and evidence
	for _, v := range []any{r.Asked, r.Granted, r.Evidence} {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("writing a row: %w", err)
		}
		texts = append(texts, string(text))
	}
	return tx.Exec(ctx, `INSERT INTO request_ledger (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uid, event_key) DO NOTHING`,
		r.UID, r.key, r.Time.UnixMilli(), r.Event, r.Tenant, r.Request, string(r.Type), r.Partition, r.Cluster, r.Applicant, r.Actor,
		texts[0], seconds(r.AskedUntil), texts[1], seconds(r.GrantedUntil), r.Comment, texts[2])
}

// seconds of a time since 1970; 0 for none.
func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

func ofSeconds(s int64) *metav1.Time {
	if s == 0 {
		return nil
	}
	return &metav1.Time{Time: time.Unix(s, 0).UTC()}
}

func scanRow(scan func(...any) error) (LedgerRow, error) {
	r := LedgerRow{}
	var at, askedUntil, grantedUntil int64
	var kind, asked, granted, evidence string
	err := scan(&r.UID, &r.key, &at, &r.Event, &r.Tenant, &r.Request, &kind, &r.Partition, &r.Cluster, &r.Applicant, &r.Actor,
		&asked, &askedUntil, &granted, &grantedUntil, &r.Comment, &evidence)
	if err != nil {
		return r, err
	}
	r.Time, r.Type = time.UnixMilli(at).UTC(), v1alpha1.RequestType(kind)
	r.AskedUntil, r.GrantedUntil = ofSeconds(askedUntil), ofSeconds(grantedUntil)
	for i, into := range []any{&r.Asked, &r.Granted, &r.Evidence} {
		text := []string{asked, granted, evidence}[i]
		if text == "null" {
			continue
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			return r, fmt.Errorf("reading a row: %w", err)
		}
	}
	return r, nil
}

// where is the part of a question about the ledger that chooses rows.
type where struct {
	conditions []string
	arguments  []any
}

func (w *where) and(condition string, arguments ...any) {
	w.conditions = append(w.conditions, condition)
	w.arguments = append(w.arguments, arguments...)
}

func (w *where) in(column string, values []string) {
	if len(values) == 0 {
		w.and("1 = 0")
		return
	}
	arguments := make([]any, len(values))
	for i, v := range values {
		arguments[i] = v
	}
	w.and(column+" IN ("+strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")+")", arguments...)
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// filters of the ledger by the names of its fields, with the columns in which they are.
var filters = map[string]string{
	"event": "event", "tenant": "tenant", "request": "request", "uid": "uid", "type": "type", "partition": "partition_name",
	"cluster": "cluster", "applicant": "applicant", "actor": "actor",
}

// search looks for a text in whatever is told in words.
func (w *where) search(text string) {
	pattern := "%" + strings.NewReplacer(`!`, `!!`, `%`, `!%`, `_`, `!_`).Replace(strings.ToLower(text)) + "%"
	var likes []string
	var arguments []any
	for _, column := range []string{"tenant", "request", "partition_name", "cluster", "applicant", "actor", "event", "comment"} {
		likes = append(likes, "LOWER("+column+") LIKE ? ESCAPE '!'")
		arguments = append(arguments, pattern)
	}
	w.and("("+strings.Join(likes, " OR ")+")", arguments...)
}

// current leaves only what is given now: of each partition the last row that gave it something, unless it was given back
// since.
func (w *where) current() {
	w.and(`event IN ('Active', 'Expired') AND NOT EXISTS (SELECT 1 FROM request_ledger AS later WHERE later.tenant = request_ledger.tenant
		AND later.partition_name = request_ledger.partition_name AND later.event IN ('Active', 'Expired', 'Returned')
		AND (later.at > request_ledger.at OR later.at = request_ledger.at AND (later.uid > request_ledger.uid
			OR later.uid = request_ledger.uid AND later.event_key > request_ledger.event_key)))`)
}

// asks turns a query into conditions: any field with the value it must have, search, from and to.
func asks(query url.Values) (*where, error) {
	w := &where{}
	for _, key := range sortedKeys(query) {
		value := query.Get(key)
		switch key {
		case "from", "to":
			at, err := moment(value)
			if err != nil {
				return nil, badRequest("%s=%q: %v", key, value, err)
			}
			if begin, derr := time.ParseInLocation(time.DateOnly, value, time.Local); key == "from" && derr == nil {
				at.Time = begin
			}
			w.and(map[string]string{"from": "at >= ?", "to": "at <= ?"}[key], at.UnixMilli())
		case "search":
			if value != "" {
				w.search(value)
			}
		case "current":
			if value == "true" {
				w.current()
			} else if value != "false" {
				return nil, badRequest("current=%q: give true or false", value)
			}
		case "page", "pageSize", "sort", "format":
		default:
			column, ok := filters[key]
			if !ok {
				return nil, badRequest("there is no field %q: filter by event, tenant, request, uid, type, partition, cluster, applicant, actor; "+
					"further there are from, to, search, current, sort=time or -time, page, pageSize and format", key)
			}
			w.in(column, query[key])
		}
	}
	return w, nil
}

func sortedKeys(query url.Values) []string {
	keys := make([]string, 0, len(query))
	for key := range query {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// page gives some of the rows that are asked for, and how many there are.
func (l *Ledger) page(ctx context.Context, w *where, newestFirst bool, offset, size int) (rows []LedgerRow, total int, err error) {
	order := " ORDER BY at, uid, event_key"
	if newestFirst {
		order = " ORDER BY at DESC, uid DESC, event_key DESC"
	}
	err = l.Records.View(ctx, func(tx *record.Tx) error {
		if _, err := tx.One(ctx, []any{&total}, `SELECT COUNT(*) FROM request_ledger`+w.String(), w.arguments...); err != nil {
			return err
		}
		return tx.Each(ctx, func(scan func(...any) error) error {
			r, err := scanRow(scan)
			rows = append(rows, r)
			return err
		}, `SELECT `+columns+` FROM request_ledger`+w.String()+order+` LIMIT ? OFFSET ?`, append(slices.Clone(w.arguments), size, offset)...)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the ledger of requests: %w", err)
	}
	return rows, total, nil
}

// each gives all rows that are asked for in the order of time, some hundred at once, so that a long list keeps no
// transaction open.
func (l *Ledger) each(ctx context.Context, w *where, give func(*LedgerRow) error) error {
	const atOnce = 500
	next := *w
	for {
		rows, _, err := l.page(ctx, &next, false, 0, atOnce)
		if err != nil {
			return err
		}
		for i := range rows {
			if err := give(&rows[i]); err != nil {
				return err
			}
		}
		if len(rows) < atOnce {
			return nil
		}
		last := rows[len(rows)-1]
		next = where{slices.Clone(w.conditions), slices.Clone(w.arguments)}
		at := last.Time.UnixMilli()
		next.and("(at > ? OR (at = ? AND (uid > ? OR (uid = ? AND event_key > ?))))", at, at, last.UID, last.UID, last.key)
	}
}

// tenants that have rows, sorted.
func (l *Ledger) tenants(ctx context.Context) (names []string, err error) {
	err = l.Records.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			name := ""
			err := scan(&name)
			names = append(names, name)
			return err
		}, `SELECT DISTINCT tenant FROM request_ledger ORDER BY tenant`)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the ledger of requests: %w", err)
	}
	return names, nil
}
