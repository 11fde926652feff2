// Package command is the command line's part of routes: who gets which requests, and what the edges serve.
package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
)

const mostRows = "500"

// Routes makes the sub-command that shows Routes with the share of each partition.
func Routes(access *cli.Access) *cobra.Command {
	s := &show{access: access}
	cmd := &cobra.Command{
		Use: "routes", Short: "List routes: hosts, applications, the share of each partition and what is under way there", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.routes(cmd.Context(), cmd.OutOrStdout()) },
	}
	s.flags(cmd)
	return cmd
}

// Edges makes the sub-command that shows the replicas of edges.
func Edges(access *cli.Access) *cobra.Command {
	s := &show{access: access}
	cmd := &cobra.Command{
		Use: "edges", Short: "List the replicas of edges, whether they serve the newest table, and what is under way there", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.edges(cmd.Context(), cmd.OutOrStdout()) },
	}
	s.flags(cmd)
	return cmd
}

// show is what both have.
type show struct {
	access *cli.Access
	output cli.Output
	search string
}

func (s *show) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	s.output.Flags(flags)
	s.access.Flags(flags)
	flags.StringVar(&s.search, "search", "", "only rows with this text")
	cli.Complete(cmd, "output", "table", "json", "yaml")
}

// target is a partition as a replica of an edge has it.
type target struct {
	Application string `json:"application"`
	Partition   string `json:"partition"`
	InFlight    int    `json:"inFlight"`
}

func (s *show) ask(ctx context.Context, path string, answer any) error {
	server, err := s.access.Server(ctx)
	if err != nil {
		return err
	}
	query := url.Values{"pageSize": {mostRows}}
	if s.search != "" {
		query.Set("search", s.search)
	}
	if err := server.Call(ctx, http.MethodGet, path, query, nil, answer); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func (s *show) routes(ctx context.Context, out io.Writer) error {
	var page struct {
		Items []struct {
			Tenant     string   `json:"tenant"`
			Name       string   `json:"name"`
			Hosts      []string `json:"hosts"`
			NotAfter   string   `json:"notAfter,omitempty"`
			Partitions []struct {
				Application string `json:"application"`
				Partition   string `json:"partition"`
				State       string `json:"state"`
				Share       int    `json:"share"`
				Message     string `json:"message,omitempty"`
			} `json:"partitions,omitempty"`
			Targets   []target `json:"targets,omitempty"`
			Addresses []string `json:"addresses,omitempty"`
			Ready     string   `json:"ready"`
			Reason    string   `json:"reason,omitempty"`
			Message   string   `json:"message,omitempty"`
		} `json:"items"`
		Total int `json:"total"`
	}
	if err := s.ask(ctx, "/api/v1/routes", &page); err != nil {
		return err
	}
	return s.output.Print(out, page.Items, func(t *cli.Table) {
		t.Header("TENANT", "ROUTE", "HOSTS", "READY", "REASON", "CERTIFICATE UNTIL", "APPLICATION", "PARTITION", "STATE", "SHARE", "IN FLIGHT")
		for _, r := range page.Items {
			hosts := strings.Join(r.Hosts, ",")
			if len(r.Partitions) == 0 {
				t.Row(r.Tenant, r.Name, hosts, r.Ready, r.Reason, r.NotAfter, "", "", "", "", "")
			}
			for _, p := range r.Partitions {
				flying := 0
				for _, target := range r.Targets {
					if target.Application == p.Application && target.Partition == r.Tenant+"/"+p.Partition {
						flying += max(0, target.InFlight)
					}
				}
				t.Row(r.Tenant, r.Name, hosts, r.Ready, r.Reason, r.NotAfter, p.Application, p.Partition, p.State, fmt.Sprintf("%d%%", p.Share), flying)
			}
		}
	})
}

func (s *show) edges(ctx context.Context, out io.Writer) error {
	var page struct {
		Items []struct {
			Edge        string   `json:"edge"`
			Driver      string   `json:"driver"`
			Endpoint    string   `json:"endpoint"`
			Addresses   []string `json:"addresses,omitempty"`
			Program     string   `json:"program,omitempty"`
			Serving     bool     `json:"serving"`
			Message     string   `json:"message,omitempty"`
			Unsupported []string `json:"unsupported,omitempty"`
			InFlight    int      `json:"inFlight"`
			Targets     []target `json:"targets,omitempty"`
		} `json:"items"`
		Total int `json:"total"`
	}
	if err := s.ask(ctx, "/api/v1/edges", &page); err != nil {
		return err
	}
	return s.output.Print(out, page.Items, func(t *cli.Table) {
		t.Header("EDGE", "DRIVER", "ENDPOINT", "ADDRESSES", "PROGRAM", "SERVING", "IN FLIGHT", "MESSAGE")
		for _, r := range page.Items {
			t.Row(r.Edge, r.Driver, r.Endpoint, strings.Join(r.Addresses, ","), r.Program, r.Serving, r.InFlight, r.Message)
		}
	})
}
