package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// What is kept at most; what is more is only counted.
const (
	maxAnswers  = 1 << 17
	maxFailures = 2000
	maxNotes    = 1000
	maxWho      = 1000
	// maxLines bounds a timeline.
	maxLines = 200
	// maxError bounds the text of one failure, in bytes.
	maxError = 400
	kept     = " (kept connection)"
)

// Who answered.
type Who struct{ Version, Partition, Pod string }

// Answer is what became of one request.
type Answer struct {
	// At is when it was sent.
	At time.Time
	// Took is how long it took until the end of the answer, or until it had failed.
	Took time.Duration
	// Kind of the request.
	Kind string
	// Status of the answer; 0 without one.
	Status int
	// Who answered, as far as it says so.
	Who Who
	// Reused says that the connection had carried requests before.
	Reused bool
	// Error says in which phase it failed, and how: connect, tls, send, answer, body, status. Empty if it is good.
	Error string
}

// Event is something that happened, to be laid beside failures.
type Event struct {
	At   time.Time
	Text string
}

// record keeps answers in bounded memory.
type record struct {
	mu    sync.Mutex
	start time.Time
	// stopped is when nothing more was asked; zero until then.
	stopped time.Time
	data    Report
	byWho   map[Who]int
	behind  time.Duration
}

func newRecord() *record { return &record{start: time.Now(), byWho: map[Who]int{}} }

func (r *record) add(a Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.Error = a.Error[:min(len(a.Error), maxError)]
	r.data.Asked++
	if a.Error != "" {
		r.data.Failed++
		if len(r.data.Failures) < maxFailures {
			r.data.Failures = append(r.data.Failures, a)
		}
	}
	if len(r.data.Answers) < maxAnswers {
		r.data.Answers = append(r.data.Answers, a)
	}
	if _, known := r.byWho[a.Who]; known || len(r.byWho) < maxWho {
		r.byWho[a.Who]++
	}
}

func (r *record) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.data.Notes) < maxNotes {
		r.data.Notes = append(r.data.Notes, Event{At: time.Now(), Text: text})
	}
}

func (r *record) flying(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.data.MostInFlight = max(r.data.MostInFlight, n)
}

func (r *record) late(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behind = max(r.behind, by)
}

// stop ends the time in which was asked: waiting for the last answers does not count in it.
func (r *record) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = time.Now()
}

func (r *record) report(closedIdle int64) *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.data
	out.Start, out.ClosedIdle, out.Late = r.start, closedIdle, r.behind
	out.Took = time.Since(r.start)
	if !r.stopped.IsZero() {
		out.Took = r.stopped.Sub(r.start)
	}
	out.Answers, out.Failures, out.Notes = slices.Clone(out.Answers), slices.Clone(out.Failures), slices.Clone(out.Notes)
	out.By = maps.Clone(r.byWho)
	return &out
}

// Report is what became of all requests.
type Report struct {
	Start time.Time
	Took  time.Duration
	// Asked is the number of requests, Failed of those among them that had no good answer.
	Asked, Failed int
	// ClosedIdle counts connections that the server closed while nothing was asked.
	ClosedIdle int64
	// MostInFlight is how many waited for an answer at a time.
	MostInFlight int64
	// Late is by how much this program was late in sending, at worst; 0 if it never was by more than a second.
	Late time.Duration
	// By counts answers by who gave them.
	By map[Who]int
	// Answers, Failures and Notes, the oldest, as far as they are kept; in the order in which they ended.
	Answers  []Answer
	Failures []Answer
	Notes    []Event
}

// Versions counts the good answers of requests that were sent in a time, by version. A time without end is until now.
func (r *Report) Versions(from, to time.Time) map[string]int {
	return r.count(from, to, func(a *Answer) string { return a.Who.Version })
}

// Partitions counts the good answers of requests that were sent in a time, by partition.
func (r *Report) Partitions(from, to time.Time) map[string]int {
	return r.count(from, to, func(a *Answer) string { return a.Who.Partition })
}

// Pods counts the good answers of requests that were sent in a time, by pod.
func (r *Report) Pods(from, to time.Time) map[string]int {
	return r.count(from, to, func(a *Answer) string { return a.Who.Pod })
}

