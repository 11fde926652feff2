package daemon

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"yunfan.io/engine/controlplane"
	"yunfan.io/engine/node"
	"yunfan.io/engine/pki"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

// How often certificates are looked at: so often that a renewal is never late, but not more.
const (
	longestLook  = time.Hour
	shortestLook = time.Second
	looksPerLife = 60
)

// lifetime of certificates made from now on; 0 is the default.
func (d *Daemon) lifetime() time.Duration { return time.Duration(d.life.Load()) }

// renewCertificates renews what is due of all clusters, until the context ends.
func (d *Daemon) renewCertificates(ctx context.Context) {
	for {
		d.mu.Lock()
		clusters := slices.Clone(d.state.Clusters)
		look := longestLook
		if life := d.lifetime(); life > 0 {
			look = max(shortestLook, min(longestLook, life/looksPerLife))
		}
		d.mu.Unlock()
		for _, c := range clusters {
			if err := d.renew(ctx, c); err != nil && ctx.Err() == nil {
				d.log.Warn("renewing certificates: trying again", "cluster", c.Name, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(look):
		}
	}
}

// renew signs anew what is due of one cluster and starts those of its programs anew, one after the other, that would
// otherwise go on with what they read when they started. The API server and etcd take notice by themselves, so the API
// is always there.
func (d *Daemon) renew(ctx context.Context, c *topology.ClusterState) error {
	store := pki.Store{Dir: d.paths.PKI(c.Name)}
	due, err := store.Due(time.Now())
	if err != nil {
		return err
	}
	if len(due) > 0 {
		d.log.Info("renewing certificates", "cluster", c.Name, "certificates", due)
		if err := d.signAnew(ctx, c); err != nil {
			return err
		}
	}
	var errs []error
	for _, r := range readers(c) {
		if !d.readOld(ctx, store, c.Name, r) {
			continue
		}
		errs = append(errs, d.restart(ctx, c.Name+"/"+r.unit, r.process))
	}
	if slices.Contains(due, "metrics-server") { // its pods read it from a Secret, and take notice
		d.mu.Lock()
		cl := d.clusters[c.Name]
		d.mu.Unlock()
		errs = append(errs, d.equip(ctx, c, cl))
	}
	return errors.Join(errs...)
}

func (d *Daemon) signAnew(ctx context.Context, c *topology.ClusterState) error {
	_, done := d.beginChange(ctx)
	defer done()
	if err := d.controlPlane(c).Prepare(); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if _, err := d.nodeSpec(c, n); err != nil {
			return err
		}
	}
	return nil
}

// readOld tells whether a program runs since before one of its certificates was written. That is asked of the files, not
// remembered: then it does not matter who renewed them, and whether the daemon has been there all the time.
func (d *Daemon) readOld(ctx context.Context, store pki.Store, cluster string, r reader) bool {
	at, err := d.process(ctx, cluster+"/"+r.unit, r.process)
	if err != nil || at.State != supervisor.Ready { // it reads them when it starts
		return false
	}
	return slices.ContainsFunc(r.certificates, func(name string) bool {
		info, err := os.Stat(store.Cert(name))
		return err == nil && info.ModTime().After(at.Since)
	})
}

// reader is a program that reads certificates when it starts only.
type reader struct {
	unit, process string
	certificates  []string
}

func readers(c *topology.ClusterState) []reader {
	out := []reader{{topology.ControlPlane, controlplane.ControllerManager, []string{"controller-manager"}}}
	if len(c.Nodes) > 0 {
		out = append(out, reader{topology.ControlPlane, controlplane.Scheduler, []string{"scheduler"}})
	}
	for _, n := range c.Nodes {
		out = append(out,
			reader{n.Name, node.Kubelet, []string{"kubelet-" + n.Name, "kubelet-" + n.Name + "-serving"}},
			reader{n.Name, node.KubeProxy, []string{"kube-proxy"}},
			reader{n.Name, node.Policy, []string{"network-policy"}})
	}
	return out
}
