package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"yunfan.io/yunfan/internal/audit/command"
	"yunfan.io/yunfan/internal/cli"
)

func newAuditCommand(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Who changed what: list, export and verify", Args: cli.Args(cobra.NoArgs)}
	cmd.AddCommand(newAuditListCommand(access), newAuditExportCommand(access), newAuditVerifyCommand(access))
	access.Flags(cmd.PersistentFlags())
	return cmd
}

// auditFilters adds a flag for each filter of the API.
func auditFilters(c *command.Command, flags *pflag.FlagSet) {
	c.Filters = map[string]*string{}
	for _, filter := range [][2]string{
		{"user", "only what this user did"}, {"cluster", "only on this cluster"},
		{"resource", "only of this kind, as applications"}, {"name", "only of this object"}, {"action", "only this, as create or exec"},
		{"result", "only Succeeded, Refused, Failed, Unknown or Pending"}, {"search", "only rows with this text"},
		{"from", "only since this time, as 2026-01-31T08:00:00Z"}, {"to", "only before this time"},
	} {
		c.Filters[filter[0]] = flags.String(filter[0], "", filter[1])
	}
}

func newAuditListCommand(access *cli.Access) *cobra.Command {
	const rows = 50
	c := &command.Command{Access: access}
	cmd := &cobra.Command{
		Use: "list", Short: "List what was changed, read of secrets, refused and signed in, the newest first", Args: cli.Args(cobra.NoArgs),
		Example: `  yunfan audit list --user li --result Refused
  yunfan audit list -n edu --resource applications --from 2026-01-31T08:00:00Z -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Out, c.Filters["tenant"] = cmd.OutOrStdout(), &access.Namespace
			return c.List(cmd.Context())
		},
	}
	auditFilters(c, cmd.Flags())
	c.Output.Flags(cmd.Flags())
	cmd.Flags().IntVar(&c.Limit, "limit", rows, "how many rows at most")
	cli.Complete(cmd, "output", "table", "json", "yaml")
	return cmd
}

func newAuditExportCommand(access *cli.Access) *cobra.Command {
	c, format := &command.Command{Access: access}, ""
	cmd := &cobra.Command{
		Use: "export", Short: "Write all rows as JSON, one a line with the states before and after, or as CSV", Args: cli.Args(cobra.NoArgs),
		Example: `  yunfan audit export --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z >january.jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Out, c.Filters["tenant"] = cmd.OutOrStdout(), &access.Namespace
			return c.Export(cmd.Context(), format)
		},
	}
	auditFilters(c, cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "jsonl", "jsonl or csv")
	cli.Complete(cmd, "format", "jsonl", "csv")
	return cmd
}

func newAuditVerifyCommand(access *cli.Access) *cobra.Command {
	c, records, alone := &command.Command{Access: access}, "", false
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that no row was changed, removed, inserted or cut off", Args: cli.Args(cobra.NoArgs),
		Long: `Check that no row was changed, removed, inserted or cut off.

It reads the database itself, not through the server, and compares it with the anchors that the servers keep on the hub.
Exit code 1 says that something was found.`,
		Example: `  yunfan audit verify
  yunfan audit verify --records postgres://reader:…@db.example.com/yunfan --kubeconfig hub.kubeconfig`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Out = cmd.OutOrStdout()
			if records == "" {
				records = access.Records()
			}
			return c.Verify(cmd.Context(), records, alone)
		},
	}
	cmd.Flags().StringVar(&records, "records", "", "the server's database (default: that of the instance of --data-dir)")
	cmd.Flags().BoolVar(&alone, "without-hub", false, "do not compare with the hub's anchors")
	c.Output.Flags(cmd.Flags())
	cli.Complete(cmd, "output", "table", "json", "yaml")
	return cmd
}
