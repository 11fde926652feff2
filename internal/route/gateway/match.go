package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// maxHeaders and maxQuery are what a match of an HTTPRoute can have.
	maxHeaders, maxQuery = 16, 16
	// maxExpression bounds a compiled expression: each is asked of every request.
	maxExpression = 2000
)

// errNever says that no request is both of two kinds.
var errNever = errors.New("no request matches both")

// path is one kind of paths, normalised: a prefix has no slash at its end, and the prefix of all paths is empty.
type path struct {
	kind  v1alpha1.MatchType
	value string
}

// anyPath is the path of matches that say none.
var anyPath = path{kind: v1alpha1.MatchPrefix}

// condition is one header or query parameter.
type condition struct {
	name, value string
	regex       bool
}

// match is one kind of requests, as a gateway can tell them: cookies, languages and clients are headers.
type match struct {
	path    path
	method  string
	headers []condition
	query   []condition
}

// newMatch translates one match of a Route.
func newMatch(m *v1alpha1.RouteMatch) (match, error) {
	out := match{path: anyPath, method: m.Method}
	if m.Path != nil {
		out.path = path{kind: m.Path.Type, value: m.Path.Value}
		switch m.Path.Type {
		case v1alpha1.MatchRegularExpression:
			if _, err := compile(m.Path.Value); err != nil {
				return match{}, fmt.Errorf("path %q: %w", m.Path.Value, err)
			}
		case v1alpha1.MatchExact:
		default:
			out.path = path{kind: v1alpha1.MatchPrefix, value: strings.TrimRight(m.Path.Value, "/")}
		}
	}
	for _, h := range m.Headers {
		c, err := valueCondition("header", h)
		if err != nil {
			return match{}, err
		}
		if name := http.CanonicalHeaderKey(h.Name); name == "Host" || strings.HasPrefix(name, "Yunfan-") {
			return match{}, fmt.Errorf("header %s cannot be matched: hosts are the Route's, and headers that begin with Yunfan- the platform's", h.Name)
		}
		out.headers = append(out.headers, c)
	}
	for _, q := range m.Query {
		c, err := valueCondition("query parameter", q)
		if err != nil {
			return match{}, err
		}
		out.query = append(out.query, c)
	}
	for _, c := range m.Cookies {
		expression, err := cookieExpression(c)
		if err != nil {
			return match{}, fmt.Errorf("cookie %s: %w", c.Name, err)
		}
		out.headers = append(out.headers, condition{name: "Cookie", value: expression, regex: true})
	}
	if len(m.Languages) > 0 {
		out.headers = append(out.headers, condition{name: "Accept-Language", value: languageExpression(m.Languages), regex: true})
	}
	if len(m.Clients) > 0 {
		out.headers = append(out.headers, condition{name: table.HeaderClient, value: table.NetworkName(m.Clients)})
	}
	return out, nil
}

func valueCondition(kind string, v v1alpha1.ValueMatch) (condition, error) {
	c := condition{name: v.Name, value: v.Value, regex: v.Type == v1alpha1.MatchRegularExpression}
	if c.regex {
		if _, err := compile(v.Value); err != nil {
			return condition{}, fmt.Errorf("%s %s: %w", kind, v.Name, err)
		}
	}
	return c, nil
}

// compile reads an expression as gateways do, and refuses those that are large: RE2 needs time and memory in proportion
// to the size of its program, never more.
func compile(expression string) (*syntax.Regexp, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%q is no regular expression: %w", expression, err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%q is no regular expression: %w", expression, err)
	}
	if len(program.Inst) > maxExpression {
		return nil, fmt.Errorf("expression %q is too large: write it without long repetitions", expression)
	}
	return parsed, nil
}

