// Package daemon keeps one instance of the engine running: it owns the topology, runs every control plane, node and
// service as a unit, carries out drills, and answers the commands on a unix socket. It is the only writer of the
// instance's state. Killing it harms nothing: units live on, and the next daemon adopts them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"yunfan.io/engine/addons"
	"yunfan.io/engine/cgroup"
	"yunfan.io/engine/control"
	"yunfan.io/engine/controlplane"
	"yunfan.io/engine/host"
	"yunfan.io/engine/network"
	"yunfan.io/engine/node"
	"yunfan.io/engine/pki"
	"yunfan.io/engine/sandbox"
	"yunfan.io/engine/supervisor"
	"yunfan.io/engine/topology"
)

const (
	serviceUnits = "services" // first part of the unit names of services
	stopGrace    = 5 * time.Second
)

// Daemon runs one instance.
type Daemon struct {
	paths    topology.Paths
	programs topology.Programs
	machine  node.Machine
	cgroups  cgroup.Hierarchies

	log  *slog.Logger
	life atomic.Int64   // nanoseconds, see lifetime
	wg   sync.WaitGroup // of everything that runs until the daemon quits

	change   sync.Mutex // held while topology or drills change, one command at a time
	mu       sync.Mutex // guards what follows, held briefly
	topology *topology.Topology
	state    *topology.State
	net      network.Net
	units    map[string]*unit
	clusters map[string]*cluster
	drills   drills
}

// Lock takes the data directory for this process. The file says so as long as the process lives.
func Lock(paths topology.Paths) (release func(), err error) {
	f, err := os.OpenFile(paths.Lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: another engine uses it: %w", paths.Data, err)
	}
	return func() { _ = f.Close() }, nil
}

