// Command yunfan-policy puts the NetworkPolicies of a cluster in force on one node of the embedded engine, as rules of
// the packet filter in the node's network namespace.
//
// Its rules stay in force when it ends; when it starts again it brings them in line in one step. Pods are let in by the
// CNI plugin in the folder cni, which waits here until a pod's rules are written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	node := flag.String("node", "", "name of the node this runs on")
	pods := flag.String("pods", "", "addresses of the node's pods, e.g. 198.18.8.0/24")
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	uplink := flag.String("uplink", "eth0", "interface that leads out of the node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := start(ctx, *node, *kubeconfig, *uplink, *pods)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "yunfan-policy:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, node, kubeconfig, uplink, pods string) error {
	prefix, err := netip.ParsePrefix(pods)
	if err != nil {
		return fmt.Errorf("reading --pods, a range of addresses like 198.18.8.0/24: %w", err)
	}
	if node == "" {
		return errors.New("--node is missing: the name of the node this runs on")
	}
	return run(ctx, node, kubeconfig, uplink, prefix.Masked(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
}
