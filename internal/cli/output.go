package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Output is the format a command prints in.
type Output struct{ format string }

// Flags adds -o.
func (o *Output) Flags(flags *pflag.FlagSet) {
	flags.StringVarP(&o.format, "output", "o", "table", "table, json or yaml")
}

// Check refuses an unknown format.
func (o *Output) Check() error {
	switch o.format {
	case "", "table", "json", "yaml":
		return nil
	}
	return Usagef("--output %q: give table, json or yaml", o.format)
}

// Table says that a table is wanted.
func (o *Output) Table() bool { return o.format == "table" || o.format == "" }

// Print writes v as JSON or YAML, or calls table to write it as a table.
func (o *Output) Print(w io.Writer, v any, table func(*Table)) error {
	if err := o.Check(); err != nil {
		return err
	}
	if o.Table() {
		t := &Table{}
		table(t)
		return t.Write(w)
	}
	write := writeJSON
	if o.format == "yaml" {
		write = writeYAML
	}
	return write(w, v)
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return nil
}

func writeYAML(w io.Writer, v any) error {
	text, err := yaml.Marshal(v)
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		return fmt.Errorf("writing YAML: %w", err)
	}
	return nil
}

// Table is rows of text under a header.
type Table struct {
	header []string
	rows   [][]string
}

// Header sets the names of the columns.
func (t *Table) Header(names ...string) { t.header = names }

// Row adds a row; empty cells are shown as "-".
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		// A cell is one line: what Kubernetes says of an object may have several.
		if row[i] = strings.Join(strings.Fields(fmt.Sprint(cell)), " "); row[i] == "" || row[i] == "<nil>" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// Write writes the table, without spaces at the end of lines.
func (t *Table) Write(w io.Writer) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, "None found.")
		return err
	}
	var text strings.Builder
	tab := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{t.header}, t.rows...) {
		fmt.Fprintln(tab, strings.Join(row, "\t"))
	}
	if err := tab.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return fmt.Errorf("writing the table: %w", err)
		}
	}
	return nil
}

// Complete makes a flag's values known to shell completion.
func Complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag's name is written one line above the call
	}
}
