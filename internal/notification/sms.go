package notification

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
)

// maxSMS is how long a text message is at most, in characters: gateways make several of longer ones, and charge them.
const maxSMS = 300

var place = regexp.MustCompile(`\{\{\s*([A-Za-z]+)\s*\}\}`)

// escape makes a value fit for the place where it is put.
type escape func(string) string

// fill puts values into the places of a template. Nothing in a value is a place again.
func fill(template string, values map[string]string, escaped escape) (string, error) {
	var unknown string
	out := place.ReplaceAllStringFunc(template, func(found string) string {
		name := place.FindStringSubmatch(found)[1]
		value, known := values[name]
		if !known {
			unknown = name
		}
		return escaped(value)
	})
	if unknown != "" {
		return "", fmt.Errorf("there is no place {{%s}}: there are %s", unknown, strings.Join(slices.Sorted(maps.Keys(values)), ", "))
	}
	return out, nil
}

func escapeJSON(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		return "" // a text is always JSON
	}
	return string(quoted[1 : len(quoted)-1])
}

func escapeXML(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a buffer takes everything
	return b.String()
}

// escapeURL is right in a path and in a query.
func escapeURL(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// escapeHeader keeps a value on its line.
func escapeHeader(text string) string { return oneLine(text) }

// formats are how values are escaped in a body, and what it is called.
var formats = map[v1alpha1.SMSBodyFormat]struct {
	escaped     escape
	contentType string
}{
	v1alpha1.BodyJSON: {escapeJSON, "application/json; charset=utf-8"},
	v1alpha1.BodyForm: {url.QueryEscape, "application/x-www-form-urlencoded; charset=utf-8"},
	v1alpha1.BodyXML:  {escapeXML, "text/xml; charset=utf-8"},
	v1alpha1.BodyText: {func(text string) string { return text }, "text/plain; charset=utf-8"},
}

// sendSMS hands a text message to a gateway.
func (s *Service) sendSMS(ctx context.Context, e *envelope) error {
	provider, err := s.provider(ctx, e, v1alpha1.ProviderSMS)
	if err != nil {
		return err
	}
	secret, err := s.secretOf(ctx, provider)
	if err != nil {
		return err
	}
	if !phone.MatchString(e.Address) {
		return permanent("the phone's number is none")
	}
	request, err := s.gatewayRequest(ctx, provider.Spec.SMS, e, secret)
	if err != nil {
		return scrubbed(sick("provider %s: %w", provider.Name, err), secret, url.QueryEscape(secret))
	}
	if err := s.gateway(provider.Spec.SMS, request); err != nil {
		f := *failureOf(err)
		f.error = fmt.Errorf("provider %s: %w", provider.Name, err)
		return scrubbed(&f, secret, url.QueryEscape(secret))
	}
	return nil
}

// gatewayRequest fills in what a gateway is asked.
func (s *Service) gatewayRequest(ctx context.Context, p *v1alpha1.SMSProvider, e *envelope, secret string) (*http.Request, error) {
	now := s.Now().UTC()
	values := map[string]string{
		"phone": e.Address, "digits": strings.TrimPrefix(e.Address, "+"), "title": e.Texts.Title[e.Language],
		"text": shortText(e.Texts.Title[e.Language], e.Texts.Text[e.Language]),
		"id":   e.ID, "topic": e.Topic, "tenant": e.Tenant, "time": now.Format(time.RFC3339), "timestamp": strconv.FormatInt(now.Unix(), 10), "secret": secret,
	}
	address, err := fill(p.URL, values, escapeURL)
	if err != nil {
		return nil, fmt.Errorf("filling in url: %w", err)
	}
	format, known := formats[p.BodyFormat]
	if !known {
		format = formats[v1alpha1.BodyJSON]
	}
	body, err := fill(p.Body, values, format.escaped)
	if err != nil {
		return nil, fmt.Errorf("filling in body: %w", err)
	}
	if p.BodyFormat == v1alpha1.BodyJSON && body != "" && !json.Valid([]byte(body)) {
		return nil, fmt.Errorf("the body is no JSON when it is filled in: places stand between quotes, as in {\"to\": \"{{phone}}\"}")
	}
	method := p.Method
	if method == "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the url cannot be read when it is filled in")
	}
	request.Header.Set("User-Agent", userAgent)
	if body != "" {
		request.Header.Set("Content-Type", format.contentType)
	}
	for _, header := range p.Headers {
		value, err := fill(header.Value, values, escapeHeader)
		if err != nil {
			return nil, fmt.Errorf("filling in header %s: %w", header.Name, err)
		}
		request.Header.Set(header.Name, value)
	}
	return request, nil
}

// shortText is title and text as one text message.
func shortText(title, text string) string {
	all := []rune(title + "\n" + text)
	if len(all) > maxSMS {
		all = append(all[:maxSMS-1], '…')
	}
	return string(all)
}

// gateway asks, and judges the answer.
func (s *Service) gateway(p *v1alpha1.SMSProvider, request *http.Request) error {
	roots, err := rootsOf(p.CABundle)
	if err != nil {
		return sick("reading caBundle: %w", err)
	}
	response, err := outbound.NewClient(s.Policy, outbound.Options{Timeout: s.Schedule.Attempt, MaxBody: maxAnswer, Roots: roots}).Do(request)
	if err != nil {
		return sick("%w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return sick("reading the gateway's answer: %w", err)
	}
	if len(p.ExpectedStatus) > 0 && !slices.Contains(p.ExpectedStatus, int32(response.StatusCode)) || response.StatusCode/100 != 2 {
		if err := answered(response); err != nil {
			f := *failureOf(err)
			// A gateway that is gone can be brought back: nobody's message is lost for good by it.
			f.permanent, f.gone = false, false
			return &f
		}
		return sick("it answered with status %d, which is none of those expected", response.StatusCode)
	}
	if p.ExpectedBody == "" {
		return nil
	}
	expected, err := regexp.Compile(p.ExpectedBody)
	if err != nil {
		return sick("expectedBody is no regular expression: %w", err)
	}
	if !expected.Match(text) {
		// What it says may have the phone's number or a token in it.
		return &failure{error: fmt.Errorf("its answer does not match expectedBody")}
	}
	return nil
}
