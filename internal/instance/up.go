package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// Push uploads every image archive below a folder to a registry that lacks it.
type Push func(ctx context.Context, folder, registry string, progress io.Writer) error

// UpOptions say how much is brought up.
type UpOptions struct {
	Push Push
	// Demo deploys the score example.
	Demo bool
	// Detach returns once everything is ready; otherwise everything is stopped when ctx ends.
	Detach bool
	// Out is told how to reach everything.
	Out io.Writer
}

// Up brings everything up: engine, registry, server, members and, if wanted, the example.
func (i *Instance) Up(ctx context.Context, o UpOptions) error {
	began := time.Now()
	if err := i.bring(ctx, o, began); err != nil {
		if ctx.Err() != nil && !o.Detach {
			return errors.Join(err, i.stopAfterInterrupt())
		}
		return err
	}
	if o.Detach {
		fmt.Fprintf(o.Out, "\nStop everything with: yunfan down%s\n", i.dataDirFlag())
		return nil
	}
	fmt.Fprintln(o.Out, "\nCtrl-C stops everything; the data stays.")
	<-ctx.Done()
	return i.stopAfterInterrupt()
}

func (i *Instance) bring(ctx context.Context, o UpOptions, began time.Time) error {
	if err := requireRoot(); err != nil {
		return err
	}
	fmt.Fprintf(i.Progress, "Starting the clusters in %s\n", i.DataDir)
	if err := i.Start(ctx); err != nil {
		return err
	}
	status, err := i.Status(ctx)
	if err != nil {
		return err
	}
	hub, err := i.hub()
	if err != nil {
		return err
	}
	pushed := make(chan error, 1)
	go func() { pushed <- i.pushImages(ctx, o.Push) }()
	err = i.Join(ctx, hub, status.Members())
	if err = errors.Join(err, <-pushed); err != nil {
		return err
	}
	routes := i.tryEdge(ctx, hub, status.Gateway)
	var pages map[string]string
	if o.Demo {
		fmt.Fprintln(i.Progress, "Deploying the score example to both members")
		if pages, err = i.Demo(ctx, hub, status); err != nil {
			return err
		}
	}
	first, err := i.firstAdministrator(ctx, hub)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "\nYunfan is up after %s.\n", time.Since(began).Round(time.Second/10))
	if err := first.tell(ctx, hub, o.Out); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "\n%s\n", routes)
	i.explain(o.Out, pages)
	return nil
}

// stopAfterInterrupt ends everything though the context has ended.
func (i *Instance) stopAfterInterrupt() error {
	const patience = time.Minute
	fmt.Fprintln(i.Progress, "\nStopping the clusters")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return i.Stop(ctx, false)
}

func (i *Instance) hub() (client.Client, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", cli.HubKubeconfig(i.DataDir))
	if err != nil {
		return nil, fmt.Errorf("reading the hub's kubeconfig: %w", err)
	}
	hub, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to the hub: %w", err)
	}
	return hub, nil
}

// pushImages brings the images that were packed with the programs into the instance's registry.
func (i *Instance) pushImages(ctx context.Context, push Push) error {
	self, err := executable()
	if err != nil {
		return err
	}
	folder, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(self), "images")) // a walk does not enter a link
	if err != nil {
		return fmt.Errorf("the images are missing (make them with 'make images'): %w", err)
	}
	if err := push(ctx, folder, "unix:"+filepath.Join(i.DataDir, "registry", "push.sock"), i.Progress); err != nil {
		return fmt.Errorf("bringing images into the registry: %w", err)
	}
	return nil
}

// explain says how everything is reached.
func (i *Instance) explain(out io.Writer, pages map[string]string) {
	self, flag := os.Args[0], i.dataDirFlag()
	if len(pages) > 0 {
		fmt.Fprintln(out, "\nThe students' scores, out of a database in each cluster:")
		for _, partition := range slices.Sorted(maps.Keys(pages)) {
			fmt.Fprintf(out, "  %-10s %s\n", partition, pages[partition])
		}
		fmt.Fprintf(out, "\nTry:\n")
		fmt.Fprintf(out, "  %s status score -n edu%s\n", self, flag)
		fmt.Fprintf(out, "  %s scale score score-record=6 -n edu%s\n", self, flag)
		fmt.Fprintf(out, "  %s logs score -n edu --follow%s\n", self, flag)
	} else {
		fmt.Fprintf(out, "\nTry:\n")
	}
	fmt.Fprintf(out, "  %s login%s\n", self, flag)
	fmt.Fprintf(out, "  %s get clusters%s\n", self, flag)
	fmt.Fprintf(out, "  kubectl --kubeconfig %s get applications -A\n", cli.HubKubeconfig(i.DataDir))
	fmt.Fprintf(out, "  kubectl --kubeconfig <(%s kubeconfig --cluster beijing%s) get pods -A\n", self, flag)
}

func (i *Instance) dataDirFlag() string {
	if i.DataDir == cli.DefaultDataDir {
		return ""
	}
	return " --data-dir " + i.DataDir
}
