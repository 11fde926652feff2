// Command volume-provisioner serves the default StorageClass of the embedded clusters: each claim becomes a folder on
// the node its pod was scheduled to. It runs on every node and touches the volumes of its own node only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// name is what StorageClasses call this provisioner.
const name = "yunfan.io/volumes"

func main() {
	path := flag.String("path", "/var/lib/yunfan-volumes", "folder that holds the volumes, the same inside this container and on the node")
	node := flag.String("node", os.Getenv("NODE_NAME"), "name of the node this runs on")
	flag.Parse()
	if err := run(context.Background(), *path, *node); err != nil {
		fmt.Fprintln(os.Stderr, "volume-provisioner:", err)
		os.Exit(1)
	}
}

// run serves the volumes of one node until the process is told to end.
func run(ctx context.Context, path, node string) (err error) {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if node == "" {
		return fmt.Errorf("no node name: set NODE_NAME from the pod's spec.nodeName, or --node")
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("reading the service account: %w", err)
	}
	config.QPS, config.Burst = 20, 40
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making the API client: %w", err)
	}
	volumes, err := newNodeVolumes(client.CoreV1().Nodes(), node, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, volumes.Close()) }()
	ctx = klog.NewContext(ctx, klog.Background().WithValues("node", node))
	// No leader: every node decides about its own claims. The finalizer keeps a volume object that is deleted by hand
	// until its data is gone.
	controller.NewProvisionController(ctx, client, name, volumes,
		controller.LeaderElection(false), controller.AddFinalizer(true)).Run(ctx)
	return nil
}
