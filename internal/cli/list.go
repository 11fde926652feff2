package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// List shows a list that the server makes: it is sorted, searched and filtered there.
type List struct {
	Access *Access
	// Path of the list.
	Path string
	// Columns are the fields of its rows that the table shows.
	Columns []string

	output       Output
	search, sort string
	where        []string
}

// Flags adds the list's flags to a command.
func (l *List) Flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	l.output.Flags(flags)
	flags.StringVar(&l.search, "search", "", "only rows with this text")
	flags.StringVar(&l.sort, "sort", "", `field to sort by, with "-" before it from the highest`)
	flags.StringArrayVar(&l.where, "where", nil, "FIELD=VALUE, only rows in which the field is so (repeatable)")
	Complete(cmd, "output", "table", "json", "yaml")
	Complete(cmd, "sort", l.Columns...)
}

// Run reads the whole list, page by page, and prints it.
func (l *List) Run(ctx context.Context, out io.Writer) error {
	if err := l.output.Check(); err != nil {
		return err
	}
	query, err := l.query()
	if err != nil {
		return err
	}
	server, err := l.Access.Server(ctx)
	if err != nil {
		return err
	}
	rows := []map[string]any{}
	for page := 1; ; page++ {
		var answer struct {
			Items []map[string]any `json:"items"`
			Total int              `json:"total"`
		}
		query.Set("page", strconv.Itoa(page))
		if err := server.Call(ctx, http.MethodGet, l.Path, query, nil, &answer); err != nil {
			return err
		}
		rows = append(rows, answer.Items...)
		if len(rows) >= answer.Total || len(answer.Items) == 0 {
			return l.print(out, rows)
		}
	}
}

func (l *List) query() (url.Values, error) {
	const pageSize = "500"
	query := url.Values{"pageSize": {pageSize}}
	if l.search != "" {
		query.Set("search", l.search)
	}
	if l.sort != "" {
		query.Set("sort", l.sort)
	}
	for _, condition := range l.where {
		field, value, ok := strings.Cut(condition, "=")
		if !ok || field == "" {
			return nil, Usagef("--where %q: write FIELD=VALUE", condition)
		}
		query.Add(field, value)
	}
	return query, nil
}

func (l *List) print(out io.Writer, rows []map[string]any) error {
	return l.output.Print(out, rows, func(t *Table) {
		header := make([]string, len(l.Columns))
		for i, column := range l.Columns {
			header[i] = title(column)
		}
		t.Header(header...)
		for _, row := range rows {
			cells := make([]any, len(l.Columns))
			for i, column := range l.Columns {
				cells[i] = text(row[column])
			}
			t.Row(cells...)
		}
	})
}

// title makes a column's header of a field's name: nodePort becomes NODE PORT.
func title(field string) string {
	var title strings.Builder
	for i, r := range field {
		if i > 0 && r >= 'A' && r <= 'Z' && field[i-1] >= 'a' {
			title.WriteByte(' ')
		}
		title.WriteRune(r)
	}
	return strings.ToUpper(title.String())
}

// text shows a value of any JSON type in a cell.
func text(value any) string {
	switch value := value.(type) {
	case nil:
		return ""
	case string:
		return value
	case float64:
		return strconv.FormatFloat(value, 'f', -1, 64)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}
