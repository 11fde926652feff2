package main

import (
	"strings"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
)

func newGetCommand(access *cli.Access) *cobra.Command {
	get := &cli.Get{Access: access}
	cmd := &cobra.Command{
		Use:       "get KIND [NAME...]",
		Short:     "Show clusters, tenants, partitions, applications and what belongs to them",
		Long:      "Show objects of the platform: " + strings.Join(cli.ResourceNames(), ", ") + ".\n\nWithout a tenant, those of all tenants are shown.",
		Example:   "  yunfan get clusters\n  yunfan get applications -n edu\n  yunfan get application score -n edu -o yaml",
		ValidArgs: cli.ResourceNames(),
		Args:      cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return get.Run(cmd.Context(), cmd.OutOrStdout(), args[0], args[1:])
		},
	}
	access.Flags(cmd.Flags())
	get.Output.Flags(cmd.Flags())
	cmd.Flags().BoolVarP(&get.AllTenants, "all-tenants", "A", false, "those of every tenant")
	cmd.Flags().StringVarP(&get.Selector, "selector", "l", "", "only those with these labels, such as key=value")
	cli.Complete(cmd, "output", "table", "json", "yaml")
	return cmd
}