// cookieExpression looks for one cookie in the header Cookie.
func cookieExpression(c v1alpha1.ValueMatch) (string, error) {
	begin := `(?:^|;\s*)` + regexp.QuoteMeta(c.Name) + `=`
	const end = `\s*(?:;|$)`
	if c.Type != v1alpha1.MatchRegularExpression {
		return begin + `"?` + regexp.QuoteMeta(c.Value) + `"?` + end, nil
	}
	parsed, err := compile(c.Value)
	if err != nil {
		return "", err
	}
	parts := []*syntax.Regexp{parsed}
	if parsed.Op == syntax.OpConcat {
		parts = parsed.Sub
	}
	before, after := `[^;]*`, `[^;]*`
	if parts[0].Op == syntax.OpBeginText || parts[0].Op == syntax.OpBeginLine {
		parts, before = parts[1:], ""
	}
	if n := len(parts); n > 0 && (parts[n-1].Op == syntax.OpEndText || parts[n-1].Op == syntax.OpEndLine) {
		parts, after = parts[:n-1], ""
	}
	var inner strings.Builder
	for _, part := range parts {
		if err := keepInCookie(part); err != nil {
			return "", err
		}
		inner.WriteString("(?:" + part.String() + ")")
	}
	out := begin + before + inner.String() + after + end
	if _, err := compile(out); err != nil {
		return "", err
	}
	return out, nil
}

// keepInCookie lets an expression not run over the end of the cookie into the next.
func keepInCookie(e *syntax.Regexp) error {
	switch e.Op {
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText:
		return errors.New("^ and $ are understood at the very beginning and end only: write ^(?:a|b)$ for ^a$|^b$")
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		e.Op, e.Rune = syntax.OpCharClass, []rune{0, ';' - 1, ';' + 1, 0x10FFFF}
	case syntax.OpCharClass:
		e.Rune = without(e.Rune, ';')
	default:
		for _, sub := range e.Sub {
			if err := keepInCookie(sub); err != nil {
				return err
			}
		}
	}
	return nil
}

// without takes one letter out of the ranges of a class.
func without(ranges []rune, letter rune) []rune {
	var out []rune
	for i := 0; i+1 < len(ranges); i += 2 {
		low, high := ranges[i], ranges[i+1]
		if letter < low || letter > high {
			out = append(out, low, high)
			continue
		}
		if low < letter {
			out = append(out, low, letter-1)
		}
		if letter < high {
			out = append(out, letter+1, high)
		}
	}
	return out
}

// languageExpression looks for a language that the client accepts, also as one of its dialects: zh is in zh-CN.
func languageExpression(languages []string) string {
	quoted := make([]string, 0, len(languages))
	for _, language := range slices.Sorted(slices.Values(languages)) {
		quoted = append(quoted, regexp.QuoteMeta(language))
	}
	return `(?i)(?:^|,)\s*(?:` + strings.Join(quoted, "|") + `)(?:-[a-z0-9]+)*\s*(?:$|,|;\s*q=(?:1|0?\.[0-9]*[1-9]))`
}

// and is what is both of two kinds.
func (m match) and(other match) (match, error) {
	out := match{method: m.method, headers: slices.Clone(m.headers), query: slices.Clone(m.query)}
	if m.method == "" {
		out.method = other.method
	} else if other.method != "" && other.method != m.method {
		return match{}, errNever
	}
	var err error
	if out.path, err = m.path.and(other.path); err != nil {
		return match{}, err
	}
	for _, c := range other.headers {
		if !slices.Contains(out.headers, c) {
			out.headers = append(out.headers, c)
		}
	}
	for _, c := range other.query {
		same := slices.IndexFunc(out.query, func(have condition) bool { return have.name == c.name })
		switch {
		case same < 0:
			out.query = append(out.query, c)
		case out.query[same] != c:
			return match{}, fmt.Errorf("query parameter %s is compared twice for the same requests: leave it out of one of the two", c.name)
		}
	}
	return out, nil
}

// and is what is below both paths.
func (p path) and(other path) (path, error) {
	switch {
	case p == other, other == anyPath:
		return p, nil
	case p == anyPath:
		return other, nil
	case p.kind == v1alpha1.MatchRegularExpression || other.kind == v1alpha1.MatchRegularExpression:
		return p.andExpression(other)
	case p.holds(other):
		return other, nil
	case other.holds(p):
		return p, nil
	}
	return path{}, errNever
}

// andExpression is what is in a path and in an expression, where that can be said.
func (p path) andExpression(other path) (path, error) {
	if p.kind == v1alpha1.MatchRegularExpression {
		p, other = other, p
	}
	if p.kind != v1alpha1.MatchExact {
		return path{}, fmt.Errorf("path %s and the expression %s cannot be had together: leave out one of the two", p.value, other.value)
	}
	if matched, err := regexp.MatchString(other.value, p.value); err != nil || !matched {
		return path{}, errNever
	}
	return p, nil
}

