package builtin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// secretRef names what a request authenticates itself with.
type secretRef struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Scheme string `json:"scheme"`
}

// The schemes of the header Authorization.
const (
	schemeBearer = "Bearer"
	schemeBasic  = "Basic"
	schemeNone   = "None"
)

// secret reads the credential, for whom it is to use: those who work in the whole tenant. Others could have values sent
// to themselves that are in no partition of theirs.
func (h *request) secret(ctx context.Context, call *action.Call, ref *secretRef) (*credential, error) {
	if ref == nil {
		return nil, nil
	}
	if ref.Name == "" || !slices.Contains([]string{"", schemeBearer, schemeBasic, schemeNone}, ref.Scheme) {
		return nil, action.Failed(errors.New("secretRef: it needs a name, and its scheme is Bearer, Basic or None"))
	}
	tenant := call.Run.Namespace
	may, err := h.may(ctx, call.User, authorizationv1.ResourceAttributes{
		Verb: "list", Group: v1alpha1.GroupVersion.Group, Resource: "secrets", Namespace: tenant,
	})
	if err != nil {
		return nil, fmt.Errorf("asking whether %s may use secret %s: %w", v1alpha1.PlainName(call.User.Name), ref.Name, err)
	}
	if !may {
		return nil, action.Failed(fmt.Errorf("%s may not use secrets of tenant %s in requests: it takes a role in the whole tenant", v1alpha1.PlainName(call.User.Name), tenant))
	}
	values, err := h.secrets.Values(ctx, tenant, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", ref.Name, err)
	}
	c, err := newCredential(*ref, values)
	if err != nil {
		return nil, action.Failed(fmt.Errorf("secret %s: %w", ref.Name, err))
	}
	return c, nil
}

// credential is the value of the header Authorization, and every form in which it must be seen by nobody. Nil hides nothing.
type credential struct {
	header string
	forms  []string // the longest first
}

func newCredential(ref secretRef, values map[string][]byte) (*credential, error) {
	user, hasUser := values[corev1.BasicAuthUsernameKey]
	password, hasPassword := values[corev1.BasicAuthPasswordKey]
	if ref.Scheme == schemeBasic || ref.Scheme == "" && ref.Key == "" && hasUser && hasPassword {
		if !hasUser || !hasPassword {
			return nil, errors.New("it needs the keys username and password")
		}
		pair := string(user) + ":" + string(password)
		return credentialOf("Basic "+base64.StdEncoding.EncodeToString([]byte(pair)), pair, string(password))
	}
	if ref.Key == "" && len(values) == 1 {
		for key := range values {
			ref.Key = key
		}
	}
	raw, ok := values[ref.Key]
	if !ok {
		return nil, errors.New("it has not the key that is asked for: name one of its keys in key")
	}
	value := strings.TrimSpace(string(raw))
	if ref.Scheme == schemeNone {
		return credentialOf(value, value)
	}
	return credentialOf("Bearer "+value, value)
}

// credentialOf knows a secret also as servers write it when they repeat what they were sent.
func credentialOf(header string, secrets ...string) (*credential, error) {
	if !headerValue(header) {
		return nil, errors.New("its value has characters that no header has, such as the end of a line")
	}
	c := &credential{header: header}
	_, bare, _ := strings.Cut(header, " ")
	for _, s := range append(secrets, header, bare) {
		quoted, err := json.Marshal(s)
		if err != nil {
			return nil, errors.New("its value is no text")
		}
		c.forms = append(c.forms, s, strings.Trim(string(quoted), `"`), url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s),
			hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s))),
			base64.StdEncoding.EncodeToString([]byte(s)), base64.RawStdEncoding.EncodeToString([]byte(s)),
			base64.URLEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s)))
	}
	slices.SortFunc(c.forms, func(a, b string) int { return len(b) - len(a) })
	c.forms = slices.DeleteFunc(unique(c.forms), func(s string) bool { return s == "" })
	if len(c.forms) == 0 {
		return nil, errors.New("its value is empty")
	}
	return c, nil
}

const hidden = "***"

func (c *credential) longest() int {
	if c == nil {
		return 0
	}
	return len(c.forms[0])
}

// hide takes every form of the secret out of a text.
func (c *credential) hide(text string) string {
	if c == nil {
		return text
	}
	for _, form := range c.forms {
		text = strings.ReplaceAll(text, form, hidden)
	}
	// Escapes can be written in more ways than are worth listing.
	for _, plain := range []string{unquote(text), html.UnescapeString(text), unescape(text)} {
		if plain != text && slices.ContainsFunc(c.forms, func(form string) bool { return strings.Contains(plain, form) }) {
			return hidden
		}
	}
	return text
}

var (
	jsonEscape = regexp.MustCompile(`\\u[0-9a-fA-F]{4}|\\.`)
	urlEscape  = regexp.MustCompile(`%[0-9a-fA-F]{2}`)
)

// unquote takes the escapes of JSON out of a text, wherever in it they are.
func unquote(text string) string {
	return jsonEscape.ReplaceAllStringFunc(text, func(escape string) string {
		var plain string
		if json.Unmarshal([]byte(`"`+escape+`"`), &plain) != nil {
			return escape
		}
		return plain
	})
}

// unescape takes the escapes of URLs out of a text, wherever in it they are.
func unescape(text string) string {
	return urlEscape.ReplaceAllStringFunc(text, func(escape string) string {
		plain, err := hex.DecodeString(escape[1:])
		if err != nil {
			return escape
		}
		return string(plain)
	})
}

// hideIn takes the secret out of an error's text. Of the error only whether it is final stays.
func (c *credential) hideIn(err error) error {
	text := err.Error()
	if c.hide(text) == text {
		return err
	}
	clean := errors.New(c.hide(text))
	if action.IsFailed(err) {
		return action.Failed(clean)
	}
	return clean
}

// hideInBody gives what is kept of an answer: parsed if it is JSON that is not too long, else the beginning as a text.
func (c *credential) hideInBody(text []byte, contentType string) any {
	if kind, _, err := mime.ParseMediaType(contentType); err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json")) && len(text) <= maxAnswer {
		var value any
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if decoder.Decode(&value) == nil && !decoder.More() {
			return c.hideInValue(value)
		}
	}
	return cut(strings.ToValidUTF8(c.hide(string(text)), "�"), maxAnswer)
}

// hideInValue takes the secret out of every text of a JSON value, as whatever it was written.
func (c *credential) hideInValue(value any) any {
	if c == nil {
		return value
	}
	switch v := value.(type) {
	case string:
		return c.hide(v)
	case []any:
		for i := range v {
			v[i] = c.hideInValue(v[i])
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, one := range v {
			out[c.hide(key)] = c.hideInValue(one)
		}
		return out
	case json.Number:
		if text := v.String(); c.hide(text) != text {
			return hidden
		}
	}
	return value
}
