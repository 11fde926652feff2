package daemon

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"yunfan.io/engine/control"
	"yunfan.io/engine/topology"
)

// Requests of the commands.
type (
	// DrillRequest names what to do to what.
	DrillRequest struct{ Verb, Target string }
	// NodeRequest names a node; Node may be empty when adding.
	NodeRequest struct{ Cluster, Node string }
	// ClusterRequest describes a cluster to add or remove.
	ClusterRequest struct {
		Name  string
		Nodes int
	}
	nothing struct{}
)

const changeTimeout = 60 * time.Second

func (d *Daemon) handler(quit func()) http.Handler {
	mux := http.NewServeMux()
	control.Handle(mux, "/status", func(ctx context.Context, _ nothing) (Status, error) { return d.Status(ctx), nil })
	control.Handle(mux, "/ping", func(context.Context, nothing) (nothing, error) { return nothing{}, nil })
	control.Handle(mux, "/up", func(ctx context.Context, _ nothing) (nothing, error) { return nothing{}, d.reconcile(ctx) })
	control.Handle(mux, "/drill", func(ctx context.Context, r DrillRequest) (nothing, error) {
		return nothing{}, d.Drill(ctx, r.Verb, r.Target)
	})
	control.Handle(mux, "/node/add", d.addNode)
	control.Handle(mux, "/node/remove", d.removeNode)
	control.Handle(mux, "/cluster/add", d.addCluster)
	control.Handle(mux, "/cluster/remove", d.removeCluster)
	control.Handle(mux, "/key/rotate", d.rotateKey)
	control.Handle(mux, "/quit", func(context.Context, nothing) (nothing, error) {
		time.AfterFunc(50*time.Millisecond, quit) // after the answer is out
		return nothing{}, nil
	})
	return mux
}

// beginChange lets one change happen at a time. What has begun is finished even if the caller goes away, but not
// for ever.
func (d *Daemon) beginChange(ctx context.Context) (context.Context, func()) {
	d.change.Lock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
	return ctx, func() {
		cancel()
		d.change.Unlock()
	}
}

// addNode adds a node and returns its name; it becomes Ready in the background.
func (d *Daemon) addNode(ctx context.Context, r NodeRequest) (string, error) {
	ctx, done := d.beginChange(ctx)
	defer done()
	d.mu.Lock()
	c := d.state.Cluster(r.Cluster)
	if c == nil {
		d.mu.Unlock()
		return "", fmt.Errorf("adding a node: no cluster %q here", r.Cluster)
	}
	first := len(c.Nodes) == 0
	n, err := c.AddNode(r.Node)
	d.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("adding a node: %w", err)
	}
	if err := d.save(); err != nil {
		return "", err
	}
	if first { // a hub has no scheduler and few controllers: its control plane starts anew as a full one
		d.mu.Lock()
		u := d.units[c.Name+"/"+topology.ControlPlane]
		d.mu.Unlock()
		if err := u.end(ctx, stopGrace); err != nil {
			return "", fmt.Errorf("adding a node: %w", err)
		}
	}
	if err := d.ensureCluster(ctx, c); err != nil {
		return "", fmt.Errorf("adding a node: %w", err)
	}
	return n.Name, d.refreshRoutes()
}

// removeNode ends a node, forgets it in its cluster and deletes its data, volumes included.
func (d *Daemon) removeNode(ctx context.Context, r NodeRequest) (nothing, error) {
	ctx, done := d.beginChange(ctx)
	defer done()
	d.mu.Lock()
	c := d.state.Cluster(r.Cluster)
	name := r.Cluster + "/" + r.Node
	u := d.units[name]
	if c == nil || c.Node(r.Node) == nil || u == nil {
		d.mu.Unlock()
		return nothing{}, fmt.Errorf("removing a node: nothing here is called %q", name)
	}
	cl := d.clusters[c.Name]
	d.mu.Unlock()
	if err := d.drop(ctx, u, d.paths.Node(c.Name, r.Node)); err != nil {
		return nothing{}, fmt.Errorf("removing node %s: %w", name, err)
	}
	d.mu.Lock()
	c.RemoveNode(r.Node)
	d.mu.Unlock()
	if err := d.save(); err != nil {
		return nothing{}, err
	}
	if err := d.refreshRoutes(); err != nil {
		return nothing{}, err
	}
	return nothing{}, cl.forget(ctx, r.Node)
}