// holds says whether a prefix, or an exact path, has all paths of another one.
func (p path) holds(other path) bool {
	if p.kind == v1alpha1.MatchExact || other.kind == v1alpha1.MatchRegularExpression {
		return p == other
	}
	return other.value == p.value || strings.HasPrefix(other.value, p.value+"/")
}

// gateway writes the match as an HTTPRoute has it.
func (m match) gateway() (gatewayv1.HTTPRouteMatch, error) {
	if len(m.headers) > maxHeaders || len(m.query) > maxQuery {
		return gatewayv1.HTTPRouteMatch{}, fmt.Errorf("more than %d headers, cookies and languages, or %d query parameters, for the same requests: use fewer", maxHeaders, maxQuery)
	}
	out := gatewayv1.HTTPRouteMatch{Path: m.path.gateway()}
	if m.method != "" {
		method := gatewayv1.HTTPMethod(m.method)
		out.Method = &method
	}
	written := map[string]bool{}
	for _, c := range m.headers {
		name, ok := respell(c.name, written)
		if !ok {
			return gatewayv1.HTTPRouteMatch{}, fmt.Errorf("header %s is compared too often for the same requests: use fewer", c.name)
		}
		kind := gatewayv1.HeaderMatchExact
		if c.regex {
			kind = gatewayv1.HeaderMatchRegularExpression
		}
		out.Headers = append(out.Headers, gatewayv1.HTTPHeaderMatch{Type: &kind, Name: gatewayv1.HTTPHeaderName(name), Value: c.value})
	}
	for _, c := range m.query {
		kind := gatewayv1.QueryParamMatchExact
		if c.regex {
			kind = gatewayv1.QueryParamMatchRegularExpression
		}
		out.QueryParams = append(out.QueryParams, gatewayv1.HTTPQueryParamMatch{Type: &kind, Name: gatewayv1.HTTPHeaderName(c.name), Value: c.value})
	}
	return out, nil
}

// gateway writes the path as an HTTPRoute has it: as an expression where the standard would refuse the path.
func (p path) gateway() *gatewayv1.HTTPPathMatch {
	kind, value := gatewayv1.PathMatchPathPrefix, p.value
	switch {
	case p.kind == v1alpha1.MatchRegularExpression:
		kind = gatewayv1.PathMatchRegularExpression
	case p == anyPath:
		value = "/"
	case !plainPath.MatchString(value) || oddPath.MatchString(value):
		kind, value = gatewayv1.PathMatchRegularExpression, p.expression()
	case p.kind == v1alpha1.MatchExact:
		kind = gatewayv1.PathMatchExact
	}
	return &gatewayv1.HTTPPathMatch{Type: &kind, Value: &value}
}

// plainPath and oddPath are what the standard allows, and what of that it does not.
var (
	plainPath = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)
	oddPath   = regexp.MustCompile(`//|/\.\.?(?:/|$)|%2[fF]|#`)
)

// expression is the path as a regular expression.
func (p path) expression() string {
	switch p.kind {
	case v1alpha1.MatchRegularExpression:
		return p.value
	case v1alpha1.MatchExact:
		return "^" + regexp.QuoteMeta(p.value) + "$"
	default:
		return "^" + regexp.QuoteMeta(p.value) + "(?:/.*)?$"
	}
}

// respell gives a name of a header that is not written yet: an HTTPRoute has each spelling once, and to a gateway all of
// them are the same header. So one header can be compared several times, as cookies are.
func respell(name string, written map[string]bool) (string, bool) {
	const tries = 64
	letters := []byte(name)
	for number := range tries {
		bits := number
		for i, letter := range letters {
			if lower := letter | 0x20; lower >= 'a' && lower <= 'z' {
				if bits&1 == 1 {
					letters[i] = name[i] ^ 0x20
				} else {
					letters[i] = name[i]
				}
				bits >>= 1
			}
		}
		if spelled := string(letters); bits == 0 && !written[spelled] {
			written[spelled] = true
			return spelled, true
		}
	}
	return "", false
}
