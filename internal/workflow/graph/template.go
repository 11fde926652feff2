package graph

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"yunfan.io/yunfan/api/v1alpha1"
)

// template is a value whose texts may hold expressions.
type template struct {
	raw    json.RawMessage // of a value without expressions
	parts  []part          // of a text with expressions
	fields map[string]template
	list   []template
}

// part of a text: letters as they are, or an expression.
type part struct {
	letters string
	x       *expression
}

// template compiles a value. What is wrong with it is told.
func (s *scope) template(path *field.Path, raw json.RawMessage, want v1alpha1.ValueType) (template, bool) {
	value, err := decode(raw)
	if err != nil {
		s.addf(path, "%v", err)
		return template{}, false
	}
	if value == nil {
		return template{raw: json.RawMessage("null")}, true
	}
	if !strings.Contains(string(raw), "${{") && !strings.Contains(string(raw), `\u00`) {
		return template{raw: raw}, true
	}
	return s.node(path, value, want)
}

func (s *scope) node(path *field.Path, value any, want v1alpha1.ValueType) (template, bool) {
	switch v := value.(type) {
	case string:
		return s.parts(path, v, want)
	case []any:
		t, fine := template{list: make([]template, len(v))}, true
		for i := range v {
			var ok bool
			t.list[i], ok = s.node(path.Index(i), v[i], "")
			fine = fine && ok
		}
		return t, fine
	case map[string]any:
		t, fine := template{fields: map[string]template{}}, true
		for _, name := range sorted(v) {
			var ok bool
			t.fields[name], ok = s.node(path.Child(brief(name)), v[name], "")
			fine = fine && ok
		}
		return t, fine
	}
	raw, err := encode(value)
	if err != nil {
		s.addf(path, "%v", err)
	}
	return template{raw: raw}, err == nil
}

// parts takes a text apart. A text that is one expression keeps the expression's type; $${{ stands for ${{.
func (s *scope) parts(path *field.Path, text string, want v1alpha1.ValueType) (template, bool) {
	pieces, err := scan(text)
	if err != nil {
		s.addf(path, "%v", err)
		return template{}, false
	}
	if len(pieces) == 0 || len(pieces) == 1 && !pieces[0].code {
		letters := ""
		if len(pieces) == 1 {
			letters = pieces[0].text
		}
		raw, err := encode(letters)
		return template{raw: raw}, err == nil
	}
	whole := len(pieces) == 1
	if !whole && want != "" && want != v1alpha1.TypeString {
		s.addf(path, "it must be %s, but is a text with expressions in it: write one expression and nothing else", article(want))
		return template{}, false
	}
	t, fine := template{}, true
	for _, piece := range pieces {
		if !piece.code {
			t.parts = append(t.parts, part{letters: piece.text})
			continue
		}
		x := s.parse(path, piece.text)
		if x == nil {
			fine = false
			continue
		}
		x.text, x.want = !whole, want
		t.parts = append(t.parts, part{x: x})
	}
	return t, fine
}

type piece struct {
	text string
	code bool
}

// scan finds the expressions of a text.
func scan(text string) ([]piece, error) {
	var pieces []piece
	var letters strings.Builder
	flush := func() {
		if letters.Len() > 0 {
			pieces = append(pieces, piece{text: letters.String()})
			letters.Reset()
		}
	}
	for {
		at := strings.Index(text, "${{")
		if at < 0 {
			letters.WriteString(text)
			flush()
			return pieces, nil
		}
		if at > 0 && text[at-1] == '$' {
			letters.WriteString(text[:at-1] + "${{")
			text = text[at+3:]
			continue
		}
		letters.WriteString(text[:at])
		flush()
		length, ok := closing(text[at+3:])
		if !ok {
			return nil, errors.New("${{ without }}: write $${{ where it is meant as text")
		}
		source := strings.TrimSpace(text[at+3 : at+3+length])
		if source == "" {
			return nil, errors.New("${{ }} without an expression")
		}
		pieces = append(pieces, piece{text: source, code: true})
		text = text[at+3+length+2:]
	}
}

