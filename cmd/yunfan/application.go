package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/application/command"
	"yunfan.io/yunfan/internal/cli"
)

// verb makes a sub-command that acts on one application.
func verb(access *cli.Access, use, short string, args cobra.PositionalArgs, run func(*command.Command, *cobra.Command, []string) error) (*cobra.Command, *command.Command) {
	c := &command.Command{Access: access}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cli.Args(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Out, c.Progress = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return run(c, cmd, args)
		},
	}
	access.Flags(cmd.Flags())
	return cmd, c
}

// changing makes a sub-command that changes one application and can wait for it.
func changing(access *cli.Access, use, short string, args cobra.PositionalArgs, run func(*command.Command, *cobra.Command, []string) error) *cobra.Command {
	cmd, c := verb(access, use, short, args, run)
	c.Wait.Flags(cmd.Flags(), true)
	return cmd
}

func newStatusCommand(access *cli.Access) *cobra.Command {
	cmd, c := verb(access, "status APPLICATION", "Show an application in all its partitions, and why it is not ready", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Status(cmd.Context(), args[0])
		})
	c.Output.Flags(cmd.Flags())
	c.Wait.Flags(cmd.Flags(), false)
	cli.Complete(cmd, "output", "table", "json", "yaml")
	return cmd
}

func newRevisionsCommand(access *cli.Access) *cobra.Command {
	cmd, c := verb(access, "revisions APPLICATION", "List the revisions of an application", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Revisions(cmd.Context(), args[0])
		})
	c.Output.Flags(cmd.Flags())
	cli.Complete(cmd, "output", "table", "json", "yaml")
	return cmd
}

func newScaleCommand(access *cli.Access) *cobra.Command {
	return changing(access, "scale APPLICATION COMPONENT=N...", "Set numbers of replicas, over all partitions together", cobra.MinimumNArgs(2),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Scale(cmd.Context(), args[0], args[1:])
		})
}

func newStopCommand(access *cli.Access) *cobra.Command {
	return changing(access, "stop APPLICATION", "Take away all pods of an application; services, volumes and node ports stay", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Stop(cmd.Context(), args[0])
		})
}

func newStartCommand(access *cli.Access) *cobra.Command {
	return changing(access, "start APPLICATION", "Bring the pods of a stopped application back", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Start(cmd.Context(), args[0])
		})
}

func newRestartCommand(access *cli.Access) *cobra.Command {
	return changing(access, "restart APPLICATION [COMPONENT...]", "Replace the pods of an application, with the newest versions of its configurations", cobra.MinimumNArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Restart(cmd.Context(), args[0], args[1:])
		})
}

func newRollbackCommand(access *cli.Access) *cobra.Command {
	to := ""
	cmd := changing(access, "rollback APPLICATION", "Go back to an earlier revision", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Rollback(cmd.Context(), args[0], to)
		})
	cmd.Flags().StringVar(&to, "to", "", "number or name of the revision (default: the one before the present)")
	return cmd
}

func newPreviewCommand(access *cli.Access) *cobra.Command {
	file := ""
	cmd, c := verb(access, "preview -f FILE", "Show what an Application would create, change and remove in each partition; nothing is done", cobra.NoArgs,
		func(c *command.Command, cmd *cobra.Command, _ []string) error {
			return c.Preview(cmd.Context(), cmd.InOrStdin(), file)
		})
	c.Output.Flags(cmd.Flags())
	cmd.Flags().StringVarP(&file, "filename", "f", "", `file with the Application, "-" for standard input`)
	cli.Complete(cmd, "output", "table", "json", "yaml")
	if err := cmd.MarkFlagRequired("filename"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func newLogsCommand(access *cli.Access) *cobra.Command {
	o := command.LogOptions{}
	cmd, _ := verb(access, "logs APPLICATION", "Show the logs of an application's pods in all partitions at once", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Logs(cmd.Context(), args[0], o)
		})
	flags := cmd.Flags()
	flags.BoolVarP(&o.Follow, "follow", "f", false, "go on until Ctrl-C, with pods that come later, too")
	flags.IntVar(&o.Tail, "tail", 0, "last lines of each container (default 100)")
	flags.StringVar(&o.Component, "component", "", "only this component")
	flags.StringVar(&o.Partition, "partition", "", "only this partition")
	flags.StringVar(&o.Container, "container", "", "only containers of this name")
	flags.BoolVar(&o.Previous, "previous", false, "of the container's run before the present one")
	flags.BoolVar(&o.Timestamps, "timestamps", false, "with the time of each line")
	return cmd
}
