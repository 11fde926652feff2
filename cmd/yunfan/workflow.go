package main

import (
	"time"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/workflow/command"
)

const (
	runPatience      = time.Hour
	decisionPatience = 30 * time.Second
)

// onRun makes a sub-command of workflows.
func onRun(access *cli.Access, use, short string, args cobra.PositionalArgs, run func(*command.Command, *cobra.Command, []string) error) (*cobra.Command, *command.Command) {
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

func outputOf(cmd *cobra.Command, c *command.Command) {
	c.Output.Flags(cmd.Flags())
	cli.Complete(cmd, "output", "table", "json", "yaml")
}

// untilFinished adds --wait and --timeout.
func untilFinished(cmd *cobra.Command, c *command.Command) {
	cmd.Flags().BoolVar(&c.Wait.Wanted, "wait", false, "wait until the run has finished, and show how far it is; exit code 1 unless it succeeds")
	cmd.Flags().DurationVar(&c.Wait.Timeout, "timeout", runPatience, "how long to wait at most; exit code 3 if it takes longer")
}

func newRunsCommand(access *cli.Access) *cobra.Command {
	const limit = 50
	o := command.ListOptions{Filters: map[string]*string{}}
	cmd, c := onRun(access, "runs", "List runs of workflows, the newest first, those that are archived as well", cobra.NoArgs,
		func(c *command.Command, cmd *cobra.Command, _ []string) error { return c.List(cmd.Context(), o) })
	cmd.Example = "  yunfan runs -n edu --phase Failed\n  yunfan runs show release-x7k2p -n edu\n  yunfan runs log release-x7k2p build -n edu -f"
	flags := cmd.Flags()
	for _, filter := range [][2]string{
		{"workflow", "only of this workflow"}, {"phase", "only Pending, Running, Waiting, Paused, Compensating, Succeeded, Failed or Aborted"},
		{"user", "only those that this user started"}, {"search", "only with this text"}, {"since", "only created since this time, as 2026-01-31T08:00:00Z"},
		{"sort", `field to sort by, with "-" before it from the highest`},
	} {
		o.Filters[filter[0]] = flags.String(filter[0], "", filter[1])
	}
	flags.IntVar(&o.Limit, "limit", limit, "how many at most")
	outputOf(cmd, c)
	cmd.AddCommand(newRunsShowCommand(access), newRunsLogCommand(access))
	return cmd
}

func newRunsShowCommand(access *cli.Access) *cobra.Command {
	uid := ""
	cmd, c := onRun(access, "show RUN", "Show a run with its steps, who did them, when, and what waits", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Show(cmd.Context(), args[0], uid)
		})
	cmd.Flags().StringVar(&uid, "uid", "", "UID, for an archived run whose name another has now")
	outputOf(cmd, c)
	return cmd
}

func newRunsLogCommand(access *cli.Access) *cobra.Command {
	o := command.LogOptions{}
	cmd, _ := onRun(access, "log RUN STEP", "Show the log of a step", cobra.ExactArgs(2),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			return c.Log(cmd.Context(), args[0], args[1], o)
		})
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on until the step has ended")
	cmd.Flags().IntVar(&o.Attempt, "attempt", 0, "only this attempt")
	cmd.Flags().StringVar(&o.UID, "uid", "", "UID, for an archived run whose name another has now")
	return cmd
}

func newRunCommand(access *cli.Access) *cobra.Command {
	o := command.StartOptions{}
	cmd, c := onRun(access, "run WORKFLOW", "Start a run of a workflow", cobra.ExactArgs(1),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			o.Stdin = cmd.InOrStdin()
			return c.Start(cmd.Context(), args[0], o)
		})
	cmd.Example = "  yunfan run release -n edu --input version=v2 --wait"
	cmd.Flags().StringArrayVar(&o.Inputs, "input", nil, "NAME=VALUE, an input of the run; VALUE is JSON unless the workflow wants a String (repeatable)")
	cmd.Flags().StringVar(&o.File, "input-file", "", `file with inputs as YAML or JSON, "-" for standard input`)
	cmd.Flags().StringVar(&o.Name, "name", "", "name of the run (default: made from the workflow's)")
	untilFinished(cmd, c)
	outputOf(cmd, c)
	return cmd
}

// newDecisionCommand makes approve and reject.
func newDecisionCommand(access *cli.Access, verb, short string, decision v1alpha1.Decision) *cobra.Command {
	d := command.Decision{Decision: decision}
	cmd, c := onRun(access, verb+" RUN [STEP]", short, cobra.RangeArgs(1, 2),
		func(c *command.Command, cmd *cobra.Command, args []string) error {
			step := ""
			if len(args) > 1 {
				step = args[1]
			}
			return c.Decide(cmd.Context(), args[0], step, d)
		})
	cmd.Flags().StringVar(&d.Comment, "comment", "", "what whoever asked is told; needed to reject")
	if decision == v1alpha1.DecisionApproved {
		cmd.Flags().StringArrayVar(&d.Values, "value", nil, "NAME=VALUE, approved in place of what is asked for, where the step allows it (repeatable)")
	}
	cmd.Flags().DurationVar(&c.Wait.Timeout, "timeout", decisionPatience, "how long to wait until the server has said whether it counts; exit code 3 if it takes longer")
	return cmd
}

func newApproveCommand(access *cli.Access) *cobra.Command {
	return newDecisionCommand(access, "approve", "Approve what a step of a run waits for", v1alpha1.DecisionApproved)
}

func newRejectCommand(access *cli.Access) *cobra.Command {
	return newDecisionCommand(access, "reject", "Reject what a step of a run waits for", v1alpha1.DecisionRejected)
}

func newApprovalsCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/approvals", Columns: []string{"since", "relation", "tenant", "run", "step", "subject", "askedBy", "approvedBy", "count"}},
		"approvals", "List what waits for your decision (Decide), and what you wait for (Asked)")
}

// newSteeringCommands are pause, resume, abort and retry.
func newSteeringCommands(access *cli.Access) []*cobra.Command {
	var all []*cobra.Command
	add := func(verb, short string, do func(*command.Command, *cobra.Command, string, string) error) (*cobra.Command, *command.Command) {
		reason := ""
		cmd, c := onRun(access, verb+" RUN", short, cobra.ExactArgs(1), func(c *command.Command, cmd *cobra.Command, args []string) error {
			return do(c, cmd, args[0], reason)
		})
		cmd.Flags().StringVar(&reason, "reason", "", "why, for those who look at the run")
		all = append(all, cmd)
		return cmd, c
	}
	add("pause", "Let the running steps of a run finish and begin no others", func(c *command.Command, cmd *cobra.Command, name, reason string) error {
		return c.Pause(cmd.Context(), name, reason)
	})
	add("resume", "Let a paused run go on", func(c *command.Command, cmd *cobra.Command, name, reason string) error {
		return c.Resume(cmd.Context(), name, reason)
	})
	add("abort", "End a run, and undo what can be undone", func(c *command.Command, cmd *cobra.Command, name, reason string) error {
		return c.Abort(cmd.Context(), name, reason)
	})
	from := ""
	again, c := add("retry", "Run the steps of a run again that failed, and what comes after them", func(c *command.Command, cmd *cobra.Command, name, reason string) error {
		return c.Retry(cmd.Context(), name, from, reason)
	})
	again.Flags().StringVar(&from, "from", "", "a step to begin with, whatever became of it")
	untilFinished(again, c)
	return all
}
