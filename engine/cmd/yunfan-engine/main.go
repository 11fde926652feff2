// Command yunfan-engine runs real Kubernetes clusters on one Linux machine. See docs/engine.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"yunfan.io/engine/sandbox"
	"yunfan.io/engine/topology"
)

func main() {
	// The first process of a unit is no user command: it must not pay for, or depend on, the rest.
	if len(os.Args) > 1 && os.Args[1] == "init" {
		exit(sandbox.Init(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(root().ExecuteContext(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "yunfan-engine:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func root() *cobra.Command {
	var dataDir string
	paths := func() (topology.Paths, error) {
		dir, err := filepath.Abs(dataDir)
		return topology.Paths{Data: dir}, err
	}
	cmd := &cobra.Command{
		Use: "yunfan-engine", Short: "Real Kubernetes clusters on this machine",
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&dataDir, "data-dir", "/var/lib/yunfan/default", "directory of everything the instance keeps")
	cmd.AddCommand(up(paths), down(paths), status(paths), nodeCommand(paths), clusterCommand(paths), rotateKey(paths), certificates(paths), daemonCommand(paths), importImages())
	for verb, help := range map[string]string{
		"stop":    "End a cluster, node or process as a power failure would, until start",
		"start":   "Start what was stopped",
		"isolate": "Drop all packets to and from a cluster or node, until heal",
		"freeze":  "Suspend a cluster, node or process: it accepts connections and never answers, until heal",
		"heal":    "End isolate and freeze",
		"kill":    "Send SIGKILL; the supervisor starts it again",
	} {
		cmd.AddCommand(drill(paths, verb, help))
	}
	return cmd
}
