package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/rollout/command"
)

// newRolloutsCommand lists rollouts.
func newRolloutsCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/rollouts", Columns: []string{
		"tenant", "name", "application", "strategy", "phase", "moved", "partitions", "weight", "user", "createdAt", "message",
	}}, "rollouts", "List the rollouts of all tenants")
}

// newRolloutCommand is about one rollout.
func newRolloutCommand(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{Use: "rollout", Short: "Look at a rollout, or ask for it again", Args: cli.Args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	one := func(use, short string, output bool, run func(*command.Command, *cobra.Command, string) error) {
		c := &command.Command{Access: access}
		sub := &cobra.Command{
			Use: use, Short: short, Args: cli.Args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, args []string) error {
				c.Out = cmd.OutOrStdout()
				return run(c, cmd, args[0])
			},
		}
		access.Flags(sub.Flags())
		if output {
			c.Output.Flags(sub.Flags())
			cli.Complete(sub, "output", "table", "json", "yaml")
		}
		cmd.AddCommand(sub)
	}
	one("show APP|NAME", "Show a rollout, or the newest of an application: plan, partitions, steps", true,
		func(c *command.Command, cmd *cobra.Command, name string) error { return c.Show(cmd.Context(), name) })
	one("again APP", "Begin the newest rollout once more, which has failed, was aborted or refused", false,
		func(c *command.Command, cmd *cobra.Command, name string) error {
			return c.Again(cmd.Context(), name)
		})
	return cmd
}
