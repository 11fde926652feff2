package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"yunfan.io/yunfan/api/v1alpha1"
)

var allTypes = []v1alpha1.ValueType{v1alpha1.TypeString, v1alpha1.TypeInteger, v1alpha1.TypeNumber, v1alpha1.TypeBoolean, v1alpha1.TypeObject, v1alpha1.TypeList}

// known says whether the type is one of ours; none is any.
func known(t v1alpha1.ValueType) bool { return t == "" || slices.Contains(allTypes, t) }

// decode reads a value with its numbers as they are written. Text that no database could keep is refused.
func decode(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not UTF-8")
	}
	if deep(raw) {
		return nil, fmt.Errorf("it is nested deeper than %d", MaxDepth)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("it is not JSON: %s", brief(err.Error()))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it is more than one JSON value")
	}
	if zero(value) {
		return nil, errors.New("it holds a character with the code 0")
	}
	return value, nil
}

// deep says whether brackets are nested too deep, without going into the value.
func deep(raw []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}

// zero says whether a text in the value holds NUL.
func zero(value any) bool {
	switch v := value.(type) {
	case string:
		return strings.ContainsRune(v, 0)
	case []any:
		return slices.ContainsFunc(v, zero)
	case map[string]any:
		for key, value := range v {
			if strings.ContainsRune(key, 0) || zero(value) {
				return true
			}
		}
	}
	return false
}

// conform reads a value and says why it is none of that type.
func conform(raw json.RawMessage, want v1alpha1.ValueType, enum []string) error {
	value, err := decode(raw)
	if err != nil {
		return err
	}
	return fits(value, want, enum)
}

// fits says why a value is none of that type.
func fits(value any, want v1alpha1.ValueType, enum []string) error {
	ok, why := true, ""
	switch want {
	case v1alpha1.TypeString:
		_, ok = value.(string)
	case v1alpha1.TypeInteger:
		number, is := value.(json.Number)
		if _, err := strconv.ParseInt(number.String(), 10, 64); !is || err != nil {
			ok = false
		}
		if is && !ok {
			why = ": it must be whole, written without point or exponent, and fit 64 bits"
		}
	case v1alpha1.TypeNumber:
		_, ok = value.(json.Number)
	case v1alpha1.TypeBoolean:
		_, ok = value.(bool)
	case v1alpha1.TypeObject:
		_, ok = value.(map[string]any)
	case v1alpha1.TypeList:
		_, ok = value.([]any)
	}
	if !ok {
		return fmt.Errorf("it must be %s, but is %s%s", article(want), kind(value), why)
	}
	if text, is := value.(string); is && len(enum) > 0 && !slices.Contains(enum, text) {
		return fmt.Errorf("%q is not one of %s", brief(text), brief(strings.Join(enum, ", ")))
	}
	return nil
}

func article(t v1alpha1.ValueType) string {
	if t == v1alpha1.TypeInteger || t == v1alpha1.TypeObject {
		return "an " + string(t)
	}
	return "a " + string(t)
}

// kind names what a value is, in the words of the types.
func kind(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case string:
		return "a String"
	case bool:
		return "a Boolean"
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "the Number " + brief(v.String())
		}
		return "the Integer " + brief(v.String())
	case map[string]any:
		return "an Object"
	}
	return "a List"
}

// encode writes a value as JSON, with < and > as they are.
func encode(value any) (json.RawMessage, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

// null says whether a value is as good as not given.
func null(raw json.RawMessage) bool {
	return len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null"
}

// sorted gives the names of values in order.
func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// size of values together, in bytes of JSON.
func size(values map[string]json.RawMessage) int {
	n := 2
	for name, raw := range values {
		n += len(name) + len(raw) + 4
	}
	return n
}