// closing is where an expression ends: at the first }} that is neither in a text of CEL's nor closes a map of it.
func closing(text string) (int, bool) {
	braces := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\'', '"':
			n, ok := quoted(text[i:], i > 0 && (text[i-1] == 'r' || text[i-1] == 'R'))
			if !ok {
				return 0, false
			}
			i += n - 1
		case '{':
			braces++
		case '}':
			if braces == 0 {
				return i, strings.HasPrefix(text[i:], "}}")
			}
			braces--
		}
	}
	return 0, false
}

// quoted is how long the text in quotation marks is that begins here, in bytes. A raw one has no escapes.
func quoted(text string, raw bool) (int, bool) {
	mark := text[:1]
	if strings.HasPrefix(text, strings.Repeat(mark, 3)) {
		mark = text[:3]
	}
	for i := len(mark); i < len(text); i++ {
		if text[i] == '\\' && !raw {
			i++
		} else if strings.HasPrefix(text[i:], mark) {
			return i + len(mark), true
		}
	}
	return 0, false
}

// fill gives the value with its expressions replaced.
func (e *evaluation) fill(path *field.Path, t template) (json.RawMessage, *field.Error) {
	switch {
	case t.raw != nil:
		return t.raw, nil
	case t.list != nil:
		return e.fillList(path, t.list)
	case t.fields != nil:
		return e.fillObject(path, t.fields)
	case len(t.parts) == 1:
		raw, err := e.json(t.parts[0].x)
		if err != nil {
			return nil, wrong(path, err)
		}
		return raw, nil
	}
	var text strings.Builder
	for _, part := range t.parts {
		text.WriteString(part.letters)
		if part.x != nil {
			value, err := e.letters(part.x)
			if err != nil {
				return nil, wrong(path, err)
			}
			text.WriteString(value)
		}
		if text.Len() > MaxInputs {
			return nil, wrong(path, errTooLarge)
		}
	}
	raw, err := encode(text.String())
	if err != nil {
		return nil, wrong(path, err)
	}
	return raw, nil
}

func wrong(path *field.Path, err error) *field.Error {
	return field.Invalid(path, field.OmitValueType{}, err.Error())
}

func (e *evaluation) fillList(path *field.Path, list []template) (json.RawMessage, *field.Error) {
	raw := json.RawMessage("[")
	for i, element := range list {
		if i > 0 {
			raw = append(raw, ',')
		}
		value, err := e.fill(path.Index(i), element)
		if err != nil {
			return nil, err
		}
		if raw = append(raw, orNull(value)...); len(raw) > MaxInputs {
			return nil, wrong(path, errTooLarge)
		}
	}
	return append(raw, ']'), nil
}

func (e *evaluation) fillObject(path *field.Path, fields map[string]template) (json.RawMessage, *field.Error) {
	raw := json.RawMessage("{")
	for i, name := range sorted(fields) {
		if i > 0 {
			raw = append(raw, ',')
		}
		value, wrongThere := e.fill(path.Child(brief(name)), fields[name])
		if wrongThere != nil {
			return nil, wrongThere
		}
		key, err := encode(name)
		if err != nil {
			return nil, wrong(path, err)
		}
		raw = append(append(append(raw, key...), ':'), orNull(value)...)
		if len(raw) > MaxInputs {
			return nil, wrong(path, errTooLarge)
		}
	}
	return append(raw, '}'), nil
}

func orNull(raw json.RawMessage) json.RawMessage {
	if null(raw) {
		return json.RawMessage("null")
	}
	return raw
}

// letters evaluates an expression to a part of a text: nothing for null, JSON for lists and objects.
func (e *evaluation) letters(x *expression) (string, error) {
	if v := e.graph.variables[x.plain]; x.plain != "" && v.value != v1alpha1.TypeString && v.kind != ofOutputs {
		raw := e.raw(v)
		value, err := decode(raw)
		if err != nil || value == nil {
			return "", err
		}
		if text, ok := value.(string); ok {
			return text, nil
		}
		return strings.TrimSpace(string(raw)), nil
	}
	value, err := e.value(x)
	if err != nil {
		return "", err
	}
	switch v := value.(type) {
	case types.String:
		return string(v), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(v), nil
	case types.Null:
		return "", nil
	case types.Timestamp, types.Duration:
		text, ok := value.ConvertToType(types.StringType).(types.String)
		if !ok {
			return "", errors.New("the result is no time")
		}
		return string(text), nil
	}
	w := &writer{}
	if err := w.write(value, 0); err != nil {
		return "", err
	}
	return string(w.text), nil
}
