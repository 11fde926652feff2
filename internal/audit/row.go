// Package audit keeps a row of everything that users change: who, when, from where, what, with which result, before and
// after. A row's intent is on disk before the request goes on, and its result after; without an intent there is no
// write. Rows are chained by hashes, whose heads are anchored on the hub, so that a changed, removed or cut-off row is
// found.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Results of an action.
const (
	// ResultPending has no result yet: the request is under way, or its server ended a moment ago.
	ResultPending = "Pending"
	// ResultSucceeded was answered with a code below 400.
	ResultSucceeded = "Succeeded"
	// ResultRefused was answered with 401 or 403.
	ResultRefused = "Refused"
	// ResultFailed was answered with any other code.
	ResultFailed = "Failed"
	// ResultUnknown may have happened or not: the server was killed, or the client or the API server went away.
	ResultUnknown = "Unknown"
)

// Where users are from.
const (
	originYunfan  = "yunfan"
	originHub     = "hub"
	originMachine = "machine"
)

// Limits of one row, in bytes.
const (
	maxState   = 64 << 10 // before and after, each
	maxMessage = 1 << 10
	maxPath    = 2 << 10
	maxWord    = 256
	maxWords   = 1 << 10
)

// Intent is what is known of an action before it is done. Its JSON is what is stored, and what is hashed.
type Intent struct {
	Time int64 `json:"time"` // Unix, ms
	// User is shown without the platform's prefix; Origin tells users of the platform ("yunfan") from the hub's own
	// ("hub") and those of the registry's machine ("machine"), and Via says how he is known: session/NAME, accessToken/NAME, certificate or token.
	User      string `json:"user,omitempty"`
	Origin    string `json:"origin,omitempty"`
	Via       string `json:"via,omitempty"`
	Address   string `json:"address,omitempty"`
	UserAgent string `json:"userAgent,omitempty"`
	RequestID string `json:"requestID,omitempty"`

	Action      string `json:"action,omitempty"`
	Tenant      string `json:"tenant,omitempty"`
	Cluster     string `json:"cluster,omitempty"` // empty is the hub
	Group       string `json:"group,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`

	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"` // with its query
	DryRun bool   `json:"dryRun,omitempty"`
	// Suppressed is how many refusals like this one had no row of their own since the last that had.
	Suppressed int `json:"suppressed,omitempty"`
}

// Outcome is what is known afterwards. What it says of who and what replaces what the intent says.
type Outcome struct {
	Time    int64  `json:"time"` // Unix, ms
	Result  string `json:"result"`
	Code    int    `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`

	User      string `json:"user,omitempty"`
	Action    string `json:"action,omitempty"`
	Tenant    string `json:"tenant,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	Resource  string `json:"resource,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`

	// Versions are the resourceVersions of before and after: those of an object form a line, so that a change by
	// somebody else between the two is seen.
	VersionBefore string `json:"versionBefore,omitempty"`
	VersionAfter  string `json:"versionAfter,omitempty"`
	// Digests of before and after, which are stored beside this.
	DigestBefore []byte `json:"digestBefore,omitempty"`
	DigestAfter  []byte `json:"digestAfter,omitempty"`

	Before string `json:"-"`
	After  string `json:"-"`
}

// Row is an action as users see it.
type Row struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	// DurationMilliseconds is null while the action is under way.
	DurationMilliseconds *int64 `json:"durationMilliseconds"`

	User      string `json:"user"`
	Origin    string `json:"origin"`
	Via       string `json:"via"`
	Address   string `json:"address"`
	UserAgent string `json:"userAgent"`
	RequestID string `json:"requestID"`

	Action      string `json:"action"`
	Tenant      string `json:"tenant"`
	Cluster     string `json:"cluster"`
	Group       string `json:"group"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	UID         string `json:"uid"`
	Method      string `json:"method"`
	Path        string `json:"path"`
	DryRun      bool   `json:"dryRun"`
	Suppressed  int    `json:"suppressed,omitempty"`

	Result  string `json:"result"`
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`

	VersionBefore string `json:"versionBefore,omitempty"`
	VersionAfter  string `json:"versionAfter,omitempty"`
	// Before and After are the object's states without secrets, only in one row's own answer and in exports.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// rowOf lays the outcome, if there is one, over the intent.
