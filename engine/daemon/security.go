package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"yunfan.io/engine/addons"
	"yunfan.io/engine/controlplane"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

const (
	restartTimeout = 30 * time.Second // for one process to end and be ready again
	processPoll    = 100 * time.Millisecond
	secretPage     = 200
)

// rotateKey gives a cluster a new key for Secrets and encrypts all of them anew, in the background.
func (d *Daemon) rotateKey(ctx context.Context, r ClusterRequest) (nothing, error) {
	_, done := d.beginChange(ctx)
	defer done()
	d.mu.Lock()
	c, cl := d.state.Cluster(r.Name), d.clusters[r.Name]
	d.mu.Unlock()
	if c == nil || cl == nil {
		return nothing{}, fmt.Errorf("rotating the key: no cluster %q here", r.Name)
	}
	if err := d.controlPlane(c).RotateKey(); err != nil {
		return nothing{}, err
	}
	return nothing{}, d.equip(ctx, c, cl)
}

// encrypt makes sure that every Secret is encrypted with the first key, trying until it is or the context ends.
func (d *Daemon) encrypt(ctx context.Context, c *topology.ClusterState, cl *cluster) {
	config := d.controlPlane(c)
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		name, err := config.Stale()
		if name == "" && err == nil {
			return
		}
		if err == nil {
			err = d.encryptWith(ctx, c, cl)
		}
		if err == nil {
			err = config.KeyInUse(name)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			d.log.Warn("Secrets are not all encrypted yet", "cluster", c.Name, "error", err)
		} else {
			d.log.Info("all Secrets are encrypted", "cluster", c.Name, "key", name)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// encryptWith starts the API server anew, so that it certainly uses the keys as they are now, and writes every Secret
// as it is: the API server stores it with the first key.
func (d *Daemon) encryptWith(ctx context.Context, c *topology.ClusterState, cl *cluster) error {
	unit := c.Name + "/" + topology.ControlPlane
	if err := d.restart(ctx, unit, controlplane.APIServer); err != nil {
		return err
	}
	if err := d.usesEncryption(ctx, unit); err != nil {
		return err
	}
	if err := d.awaitClusters(ctx, []string{c.Name}); err != nil {
		return err
	}
	client, _, err := cl.connect()
	if err != nil {
		return err
	}
	for options := (metav1.ListOptions{Limit: secretPage}); ; {
		list, err := client.Resource(secrets).List(ctx, options)
		if err != nil {
			return fmt.Errorf("listing Secrets: %w", err)
		}
		if err := rewrite(ctx, client, list.Items); err != nil {
			return err
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// usesEncryption refuses an API server that was started by an older engine and goes on with its options until `down`.
func (d *Daemon) usesEncryption(ctx context.Context, unit string) error {
	at, err := d.process(ctx, unit, controlplane.APIServer)
	if err != nil {
		return err
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", at.PID))
	if err != nil || !bytes.Contains(command, []byte("--encryption-provider-config=")) {
		return errors.New("the API server runs with options of an older engine: run `down` and `up` once")
	}
	return nil
}

// restart ends one process of a unit, asking first, and waits until it is ready again. What was stopped is started even
// if the daemon is to quit meanwhile.
func (d *Daemon) restart(ctx context.Context, unit, process string) error {
	d.change.Lock() // not while a drill or another change is under way
	defer d.change.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restartTimeout)
	defer cancel()
	d.log.Info("starting a process anew", "unit", unit, "process", process)
	if err := d.call(ctx, unit, "stop", process); err != nil {
		return err
	}
	stopped := d.awaitProcess(ctx, unit, process, supervisor.Stopped)
	if err := errors.Join(stopped, d.call(context.WithoutCancel(ctx), unit, "start", process)); err != nil {
		return err
	}
	return d.awaitProcess(ctx, unit, process, supervisor.Ready)
}

func (d *Daemon) awaitProcess(ctx context.Context, unit, process string, state supervisor.State) error {
	for {
		at, err := d.process(ctx, unit, process)
		if err == nil && at.State == state {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s of %s to be %s, it is %s (%s): %w", process, unit, state, at.State, at.LastError, ctx.Err())
		case <-time.After(processPoll):
		}
	}
}

func (d *Daemon) call(ctx context.Context, unit, verb, process string) error {
	d.mu.Lock()
	u := d.units[unit]
	d.mu.Unlock()
	if u == nil || u.running() == nil {
		return fmt.Errorf("%s of %s: it does not run", process, unit)
	}
	return u.running().Call(ctx, verb, process)
}

// process tells the state of one process of a unit.
func (d *Daemon) process(ctx context.Context, unit, process string) (supervisor.Status, error) {
	d.mu.Lock()
	u := d.units[unit]
	d.mu.Unlock()
	if u != nil {
		for _, p := range u.status(ctx, false)[1:] {
			if p.Name == process {
				return p.Status, nil
			}
		}
	}
	return supervisor.Status{}, fmt.Errorf("no process %s of %s", process, unit)
}

// rewrite updates Secrets with what they are. One that somebody changed or deleted meanwhile needs nothing more.
func rewrite(ctx context.Context, client dynamic.Interface, items []unstructured.Unstructured) error {
	for i := range items {
		s := &items[i]
		_, err := client.Resource(secrets).Namespace(s.GetNamespace()).Update(ctx, s, metav1.UpdateOptions{FieldManager: addons.Manager})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("encrypting Secret %s/%s: %w", s.GetNamespace(), s.GetName(), err)
		}
	}
	return nil
}