// Run is the daemon: it returns when told to quit, leaving all units running.
func Run(ctx context.Context, paths topology.Paths, programs topology.Programs) error {
	release, err := Lock(paths)
	if err != nil {
		return err
	}
	defer release()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	d := &Daemon{log: log, paths: paths, programs: programs, units: map[string]*unit{}, clusters: map[string]*cluster{}, drills: drills{}}
	if d.cgroups, err = cgroup.Detect(); err != nil {
		return err
	}
	if d.machine, err = node.ThisMachine(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer d.quit()
	if err := d.begin(ctx); err != nil {
		return err
	}
	listener, err := control.Listen(paths.Socket())
	if err != nil {
		return err
	}
	d.log.Info("instance runs", "name", d.state.Name, "range", d.state.Plan().Range())
	err = control.Serve(ctx, listener, d.handler(cancel))
	d.log.Info("daemon quits, units go on")
	return err
}

// quit ends all goroutines. Units go on.
func (d *Daemon) quit() {
	d.mu.Lock()
	for _, u := range d.units {
		u.stop()
	}
	for _, c := range d.clusters {
		c.stop()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// begin finds or makes the instance's addresses and starts all units.
func (d *Daemon) begin(ctx context.Context) error {
	var err error
	if d.topology, err = topology.Load(d.paths.Config()); err != nil {
		return err
	}
	if d.state, err = topology.LoadState(d.paths.State()); err != nil {
		return err
	}
	if d.state == nil {
		d.state = &topology.State{Index: -1}
	}
	d.state.Name = d.topology.Name
	if err := d.register(); err != nil {
		return err
	}
	d.net = network.Net{Plan: d.state.Plan()}
	if err := d.reconcile(ctx); err != nil {
		return err
	}
	d.wg.Go(func() { d.renewCertificates(ctx) })
	return nil
}

// register takes the instance's range of addresses, or the first free one for a new instance.
func (d *Daemon) register() error {
	routes, err := network.HostRoutes(d.state.Index)
	if err != nil {
		return err
	}
	self := host.Instance{Name: d.state.Name, DataDir: d.paths.Data}
	index, err := host.Register(self, d.paths.Host(), func(others []host.Instance) (int, error) {
		taken := map[int]bool{}
		for _, o := range others {
			if o.Name == self.Name {
				return 0, fmt.Errorf("an instance named %s runs already (data in %s): choose another --name", o.Name, o.DataDir)
			}
			taken[o.Index] = true
		}
		if d.state.Index < 0 {
			plan, err := topology.Choose(d.paths.Data, taken, routes)
			return plan.Index, err
		}
		if taken[d.state.Index] {
			return 0, fmt.Errorf("the addresses %s of this instance are in use by another: stop that one first", d.state.Plan().Range())
		}
		return d.state.Index, nil
	})
	if err != nil {
		return fmt.Errorf("registering the instance: %w", err)
	}
	d.state.Index = index
	var slots []int
	for _, c := range d.state.Clusters {
		slots = append(slots, c.Slot)
	}
	if err := d.state.Plan().Check(slots, routes); err != nil {
		return fmt.Errorf("checking the address plan: %w", err)
	}
	return d.state.Save(d.paths.State())
}

// reconcile brings the instance to its topology: everything in it runs, healed of all drills.
func (d *Daemon) reconcile(ctx context.Context) error {
	d.change.Lock()
	defer d.change.Unlock()
	t, err := topology.Load(d.paths.Config())
	if err != nil {
		return err
	}
	life, err := t.Lifetime()
	if err != nil {
		return err
	}
	d.life.Store(int64(life))
	d.mu.Lock()
	d.topology = t
	changed, err := d.state.Merge(t)
	state := d.state
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if changed {
		if err := state.Save(d.paths.State()); err != nil {
			return err
		}
	}
	if err := d.net.EnsureHost(); err != nil {
		return err
	}
	if t.Egress {
		if err := errors.Join(host.WriteSysctl("net.ipv4.ip_forward", "1"), d.net.EnsureEgress(ctx)); err != nil {
			return err
		}
	}
	if err := d.healAll(ctx); err != nil {
		return err
	}
	for _, c := range state.Clusters {
		if err := d.ensureCluster(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(d.ensureServices(ctx, t), d.refreshRoutes())
}

// ensureCluster starts what is missing of a cluster.
func (d *Daemon) ensureCluster(ctx context.Context, c *topology.ClusterState) error {
	if err := d.net.EnsureCluster(c.Slot); err != nil {
		return err
	}
	cp := d.controlPlane(c)
	if err := cp.Prepare(); err != nil { // before the nodes: they need the authority and connect to it
		return err
	}
	d.mu.Lock()
	cl := d.clusters[c.Name]
	if cl == nil {
		cl = &cluster{kubeconfig: d.paths.Kubeconfig(c.Name), stop: func() {}}
		d.clusters[c.Name] = cl
	}
	d.mu.Unlock()
	d.ensureUnit(ctx, &unit{
		name:  c.Name + "/" + topology.ControlPlane,
		build: func() (*sandbox.Spec, error) { return cp.Spec(), nil },
		port:  &network.Port{Slot: c.Slot},
	})
	for _, n := range c.Nodes {
		d.ensureUnit(ctx, &unit{
			name:  c.Name + "/" + n.Name,
			build: func() (*sandbox.Spec, error) { return d.nodeSpec(c, n) },
			port:  &network.Port{Slot: c.Slot, Number: n.Index + 1},
		})
	}
	return d.equip(ctx, c, cl)
}

// equip has the addons applied in the background, instead of those it was to have before.
func (d *Daemon) equip(ctx context.Context, c *topology.ClusterState, cl *cluster) error {
	values := addons.Values{Gateway: d.net.Gateway().String(), RegistryHost: node.RegistryHost, DNS: d.topology.DNS,
		ServiceDNS: topology.ServiceDNS, Domain: topology.Domain}
	if err := values.ReadCertificates(pki.Store{Dir: d.paths.PKI(c.Name)}); err != nil {
		return err
	}
	objects, err := addons.Objects(values, len(c.Nodes) == 0)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	cl.stop()
	ctx, cl.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.wg.Go(func() {
		cl.equip(ctx, objects)
		d.encrypt(ctx, c, cl)
	})
	return nil
}

func (d *Daemon) controlPlane(c *topology.ClusterState) controlplane.Config {
	return controlplane.Config{Paths: d.paths, Programs: d.programs, Plan: d.state.Plan(), Cluster: c, Lifetime: d.lifetime()}
}

func (d *Daemon) nodeSpec(c *topology.ClusterState, n *topology.NodeState) (*sandbox.Spec, error) {
	d.mu.Lock()
	total := 0
	for _, other := range d.state.Clusters {
		total += len(other.Nodes)
	}
	t := d.topology
	d.mu.Unlock()
	reserved, err := d.machine.Reserve(c.Size, total)
	if err != nil {
		return nil, err
	}
	config := node.Config{Paths: d.paths, Programs: d.programs, Plan: d.state.Plan(), Cluster: c, Node: n,
		Reserved: reserved, DNS: t.DNS, Egress: t.Egress, Lifetime: d.lifetime()}
	for set := range d.cgroups.V1 {
		config.CgroupV1 = append(config.CgroupV1, set)
	}
	slices.Sort(config.CgroupV1)
	if err := config.Prepare(); err != nil {
		return nil, err
	}
	return config.Spec(), nil
}

// ensureUnit starts a unit that is not known yet and makes a known one wanted again. It is kept until the daemon
// quits or the unit is retired, whatever becomes of the request that asked for it.
func (d *Daemon) ensureUnit(ctx context.Context, made *unit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.units[made.name]; known != nil {
		known.want(true)
		return
	}
	made.init(d.log)
	if made.port != nil {
		made.group = d.group(made.name)
		made.wire = func(pid int) error {
			if err := d.net.Attach(*made.port, pid); err != nil {
				return err
			}
			return d.net.SetRoutes(pid, d.routes(made.port))
		}
	}
	ctx, made.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.units[made.name] = made
	d.wg.Go(func() { made.keep(ctx) })
}

func (d *Daemon) group(unit string) *cgroup.Group {
	return &cgroup.Group{Hierarchies: d.cgroups, Path: groupPath(d.state.Index) + "/" + strings.ReplaceAll(unit, "/", ".")}
}

func groupPath(index int) string { return fmt.Sprintf("yunfan/%d", index) }

// routes are the pod networks a unit (nil: the host) must know: those of its cluster's other nodes (all nodes).
func (d *Daemon) routes(port *network.Port) []network.Route {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []network.Route
	for _, c := range d.state.Clusters {
		if port != nil && c.Slot != port.Slot {
			continue
		}
		for _, n := range c.Nodes {
			if port == nil || n.Index != port.Number-1 {
				out = append(out, network.Route{To: d.net.NodePods(c.Slot, n.Index), Via: d.net.Node(c.Slot, n.Index)})
			}
		}
	}
	return out
}

// refreshRoutes tells the host and all running units about the nodes there are now.
func (d *Daemon) refreshRoutes() error {
	errs := []error{d.net.SetRoutes(0, d.routes(nil))}
	d.mu.Lock()
	units := d.sortedUnits()
	d.mu.Unlock()
	for _, u := range units {
		if run := u.running(); run != nil && u.port != nil && run.Alive() {
			errs = append(errs, d.net.SetRoutes(run.PID, d.routes(u.port)))
		}
	}
	return errors.Join(errs...)
}

// sortedUnits lists units by name, services last. The caller holds the lock.
func (d *Daemon) sortedUnits() []*unit {
	out := make([]*unit, 0, len(d.units))
	for _, u := range d.units {
		out = append(out, u)
	}
	rank := func(u *unit) string {
		if owner(u.name) == serviceUnits {
			return "~" + u.name
		}
		return u.name
	}
	slices.SortFunc(out, func(a, b *unit) int { return strings.Compare(rank(a), rank(b)) })
	return out
}

// ensureServices starts the services of the topology and ends those that are no longer in it or were changed.
func (d *Daemon) ensureServices(ctx context.Context, t *topology.Topology) error {
	wanted := map[string]topology.Service{}
	for _, s := range t.Services {
		wanted[serviceUnits+"/"+s.Name] = s.Expand(d.net.Gateway().String(), d.paths.Data)
	}
	d.mu.Lock()
	units := d.sortedUnits()
	d.mu.Unlock()
	for _, u := range units {
		s, keep := wanted[u.name]
		if owner(u.name) != serviceUnits || keep && u.runs(s.Command, s.Env) {
			continue
		}
		if err := u.retire(ctx); err != nil {
			return err
		}
		d.mu.Lock()
		delete(d.units, u.name)
		d.mu.Unlock()
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		s := wanted[name]
		d.ensureUnit(ctx, &unit{name: name,
			build: func() (*sandbox.Spec, error) { return d.serviceSpec(name, s), nil },
			gate:  func(ctx context.Context) error { return d.awaitClusters(ctx, s.Needs) },
		})
	}
	return d.forgetServices(ctx, wanted)
}

// forgetServices ends units of services that left the topology while no daemon ran.
func (d *Daemon) forgetServices(ctx context.Context, wanted map[string]topology.Service) error {
	entries, err := os.ReadDir(filepath.Join(d.paths.Data, serviceUnits))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing services: %w", err)
	}
	for _, e := range entries {
		if _, ok := wanted[serviceUnits+"/"+e.Name()]; ok || !topology.ValidName(e.Name()) {
			continue
		}
		spec := &sandbox.Spec{Unit: serviceUnits + "/" + e.Name(), Dir: d.paths.Service(e.Name())}
		if run := sandbox.Adopt(spec, nil); run != nil {
			if err := run.Stop(ctx, stopGrace); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Daemon) serviceSpec(unit string, s topology.Service) *sandbox.Spec {
	dir := d.paths.Service(s.Name)
	return &sandbox.Spec{Unit: unit, Dir: dir, Program: d.programs.Path("yunfan-engine"), Processes: []supervisor.Process{{
		Name: s.Name, Command: s.Command, Env: s.Env, Ready: supervisor.Probe{URL: s.Ready}, Log: filepath.Join(dir, "log", s.Name+".log"),
	}}}
}

// awaitClusters blocks until the API servers of the clusters answer.
func (d *Daemon) awaitClusters(ctx context.Context, names []string) error {
	for _, name := range names {
		for {
			d.mu.Lock()
			c := d.clusters[name]
			d.mu.Unlock()
			if c != nil && c.available(ctx) == nil {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	return nil
}
