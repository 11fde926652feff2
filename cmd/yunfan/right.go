package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/right/command"
)

func newCanICommand(access *cli.Access) *cobra.Command {
	ask := &command.CanI{Access: access}
	cmd := &cobra.Command{
		Use:   "can-i VERB RESOURCE [NAME]",
		Short: "Ask whether you may do something, by which rule, or what is missing",
		Long: "Ask whether you may do something on the hub or, with --partition or --cluster, on a cluster.\n\n" +
			"The answer names the role and the memberships through which it comes, or what is missing and who gives it. Exit code 5 means no.",
		Example: "  yunfan can-i create applications -n edu\n  yunfan can-i create pods/exec -n edu --partition prod-bj\n" +
			"  yunfan can-i deploy partitions prod-bj -n edu --as li",
		Args: cli.Args(cobra.RangeArgs(2, 3)),
		RunE: func(cmd *cobra.Command, args []string) error { return ask.Run(cmd.Context(), cmd.OutOrStdout(), args) },
	}
	access.Flags(cmd.Flags())
	ask.Output.Flags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&ask.Question.Partition, "partition", "", "partition of the tenant, in its cluster")
	flags.StringVar(&ask.Question.Cluster, "cluster", "", "cluster, in place of the hub")
	flags.StringVar(&ask.Question.Namespace, "namespace", "", "namespace of the cluster")
	flags.StringVar(&ask.Question.User, "as", "", "another user: for platform administrators, and Admins of his tenant")
	cli.Complete(cmd, "output", "table", "json", "yaml")
	return cmd
}
