package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
)

func newKubeconfigCommand() *cobra.Command {
	access, cluster := &cli.Access{}, ""
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig for the hub or, through the server, a member",
		Example: `  kubectl --kubeconfig <(yunfan kubeconfig) get applications -A
  kubectl --kubeconfig <(yunfan kubeconfig --cluster beijing) get nodes`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := access.Kubeconfig(cmd.Context(), cluster)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	access.Flags(cmd.Flags())
	cmd.Flags().StringVar(&cluster, "cluster", "", "member cluster (default: the hub)")
	return cmd
}
