package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"yunfan.io/engine/control"
	"yunfan.io/engine/daemon"
	"yunfan.io/engine/node"
	"yunfan.io/engine/topology"
)

func down(paths pathsFunc) *cobra.Command {
	var deleteData bool
	var timeout time.Duration
	cmd := &cobra.Command{Use: "down", Short: "Stop everything and clean up the machine; data is kept", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := paths()
			if err != nil {
				return err
			}
			if _, err := os.Stat(p.Config()); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("no instance in %s: check --data-dir", p.Data)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err := daemon.Teardown(ctx, p); err != nil {
				return err
			}
			if deleteData {
				if err := os.RemoveAll(p.Data); err != nil {
					return fmt.Errorf("deleting data: %w", err)
				}
			}
			return nil
		}}
	cmd.Flags().BoolVar(&deleteData, "delete-data", false, "delete the data directory too")
	cmd.Flags().DurationVar(&timeout, "timeout", 60*time.Second, "how long it may take")
	return cmd
}

func status(paths pathsFunc) *cobra.Command {
	var output string
	cmd := &cobra.Command{Use: "status", Short: "Show clusters, nodes and processes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s daemon.Status
			if err := call(cmd.Context(), paths, "/status", struct{}{}, &s); err != nil {
				return err
			}
			switch output {
			case "json":
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(s)
			case "":
				return table(cmd.OutOrStdout(), &s)
			}
			return fmt.Errorf("output %q: only json is known", output)
		}}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or a table")
	return cmd
}

func table(out io.Writer, s *daemon.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "INSTANCE\tSTATE\tGATEWAY\tDATA\n%s\t%s\t%s\t%s\n", s.Name, s.State, s.Gateway, s.DataDir)
	fmt.Fprintf(w, "\nCLUSTER\tSTATE\tENDPOINT\tMESSAGE\n")
	for _, c := range s.Clusters {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, c.State, c.Endpoint, c.Message)
	}
	fmt.Fprintf(w, "\nNODE\tSTATE\tADDRESS\tPODS\tMESSAGE\n")
	for _, c := range s.Clusters {
		for _, n := range c.Nodes {
			fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\n", c.Name, n.Name, n.State, n.IP, n.PodCIDR, n.Message)
		}
	}
	fmt.Fprintf(w, "\nPROCESS\tSTATE\tPID\tRESTARTS\tLOG\n")
	for _, p := range s.Processes {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", p.Target, p.State, p.PID, p.Restarts, p.Log)
	}
	return w.Flush()
}

func drill(paths pathsFunc, verb, help string) *cobra.Command {
	return &cobra.Command{Use: verb + " CLUSTER[/NODE|/PROCESS|/NODE/PROCESS]", Short: help, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), paths, "/drill", daemon.DrillRequest{Verb: verb, Target: args[0]}, nil)
		}}
}

func nodeCommand(paths pathsFunc) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Add and remove nodes"}
	var timeout time.Duration
	add := &cobra.Command{Use: "add CLUSTER [NAME]", Short: "Add a node and wait until it is Ready", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := daemon.NodeRequest{Cluster: args[0]}
			if len(args) > 1 {
				r.Node = args[1]
			}
			var name string
			if err := call(cmd.Context(), paths, "/node/add", r, &name); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), name)
			return await(cmd, paths, args[0], timeout)
		}}
	add.Flags().DurationVar(&timeout, "timeout", 120*time.Second, "how long to wait for the cluster to be Ready")
	remove := &cobra.Command{Use: "remove CLUSTER/NODE", Short: "End a node and delete its data, volumes included", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, node := daemon.SplitTarget(args[0])
			return call(cmd.Context(), paths, "/node/remove", daemon.NodeRequest{Cluster: cluster, Node: node}, nil)
		}}
	cmd.AddCommand(add, remove)
	return cmd
}

func clusterCommand(paths pathsFunc) *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Add and remove clusters"}
	var timeout time.Duration
	var nodes int
	add := &cobra.Command{Use: "add NAME", Short: "Add a cluster and wait until it is Ready", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := call(cmd.Context(), paths, "/cluster/add", daemon.ClusterRequest{Name: args[0], Nodes: nodes}, nil); err != nil {
				return err
			}
			return await(cmd, paths, args[0], timeout)
		}}
	add.Flags().IntVar(&nodes, "nodes", 1, "number of nodes; 0 is a control plane only")
	add.Flags().DurationVar(&timeout, "timeout", 120*time.Second, "how long to wait for the cluster to be Ready")
	remove := &cobra.Command{Use: "remove NAME", Short: "End a cluster and delete its data", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), paths, "/cluster/remove", daemon.ClusterRequest{Name: args[0]}, nil)
		}}
	cmd.AddCommand(add, remove)
	return cmd
}

func rotateKey(paths pathsFunc) *cobra.Command {
	return &cobra.Command{Use: "rotate-key CLUSTER", Short: "Encrypt the Secrets of a cluster with a new key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return call(cmd.Context(), paths, "/key/rotate", daemon.ClusterRequest{Name: args[0]}, nil)
		}}
}

func daemonCommand(paths pathsFunc) *cobra.Command {
	return &cobra.Command{Use: "daemon", Short: "Run the instance (started by up)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := paths()
			if err != nil {
				return err
			}
			programs, err := topology.FindPrograms()
			if err != nil {
				return fmt.Errorf("finding the engine's programs: %w", err)
			}
			syscall.Umask(0o022) // whatever the caller's: pods of any user read what is made here
			return daemon.Run(cmd.Context(), p, programs)
		}}
}

func importImages() *cobra.Command {
	var images, record string
	cmd := &cobra.Command{Use: "import-images", Short: "Load system images into a node (started by a node)", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			programs, err := topology.FindPrograms()
			if err != nil {
				return fmt.Errorf("finding the engine's programs: %w", err)
			}
			return node.ImportImages(cmd.Context(), programs.Path("ctr"), images, record)
		}}
	cmd.Flags().StringVar(&images, "images", "", "folder of image archives")
	cmd.Flags().StringVar(&record, "record", "", "file that records what was loaded")
	return cmd
}

// await waits until a cluster is Ready.
func await(cmd *cobra.Command, paths pathsFunc, cluster string, timeout time.Duration) error {
	p, err := paths()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	return awaitReady(ctx, p, cluster, cmd.ErrOrStderr())
}

// call asks the daemon.
func call(ctx context.Context, paths pathsFunc, path string, in, out any) error {
	p, err := paths()
	if err != nil {
		return err
	}
	err = control.Client{Path: p.Socket(), Timeout: callTimeout}.Call(ctx, path, in, out)
	var refused *control.Error
	if err != nil && !errors.As(err, &refused) {
		return fmt.Errorf("%w: does the instance run? Start it with `yunfan-engine up --data-dir %s`", err, p.Data)
	}
	return err
}
