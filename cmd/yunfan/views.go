package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
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
