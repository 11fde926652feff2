package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/usage"
)

// view makes a sub-command that shows a list of the server.
func view(access *cli.Access, list cli.List, use, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return list.Run(cmd.Context(), cmd.OutOrStdout()) },
	}
	list.Access = access
	access.Flags(cmd.Flags())
	list.Flags(cmd)
	return cmd
}

func newNodesCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/cluster-nodes", Columns: []string{
		"cluster", "name", "ready", "address", "kernel", "runtime", "cpu", "cpuRequested", "cpuLimits", "memory", "memoryRequested", "memoryLimits", "pods",
	}}, "nodes", "List the nodes of all clusters with what they have and what is asked of them")
}

func newPortsCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/ports", Columns: []string{
		"cluster", "namespace", "service", "address", "port", "protocol", "tenant", "application", "component",
	}}, "ports", "List the node ports in use on all clusters")
}

func newTenantsCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/tenants", Columns: []string{
		"tenant", "displayName", "partitions", "runningPods", "quota", "given", "left", "withinQuota", "ready",
	}}, "tenants", "List the tenants with their quota, what of it was given to partitions and what is left")
}

func newPartitionsCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/partitions", Columns: []string{
		"tenant", "cluster", "partition", "parent", "namespace", "environment", "hosts", "cpu", "memory", "pods", "gpu", "runningPods", "ready", "reason",
	}}, "partitions", "List the partitions of all tenants and clusters with their nodes and quota")
}

func newPodsCommand(access *cli.Access) *cobra.Command {
	list := cli.List{Columns: []string{"partition", "component", "pod", "node", "phase", "ready", "restarts", "qosClass", "reason", "message"}}
	cmd := &cobra.Command{
		Use: "pods APPLICATION", Short: "List the pods of an application in all its partitions, how they are and why", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, err := access.Tenant()
			if err != nil {
				return err
			}
			list.Path = "/api/v1/tenants/" + url.PathEscape(tenant) + "/applications/" + url.PathEscape(args[0]) + "/pods"
			return list.Run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	list.Access = access
	access.Flags(cmd.Flags())
	list.Flags(cmd)
	return cmd
}

func newUsageCommand(access *cli.Access) *cobra.Command {
	show := &usage.Command{Access: access}
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what a tenant, or one of its partitions, used of its quota", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return show.Run(cmd.Context(), cmd.OutOrStdout()) },
	}
	access.Flags(cmd.Flags())
	show.Output.Flags(cmd.Flags())
	cmd.Flags().StringVar(&show.Partition, "partition", "", "partition (default: the whole tenant)")
	cmd.Flags().StringVar(&show.From, "from", "", "time in RFC 3339, or seconds since 1970 (default: a day ago)")
	cmd.Flags().StringVar(&show.To, "to", "", "time (default: now)")
	cmd.Flags().StringVar(&show.Step, "step", "", "distance of points, such as 1h")
	return cmd
}

func newHealthCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/health", Columns: []string{"state", "name", "since", "message", "advice"}},
		"health", "Show whether every part of the platform works, and what to do")
}

func newCertificatesCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/certificates", Columns: []string{"cluster", "component", "subject", "notAfter", "daysLeft", "renewedBy", "message"}},
		"certificates", "List every certificate the platform depends on, with its end")
}