func rowOf(id int64, i Intent, o *Outcome) Row {
	row := Row{
		ID: fmt.Sprint(id), Time: time.UnixMilli(i.Time).UTC(),
		User: i.User, Origin: i.Origin, Via: i.Via, Address: i.Address, UserAgent: i.UserAgent, RequestID: i.RequestID,
		Action: i.Action, Tenant: i.Tenant, Cluster: i.Cluster, Group: i.Group, Resource: i.Resource, Subresource: i.Subresource,
		Namespace: i.Namespace, Name: i.Name, Method: i.Method, Path: i.Path, DryRun: i.DryRun, Suppressed: i.Suppressed,
		Result: ResultPending,
	}
	if o == nil {
		return row
	}
	duration := max(0, o.Time-i.Time)
	row.DurationMilliseconds = &duration
	row.Result, row.Code, row.Reason, row.Message = o.Result, o.Code, o.Reason, o.Message
	row.UID, row.VersionBefore, row.VersionAfter, row.Before, row.After = o.UID, o.VersionBefore, o.VersionAfter, o.Before, o.After
	for _, over := range []struct {
		field *string
		value string
	}{
		{&row.User, o.User}, {&row.Action, o.Action}, {&row.Tenant, o.Tenant}, {&row.Cluster, o.Cluster},
		{&row.Resource, o.Resource}, {&row.Namespace, o.Namespace}, {&row.Name, o.Name},
	} {
		if over.value != "" {
			*over.field = over.value
		}
	}
	return row
}

// userKey is what users are filtered by: the hub's own, and those of the registry's machine, may have the names of ours.
func (r *Row) userKey() string {
	if r.Origin == originHub || r.Origin == originMachine {
		return r.Origin + ":" + r.User
	}
	return r.User
}

// columns are stored beside the documents, for searching.
func (r *Row) columns() [8]string {
	return [8]string{r.userKey(), r.Tenant, r.Cluster, r.Resource, r.Name, r.Action, r.Result, r.words()}
}

// words is what a text search looks in, in lower case.
func (r *Row) words() string {
	all := strings.Join([]string{
		r.User, r.Tenant, r.Cluster, r.Resource, r.Subresource, r.Namespace, r.Name, r.Action, r.Result, r.Reason, r.Address, r.RequestID, r.Via, r.Path,
	}, " ")
	return strings.ToLower(cut(all, maxWords))
}

// cut shortens text to at most limit bytes of whole characters that both databases can store.
func cut(text string, limit int) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", " "), "?")
	if len(text) <= limit {
		return text
	}
	text = text[:limit]
	for len(text) > 0 && !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text
}

// bounded cuts every text of an intent to what a row may hold.
func (i *Intent) bounded() {
	for _, word := range []*string{
		&i.User, &i.Origin, &i.Via, &i.Address, &i.UserAgent, &i.RequestID, &i.Action, &i.Tenant, &i.Cluster,
		&i.Group, &i.Resource, &i.Subresource, &i.Namespace, &i.Name, &i.Method,
	} {
		*word = cut(*word, maxWord)
	}
	i.Path = cut(i.Path, maxPath)
}

func (o *Outcome) bounded() {
	for _, word := range []*string{
		&o.Result, &o.Reason, &o.User, &o.Action, &o.Tenant, &o.Cluster, &o.Resource, &o.Namespace, &o.Name, &o.UID, &o.VersionBefore, &o.VersionAfter,
	} {
		*word = cut(*word, maxWord)
	}
	o.Message = cut(o.Message, maxMessage)
	o.Before, o.After = bound(o.Before), bound(o.After)
	o.DigestBefore, o.DigestAfter = digest(o.Before), digest(o.After)
}

// bound cuts a state and says so in it.
func bound(state string) string {
	if len(state) <= maxState {
		return cut(state, maxState)
	}
	mark := fmt.Sprintf("… (cut: %d bytes in all)", len(state))
	return cut(state, maxState-len(mark)) + mark
}

func digest(state string) []byte {
	if state == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(state))
	return sum[:]
}

// The two links that a row has in chains.
const (
	kindIntent  = byte('i')
	kindOutcome = byte('o')
)

// genesis is what the first link of a writer's chain follows.
func genesis(name, identity string) []byte {
	sum := sha256.New()
	sum.Write([]byte("yunfan audit 1\x00" + name + "\x00" + identity))
	return sum.Sum(nil)
}

// link is the hash of one link: of the one before it, its number, the row's number and what it says. An outcome's link
// covers the intent once more, so that a row whose intent was before a cut still is covered as a whole.
func link(previous []byte, seq int64, kind byte, id int64, intent, outcome []byte) []byte {
	sum := sha256.New()
	sum.Write(previous)
	var numbers [17]byte
	binary.BigEndian.PutUint64(numbers[:8], uint64(seq))
	binary.BigEndian.PutUint64(numbers[8:16], uint64(id))
	numbers[16] = kind
	sum.Write(numbers[:])
	first := sha256.Sum256(intent)
	sum.Write(first[:])
	if kind == kindOutcome {
		second := sha256.Sum256(outcome)
		sum.Write(second[:])
	}
	return sum.Sum(nil)
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	return text
}
