// Package health looks at the platform's own parts: since when each of them works, or does not, and what to do. Every
// replica of the server looks by itself, so that one that stands alone still tells.
package health

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// interval is how often everything is looked at: what stops is told well within a minute.
	interval = 10 * time.Second
	// checkTime is how long one check may take.
	checkTime = 5 * time.Second
)

// State of a component.
type State string

// The states.
const (
	OK       State = "OK"
	Degraded State = "Degraded" // it works, and somebody should look before it does not
	Failed   State = "Failed"
)

// Component is one part of the platform.
type Component struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Since is when this server saw the state first.
	Since   metav1.Time `json:"since"`
	Message string      `json:"message,omitempty"`
	// Advice says what to do; empty for one that works.
	Advice string `json:"advice,omitempty"`
}

// Check looks at one part, or several of a kind.
type Check struct {
	// Name of the part; of several, what they are called together if they cannot be looked at.
	Name string
	// Advice for a failure.
	Advice string
	// Look gives the parts. Its error is the state of the part itself.
	Look func(ctx context.Context) ([]Component, error)
	// Every is how often it is looked at; as often as everything if 0.
	Every time.Duration
}

// Monitor looks at everything again and again.
type Monitor struct {
	Checks     []Check
	Authorizer *rest.Authorizer

	mu     sync.Mutex
	parts  map[string][]Component // by check
	looked map[string]time.Time
}

// NeedLeaderElection says that every replica looks.
func (m *Monitor) NeedLeaderElection() bool { return false }

// Start looks until ctx ends.
func (m *Monitor) Start(ctx context.Context) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		m.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look runs all checks that are due at once: one that hangs costs only itself.
func (m *Monitor) look(ctx context.Context) {
	var wg sync.WaitGroup
	for _, check := range m.Checks {
		m.mu.Lock()
		due := time.Since(m.looked[check.Name]) >= check.Every
		m.mu.Unlock()
		if !due {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTime)
			defer cancel()
			found, err := check.Look(ctx)
			if err != nil {
				found = []Component{{Name: check.Name, State: Failed, Message: err.Error(), Advice: check.Advice}}
			}
			m.take(check, found)
		})
	}
	wg.Wait()
}

// take remembers what a check found, and since when it is so.
func (m *Monitor) take(check Check, found []Component) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.parts == nil {
		m.parts, m.looked = map[string][]Component{}, map[string]time.Time{}
	}
	for i := range found {
		c := &found[i]
		c.Since = metav1.Now()
		before := slices.IndexFunc(m.parts[check.Name], func(o Component) bool { return o.Name == c.Name })
		if before >= 0 && m.parts[check.Name][before].State == c.State {
			c.Since = m.parts[check.Name][before].Since
		}
		if c.Advice == "" && c.State != OK {
			c.Advice = check.Advice
		}
	}
	m.parts[check.Name], m.looked[check.Name] = found, time.Now()
}

// All gives the parts as they were seen last, in the order of the checks.
func (m *Monitor) All() []Component {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Component
	for _, check := range m.Checks {
		all = append(all, m.parts[check.Name]...)
	}
	return all
}

// Routes are the monitor's.
func (m *Monitor) Routes() []rest.Route {
	return []rest.Route{{Pattern: "GET /api/v1/health", Handler: rest.Get(func(r *http.Request) (rest.Page[Component], error) {
		if err := m.Authorizer.Require(r.Context(), authorizationv1.ResourceAttributes{
			Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "health",
		}); err != nil {
			return rest.Page[Component]{}, err
		}
		return rest.Paginate(m.All(), r.URL.Query(), fields...)
	})}}
}

// worse is the order in which a list is read: what does not work first.
var worse = map[State]int{Failed: 0, Degraded: 1, OK: 2}

var fields = []rest.Field[Component]{
	{Name: "state", Text: func(c Component) string { return string(c.State) }, Compare: func(a, b Component) int { return worse[a.State] - worse[b.State] }},
	{Name: "name", Text: func(c Component) string { return c.Name }},
	{Name: "since", Text: func(c Component) string { return c.Since.UTC().Format(time.RFC3339) }},
	{Name: "message", Text: func(c Component) string { return c.Message }},
	{Name: "advice", Text: func(c Component) string { return c.Advice }},
}

// one is a part that works, with what is worth knowing of it.
func one(name, format string, args ...any) []Component {
	return []Component{{Name: name, State: OK, Message: fmt.Sprintf(format, args...)}}
}

// ofCondition is a part that tells of itself by a Ready condition.
func ofCondition(name string, ready *metav1.Condition) Component {
	switch {
	case ready == nil:
		return Component{Name: name, State: Degraded, Message: "nothing is known of it yet"}
	case ready.Status == metav1.ConditionTrue:
		return Component{Name: name, State: OK}
	}
	return Component{Name: name, State: Failed, Message: strings.TrimSpace(ready.Reason + ": " + ready.Message)}
}