func (r *Report) count(from, to time.Time, by func(*Answer) string) map[string]int {
	out := map[string]int{}
	for i := range r.Answers {
		a := &r.Answers[i]
		if a.Error == "" && !a.At.Before(from) && (to.IsZero() || a.At.Before(to)) {
			out[by(a)]++
		}
	}
	return out
}

// First gives the first good answer that is as wanted, of those sent after a time.
func (r *Report) First(after time.Time, wanted func(Answer) bool) (Answer, bool) {
	var first Answer
	for _, a := range r.Answers {
		if a.Error == "" && a.At.After(after) && wanted(a) && (first.At.IsZero() || a.At.Before(first.At)) {
			first = a
		}
	}
	return first, !first.At.IsZero()
}

// Last gives the last good answer that is as wanted.
func (r *Report) Last(wanted func(Answer) bool) (Answer, bool) {
	var last Answer
	for _, a := range r.Answers {
		if a.Error == "" && wanted(a) && a.At.After(last.At) {
			last = a
		}
	}
	return last, !last.At.IsZero()
}

// String tells the numbers in a line.
func (r *Report) String() string {
	var took []time.Duration
	for _, a := range r.Answers {
		if a.Error == "" && !strings.HasPrefix(a.Kind, "slow") {
			took = append(took, a.Took)
		}
	}
	slices.Sort(took)
	at := func(percent int) time.Duration {
		if len(took) == 0 {
			return 0
		}
		return took[(len(took)*percent-1)/100].Round(100 * time.Microsecond)
	}
	text := fmt.Sprintf("%d requests in %s, %d failed, %d connections closed while idle, at most %d in flight; P50 %s, P99 %s, longest %s",
		r.Asked, r.Took.Round(time.Second/10), r.Failed, r.ClosedIdle, r.MostInFlight, at(50), at(99), at(100))
	if r.Late > 0 {
		text += fmt.Sprintf("; sent up to %s late", r.Late.Round(time.Second/10))
	}
	return text
}

// Timeline lays failures, notes and other events side by side, by the time at which requests were sent. Failures that are
// alike and follow one another are one line.
func (r *Report) Timeline(events ...Event) string {
	all := slices.Concat(events, r.Notes)
	for _, f := range r.Failures {
		text := f.Error
		if f.Who != (Who{}) {
			text += fmt.Sprintf(" (%s of %s)", f.Who.Version, f.Who.Partition)
		}
		if f.Reused {
			text += kept
		}
		all = append(all, Event{At: f.At, Text: "FAILED " + f.Kind + " after " + f.Took.Round(time.Second/100).String() + ": " + text})
	}
	slices.SortStableFunc(all, func(a, b Event) int { return a.At.Compare(b.At) })
	var b strings.Builder
	lines, same := 0, 0
	for i, e := range all {
		if i > 0 && alike(all[i-1].Text, e.Text) {
			same++
			continue
		}
		if same > 0 {
			fmt.Fprintf(&b, "           … and %d like it\n", same)
			same = 0
		}
		if lines++; lines > maxLines {
			fmt.Fprintf(&b, "… and %d more\n", len(all)-i)
			return b.String()
		}
		fmt.Fprintf(&b, "%+10.3fs %s %s\n", e.At.Sub(r.Start).Seconds(), e.At.UTC().Format("15:04:05.000"), e.Text)
	}
	if same > 0 {
		fmt.Fprintf(&b, "           … and %d like it\n", same)
	}
	if more := r.Failed - len(r.Failures); more > 0 {
		fmt.Fprintf(&b, "… and %d failures more\n", more)
	}
	return b.String()
}

// alike says whether two failures differ in what does not matter only: times, ports.
func alike(a, b string) bool {
	if !strings.HasPrefix(a, "FAILED") || !strings.HasPrefix(b, "FAILED") {
		return false
	}
	plain := func(s string) string {
		_, s, _ = strings.Cut(s, ": ")
		s = strings.TrimSuffix(s, kept)
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, s)
	}
	return cmp.Compare(plain(a), plain(b)) == 0
}
