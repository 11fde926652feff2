// Package command is the command line of audit: rows are listed and exported by the server, and verified without it.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/record"
)

const (
	path           = "/api/v1/audit"
	hubNamespace   = "yunfan-system"
	timeInTable    = "2006-01-02 15:04:05"
	rowsAtOnce     = 500
	verifyPatience = 30 * time.Minute
)

// Command is what the sub-commands have in common.
type Command struct {
	Access *cli.Access
	Output cli.Output
	// Filters are what rows must be, by the names of the API: user, tenant, result and so on.
	Filters map[string]*string
	// Limit is how many rows List prints at most.
	Limit int
	// Out is where the result goes.
	Out io.Writer
}

func (c *Command) query() url.Values {
	query := url.Values{}
	for name, value := range c.Filters {
		if *value != "" {
			query.Set(name, *value)
		}
	}
	return query
}

// List prints the newest rows.
func (c *Command) List(ctx context.Context) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	rows, query := []audit.Row{}, c.query() // before the kubeconfig gives a namespace that nobody asked for
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	for len(rows) < c.Limit {
		query.Set("pageSize", fmt.Sprint(min(rowsAtOnce, c.Limit-len(rows))))
		var page audit.Page
		if err := server.Call(ctx, http.MethodGet, path, query, nil, &page); err != nil {
			return err
		}
		rows = append(rows, page.Items...)
		if page.Next == "" {
			break
		}
		query.Set("next", page.Next)
	}
	return c.Output.Print(c.Out, rows, func(t *cli.Table) {
		t.Header("TIME", "USER", "ADDRESS", "ACTION", "RESOURCE", "NAME", "TENANT", "CLUSTER", "RESULT", "CODE", "REASON")
		for _, r := range rows {
			resource := r.Resource
			if r.Subresource != "" {
				resource += "/" + r.Subresource
			}
			t.Row(r.Time.Local().Format(timeInTable), r.User, r.Address, r.Action, resource, r.Name, r.Tenant, r.Cluster, r.Result, r.Code, r.Reason)
		}
	})
}

// Export writes all rows as JSON lines or CSV.
func (c *Command) Export(ctx context.Context, format string) error {
	query := c.query()
	query.Set("format", format)
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	answer, err := server.Stream(ctx, http.MethodGet, path+"/export", query, nil)
	if err != nil {
		return err
	}
	defer answer.Close()
	if _, err := io.Copy(c.Out, answer); err != nil {
		return fmt.Errorf("exporting rows of audit: %w", err)
	}
	return nil
}

// Verify checks the chains in the database itself, and the hub's anchors unless alone.
func (c *Command) Verify(ctx context.Context, location string, alone bool) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	db, err := record.OpenToRead(ctx, location)
	if err != nil {
		return err
	}
	report, err := c.verify(ctx, db, alone)
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := c.print(report); err != nil {
		return err
	}
	if len(report.Findings) > 0 {
		return fmt.Errorf("audit was tampered with, or its database damaged: %d findings", len(report.Findings))
	}
	return nil
}

func (c *Command) verify(ctx context.Context, db *record.Database, alone bool) (*audit.Report, error) {
	if alone {
		return audit.Verify(ctx, db, nil)
	}
	hub, err := c.Access.Client()
	if err != nil {
		return nil, err
	}
	return audit.Verify(ctx, db, &audit.Anchors{Hub: hub, Database: db, Namespace: hubNamespace})
}

func (c *Command) print(report *audit.Report) error {
	if !c.Output.Table() {
		return c.Output.Print(c.Out, report, nil)
	}
	for _, f := range report.Findings {
		var where []string
		if f.Row != "" {
			where = append(where, "row "+f.Row)
		}
		if f.Writer != "" {
			where = append(where, "writer "+f.Writer)
		}
		fmt.Fprintf(c.Out, "FOUND  %s: %s\n", strings.Join(where, ", "), f.Problem)
	}
	fmt.Fprintf(c.Out, "%s: %d links in %d chains checked, %d findings\n", report.Database, report.Links, report.Writers, len(report.Findings))
	if report.Anchored {
		fmt.Fprintf(c.Out, "The hub's anchors were compared; the newest %d links have none yet.\n", report.Unanchored)
	} else {
		fmt.Fprintln(c.Out, "The hub's anchors were not compared: a chain that was cut off and repaired is not found.")
	}
	return nil
}
