package route

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/route/table"
)

// Bounds of durations.
const (
	leastTimeout, mostTimeout   = 10 * time.Millisecond, time.Hour
	leastOpen, mostOpen         = time.Second, time.Hour
	leastPeriod, mostPeriod     = time.Second, time.Hour
	leastInterval, mostInterval = 500 * time.Millisecond, time.Minute
	leastDelay, mostDelay       = time.Millisecond, 30 * time.Second
)

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_|~-]+$")

// validate finds what the schema cannot: contradictions inside a spec. All of them are named at once.
func validate(spec *v1alpha1.RouteSpec) error {
	var problems []string
	add := func(where string, found ...string) {
		for _, problem := range found {
			problems = append(problems, where+": "+problem)
		}
	}
	for _, host := range spec.Hosts {
		if rest, wildcard := strings.CutPrefix(host, "*."); wildcard && !strings.Contains(rest, ".") {
			add("hosts", fmt.Sprintf("%s would be a whole top-level domain: write one like *.example.%s", host, rest))
		}
	}
	for i := range spec.Rules {
		add("rule "+spec.Rules[i].Name, validateRule(&spec.Rules[i])...)
	}
	add("rules", validatePaths(spec)...)
	if spec.RateLimit != nil {
		add("rateLimit.period", within(spec.RateLimit.Period, leastPeriod, mostPeriod)...)
	}
	if spec.Health != nil {
		add("health.interval", within(spec.Health.Interval, leastInterval, mostInterval)...)
	}
	if f := spec.Fault; f != nil {
		if f.Delay != nil {
			add("fault.delay.duration", within(&f.Delay.Duration, leastDelay, mostDelay)...)
		}
		for i := range f.Matches {
			add(fmt.Sprintf("fault.matches[%d]", i), validateMatch(&f.Matches[i])...)
			if len(f.Matches[i].Languages) > 0 {
				add(fmt.Sprintf("fault.matches[%d]", i), "languages do not count here: match the header Accept-Language")
			}
		}
	}
	if problems != nil {
		return reconcile.Stall(v1alpha1.ReasonInvalid, "%s", strings.Join(problems, "; "))
	}
	return nil
}

func validateRule(rule *v1alpha1.RouteRule) (problems []string) {
	for i := range rule.Matches {
		problems = append(problems, validateMatch(&rule.Matches[i])...)
	}
	if r := rule.Redirect; r != nil {
		if r.Scheme == "" && r.Host == "" && r.Port == 0 && r.Path == "" {
			problems = append(problems, "the redirect leads to where the request came from: give it a scheme, host, port or path")
		}
		if rule.Rewrite != nil || rule.Mirror != nil || rule.Timeout != nil || rule.Retries > 0 || rule.CircuitBreaker != nil {
			problems = append(problems, "a redirect has no rewrite, mirror, timeout, retries or circuitBreaker: no backend is asked")
		}
	}
	if rule.Rewrite != nil && rule.Rewrite.Prefix != "" && !prefixesOnly(rule) {
		problems = append(problems, "rewrite.prefix needs a path of the type Prefix in each match")
	}
	for field, change := range map[string]*v1alpha1.HeaderChange{"requestHeaders": rule.RequestHeaders, "responseHeaders": rule.ResponseHeaders} {
		for _, problem := range validateHeaders(change) {
			problems = append(problems, field+": "+problem)
		}
	}
	slices.Sort(problems)
	for _, problem := range within(rule.Timeout, leastTimeout, mostTimeout) {
		problems = append(problems, "timeout: "+problem)
	}
	if rule.CircuitBreaker != nil {
		for _, problem := range within(rule.CircuitBreaker.OpenFor, leastOpen, mostOpen) {
			problems = append(problems, "circuitBreaker.openFor: "+problem)
		}
	}
	return problems
}

func prefixesOnly(rule *v1alpha1.RouteRule) bool {
	return !slices.ContainsFunc(rule.Matches, func(m v1alpha1.RouteMatch) bool {
		return m.Path != nil && m.Path.Type != v1alpha1.MatchPrefix && m.Path.Type != ""
	})
}

// validateHeaders keeps the headers that edge and gateway speak with out of users' hands.
func validateHeaders(change *v1alpha1.HeaderChange) (problems []string) {
	if change == nil {
		return nil
	}
	names := slices.Clone(change.Remove)
	for name, value := range change.Set {
		names = append(names, name)
		if len(value) > 1024 || strings.ContainsAny(value, "\r\n\x00") {
			problems = append(problems, fmt.Sprintf("the value of %s has more than 1024 bytes or more than one line", name))
		}
	}
	for _, name := range names {
		if !headerName.MatchString(name) || len(name) > 100 {
			problems = append(problems, fmt.Sprintf("%q is no name of a header", name))
		}
		if strings.HasPrefix(strings.ToLower(name), "yunfan-") {
			problems = append(problems, fmt.Sprintf("%s is the platform's own header", name))
		}
	}
	return problems
}

