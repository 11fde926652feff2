package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/image"
	"yunfan.io/yunfan/internal/instance"
	"yunfan.io/yunfan/internal/route/haproxy"
)

func newUpCommand() *cobra.Command {
	i, o, noDemo := &instance.Instance{Edge: haproxy.Installed}, instance.UpOptions{Push: image.PushArchives}, false
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a hub, two member clusters and the platform on this machine (root, Linux)",
		Long: `Start a hub, two member clusters and the platform on this machine, and deploy the score example to both members.

Everything is real Kubernetes, in namespaces of its own; several instances with their own --name and --data-dir run side
by side. What is there already is taken up again: applications, volumes and all.`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.Progress, o.Out, o.Demo = cmd.ErrOrStderr(), cmd.OutOrStdout(), !noDemo
			if err := absolute(&i.DataDir); err != nil {
				return err
			}
			return i.Up(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.DataDir, "data-dir", cli.DefaultDataDir, "where everything of the instance is kept")
	flags.StringVar(&i.Name, "name", "", `name of a new instance (default "default")`)
	flags.BoolVar(&o.Detach, "detach", false, "return once everything is ready, instead of stopping it on Ctrl-C")
	flags.BoolVar(&noDemo, "no-demo", false, "do not deploy the score example")
	return cmd
}

func newDownCommand() *cobra.Command {
	i, deleteData := &instance.Instance{}, false
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop what 'yunfan up' started; nothing of it is left on the machine but its data",
		Args:  cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.Progress = cmd.ErrOrStderr()
			if err := absolute(&i.DataDir); err != nil {
				return err
			}
			return i.Stop(cmd.Context(), deleteData)
		},
	}
	cmd.Flags().StringVar(&i.DataDir, "data-dir", cli.DefaultDataDir, "where everything of the instance is kept")
	cmd.Flags().BoolVar(&deleteData, "delete-data", false, "delete the data, too: clusters, applications, volumes")
	return cmd
}

// absolute makes a folder independent of where a command is called.
func absolute(dir *string) error {
	path, err := filepath.Abs(*dir)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	*dir = path
	return nil
}
