package rest

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Pages of lists.
const (
	defaultPageSize = 50
	maxPageSize     = 500
)

// Page is a part of a list, with the size of the whole.
type Page[T any] struct {
	Items    []T `json:"items"`
	Total    int `json:"total"`
	Page     int `json:"page"`
	PageSize int `json:"pageSize"`
}

// Field is something rows are sorted, searched and filtered by.
type Field[T any] struct {
	// Name in the query.
	Name string
	// Text of a row, for filters and search.
	Text func(T) string
	// Texts is for a field with several values: a filter must meet one of them.
	Texts func(T) []string
	// Compare sorts; by the text if nil.
	Compare func(a, b T) int
}

// Paginate gives the page of rows that the query asks for: page (from 1), pageSize, sort (a field's name, with "-"
// before it from the highest), search (in the text of any field, whatever the case), and any field's name with the text
// it must have, or several of them. The first field is the order of rows that are otherwise equal.
func Paginate[T any](rows []T, query url.Values, fields ...Field[T]) (Page[T], error) {
	q, err := parse(query, fields)
	if err != nil {
		return Page[T]{}, err
	}
	rows = slices.DeleteFunc(slices.Clone(rows), func(row T) bool { return !q.matches(row) })
	slices.SortStableFunc(rows, func(a, b T) int {
		order := q.sort.compare(a, b)
		if q.down {
			order = -order
		}
		return cmp.Or(order, fields[0].compare(a, b))
	})
	page := Page[T]{Items: []T{}, Total: len(rows), Page: q.page, PageSize: q.size}
	if from := (q.page - 1) * q.size; from < len(rows) {
		page.Items = rows[from:min(from+q.size, len(rows))]
	}
	return page, nil
}

func (f Field[T]) compare(a, b T) int {
	if f.Compare != nil {
		return f.Compare(a, b)
	}
	return slices.Compare(f.texts(a), f.texts(b))
}

func (f Field[T]) texts(row T) []string {
	if f.Texts != nil {
		return f.Texts(row)
	}
	return []string{f.Text(row)}
}

type pageQuery[T any] struct {
	fields     []Field[T]
	filters    map[int][]string
	search     string
	sort       Field[T]
	down       bool
	page, size int
}

func (q *pageQuery[T]) matches(row T) bool {
	for i, wanted := range q.filters {
		if !slices.ContainsFunc(q.fields[i].texts(row), func(text string) bool { return slices.Contains(wanted, text) }) {
			return false
		}
	}
	return q.search == "" || slices.ContainsFunc(q.fields, func(f Field[T]) bool {
		return strings.Contains(strings.ToLower(strings.Join(f.texts(row), "\n")), q.search)
	})
}

func parse[T any](query url.Values, fields []Field[T]) (*pageQuery[T], error) {
	q := &pageQuery[T]{fields: fields, filters: map[int][]string{}, sort: fields[0], page: 1, size: defaultPageSize}
	find := func(name string) int {
		return slices.IndexFunc(fields, func(f Field[T]) bool { return f.Name == name })
	}
	for _, key := range slices.Sorted(maps.Keys(query)) {
		var err error
		values := query[key]
		switch value := values[len(values)-1]; key {
		case "search":
			q.search = strings.ToLower(value)
		case "page":
			q.page, err = number(key, value, 1_000_000)
		case "pageSize":
			q.size, err = number(key, value, maxPageSize)
		case "sort":
			name, down := strings.CutPrefix(value, "-")
			if q.down = down; find(name) < 0 {
				return nil, unknownField(name, fields)
			}
			q.sort = fields[find(name)]
		default:
			if find(key) < 0 {
				return nil, unknownField(key, fields)
			}
			q.filters[find(key)] = values
		}
		if err != nil {
			return nil, err
		}
	}
	return q, nil
}

func number(key, value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("%s=%q: give a number from 1 to %d", key, value, most))
	}
	return n, nil
}

func unknownField[T any](name string, fields []Field[T]) error {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return apierrors.NewBadRequest(fmt.Sprintf("there is no field %q: sort and filter by %s; further there are search, page, pageSize and sort",
		name, strings.Join(names, ", ")))
}