// addCluster adds a cluster; it becomes Ready in the background.
func (d *Daemon) addCluster(ctx context.Context, r ClusterRequest) (nothing, error) {
	ctx, done := d.beginChange(ctx)
	defer done()
	d.mu.Lock()
	wish := *d.topology
	wish.Clusters = append(slices.Clip(wish.Clusters), topology.Cluster{Name: r.Name, Nodes: r.Nodes})
	err := wish.Validate()
	if err == nil {
		_, err = d.state.Merge(&wish)
	}
	c := d.state.Cluster(r.Name)
	d.mu.Unlock()
	if err != nil {
		return nothing{}, fmt.Errorf("adding cluster %s: %w", r.Name, err)
	}
	if err := d.save(); err != nil {
		return nothing{}, err
	}
	if err := d.ensureCluster(ctx, c); err != nil {
		return nothing{}, fmt.Errorf("adding cluster %s: %w", r.Name, err)
	}
	return nothing{}, d.refreshRoutes()
}

// removeCluster ends a cluster and deletes all its data.
func (d *Daemon) removeCluster(ctx context.Context, r ClusterRequest) (nothing, error) {
	ctx, done := d.beginChange(ctx)
	defer done()
	d.mu.Lock()
	c := d.state.Cluster(r.Name)
	if c == nil {
		d.mu.Unlock()
		return nothing{}, fmt.Errorf("removing a cluster: no cluster %q here", r.Name)
	}
	for _, s := range d.topology.Services {
		if slices.Contains(s.Needs, r.Name) {
			d.mu.Unlock()
			return nothing{}, fmt.Errorf("removing cluster %s: service %s needs it: change engine.yaml first", r.Name, s.Name)
		}
	}
	var units []*unit
	for _, u := range d.sortedUnits() {
		if owner(u.name) == r.Name {
			units = append(units, u)
		}
	}
	d.mu.Unlock()
	err := d.each(units, func(u *unit) error { return d.drop(ctx, u, "") })
	if err != nil {
		return nothing{}, fmt.Errorf("removing cluster %s: %w", r.Name, err)
	}
	d.mu.Lock()
	d.state.RemoveCluster(r.Name)
	d.clusters[r.Name].stop()
	delete(d.clusters, r.Name)
	delete(d.drills, r.Name)
	d.mu.Unlock()
	if err := d.save(); err != nil {
		return nothing{}, err
	}
	if err := d.refreshRoutes(); err != nil {
		return nothing{}, err
	}
	return nothing{}, d.forgetCluster(c)
}

// drop ends a unit for good, with its interface and its directory (if one is given).
func (d *Daemon) drop(ctx context.Context, u *unit, dir string) error {
	if err := u.destroy(ctx, dir); err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.units, u.name)
	delete(d.drills, u.name)
	d.mu.Unlock()
	if err := d.cutWires(ctx); err != nil {
		return err
	}
	return d.net.RemovePort(*u.port)
}

// save writes the state and makes engine.yaml agree with it, so that the next `up` wants what is there now.
func (d *Daemon) save() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := *d.topology
	t.Clusters = nil
	for _, c := range d.state.Clusters {
		t.Clusters = append(t.Clusters, topology.Cluster{Name: c.Name, Nodes: len(c.Nodes), Node: c.Size})
	}
	d.topology = &t
	if err := d.state.Save(d.paths.State()); err != nil {
		return err
	}
	return t.Save(d.paths.Config())
}

// forgetCluster deletes what is left of a cluster whose units are gone.
func (d *Daemon) forgetCluster(c *topology.ClusterState) error {
	if err := d.net.RemoveCluster(c.Slot); err != nil {
		return err
	}
	for _, path := range []string{d.paths.Cluster(c.Name), d.paths.Kubeconfig(c.Name)} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("deleting data of cluster %s: %w", c.Name, err)
		}
	}
	return nil
}