func validateMatch(m *v1alpha1.RouteMatch) (problems []string) {
	if m.Path != nil && m.Path.Type == v1alpha1.MatchRegularExpression {
		problems = append(problems, compiles("path", m.Path.Value)...)
	}
	for where, list := range map[string][]v1alpha1.ValueMatch{"header": m.Headers, "query parameter": m.Query, "cookie": m.Cookies} {
		for _, v := range list {
			if v.Type == v1alpha1.MatchRegularExpression {
				problems = append(problems, compiles(where+" "+v.Name, v.Value)...)
			}
			if where == "header" && strings.HasPrefix(strings.ToLower(v.Name), "yunfan-") && !strings.EqualFold(v.Name, v1alpha1.HeaderTrack) {
				problems = append(problems, fmt.Sprintf("header %s is the platform's own", v.Name))
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// compiles bounds what an expression costs: RE2 takes time in proportion to the text, and Go refuses repetitions of more
// than a thousand.
func compiles(where, expression string) []string {
	if _, err := regexp.Compile(expression); err != nil {
		return []string{fmt.Sprintf("the regular expression of the %s is none of RE2: %v", where, err)}
	}
	return nil
}

func within(d *metav1.Duration, least, most time.Duration) []string {
	if d != nil && (d.Duration < least || d.Duration > most) {
		return []string{fmt.Sprintf("%s is not from %s to %s", d.Duration, least, most)}
	}
	return nil
}

// validatePaths wants rules that lead to different applications to differ by path: the edge, which chooses the
// partition, looks at nothing else.
func validatePaths(spec *v1alpha1.RouteSpec) (problems []string) {
	type use struct{ rule, application string }
	first := map[table.Path]use{}
	backends := 0
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		if len(rule.Backends) == 0 {
			continue
		}
		backends++
		application := rule.Backends[0].Application
		for _, path := range rulePaths(rule) {
			was, taken := first[path]
			if !taken {
				first[path] = use{rule.Name, application}
			} else if was.application != application {
				problems = append(problems, fmt.Sprintf("rules %s and %s have the path %s and lead to different applications, %s and %s: let them differ by path",
					was.rule, rule.Name, path.Value, was.application, application))
			}
		}
	}
	if backends == 0 {
		problems = append(problems, "none has backends: redirects are answered by the gateways of an application, so write them into a route that leads to one")
	}
	return problems
}

// findBackends makes sure that what the rules name is there.
func findBackends(ctx context.Context, reader client.Reader, route *v1alpha1.Route) error {
	applications := map[string]*v1alpha1.Application{}
	var problems []string
	find := func(rule, application, component, port string) error {
		app, asked := applications[application]
		if !asked {
			app = &v1alpha1.Application{}
			err := reader.Get(ctx, client.ObjectKey{Namespace: route.Namespace, Name: application}, app)
			if apierrors.IsNotFound(err) {
				app = nil
			} else if err != nil {
				return fmt.Errorf("reading application %s: %w", application, err)
			}
			applications[application] = app
		}
		if problem := missing(app, application, component, port); problem != "" {
			problems = append(problems, fmt.Sprintf("rule %s: %s", rule, problem))
		}
		return nil
	}
	for i := range route.Spec.Rules {
		rule := &route.Spec.Rules[i]
		for _, b := range rule.Backends {
			if err := find(rule.Name, b.Application, b.Component, b.Port); err != nil {
				return err
			}
		}
		if rule.Mirror != nil && len(rule.Backends) > 0 {
			if err := find(rule.Name, rule.Backends[0].Application, rule.Mirror.Component, rule.Mirror.Port); err != nil {
				return err
			}
		}
	}
	if problems != nil {
		return reconcile.Stall(v1alpha1.ReasonApplicationNotFound, "%s", strings.Join(slices.Compact(problems), "; "))
	}
	return nil
}

// missing says what an application lacks of a backend; empty if nothing.
func missing(app *v1alpha1.Application, application, component, port string) string {
	if app == nil {
		return fmt.Sprintf("there is no application %s in this tenant", application)
	}
	at := slices.IndexFunc(app.Spec.Components, func(c v1alpha1.Component) bool { return c.Name == component })
	if at < 0 {
		return fmt.Sprintf("application %s has no component %s", application, component)
	}
	service := app.Spec.Components[at].Service
	if service == nil || len(service.Ports) == 0 {
		return fmt.Sprintf("component %s of application %s has no service: give it one with a port", component, application)
	}
	if port != "" && !slices.ContainsFunc(service.Ports, func(p v1alpha1.ServicePort) bool { return p.Name == port }) {
		names := make([]string, len(service.Ports))
		for i := range service.Ports {
			names[i] = service.Ports[i].Name
		}
		return fmt.Sprintf("the service of component %s of application %s has no port %s, but %s", component, application, port, cmp.Or(strings.Join(names, ", "), "none"))
	}
	return ""
}
