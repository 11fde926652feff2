package main

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/haproxy"
	"yunfan.io/yunfan/internal/route/nginx"
	"yunfan.io/yunfan/internal/route/traefik"
)

// edgeDrivers are the load balancers that `yunfan edge` can run.
var edgeDrivers = map[string]edge.New{"haproxy": haproxy.New, "nginx": nginx.New, "traefik": traefik.New}

func newEdgeCommand() *cobra.Command {
	o := edge.Options{Drivers: edgeDrivers}
	cmd := &cobra.Command{
		Use:   "edge --dir DIR --listen HOST:PORT",
		Short: "Run a load balancer in front of all clusters, driven by the server",
		Long: `Run a load balancer in front of all clusters, driven by the server.

Requests arrive at --http and --https; the server brings tables to the interface at --listen, over HTTPS and with the token
in --token-file, or in DIR/token, which is made at the first start. The last table is kept in DIR: the edge serves without
the server. When it is asked to end, it takes nothing new and lets what is under way end for --drain.`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := absolute(&o.Dir); err != nil {
				return err
			}
			o.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			return edge.Run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Dir, "dir", "", "directory that holds the table, the token, the certificate and the load balancer's files")
	flags.StringVar(&o.Driver, "driver", "haproxy", "load balancer: "+strings.Join(slices.Sorted(maps.Keys(edgeDrivers)), ", "))
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8444", "address of the interface that the server speaks to")
	flags.StringVar(&o.HTTP, "http", ":80", "address for requests without TLS; none if empty")
	flags.StringVar(&o.HTTPS, "https", ":443", "address for requests with TLS; none if empty")
	flags.StringVar(&o.TokenFile, "token-file", "", "file with the token of the interface (default DIR/token, made if it is missing)")
	flags.StringVar(&o.Program, "program", "", "the load balancer's program (default: found where Debian has it)")
	flags.DurationVar(&o.Drain, "drain", time.Minute, "how long requests may still take when the edge is asked to end")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
