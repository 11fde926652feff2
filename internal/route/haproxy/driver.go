package haproxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

const (
	// servedWithin is how long a new process may take until it answers.
	servedWithin = 20 * time.Second
	lookEvery    = 20 * time.Millisecond
	// longestSocket is what Linux takes as the path of a socket.
	longestSocket = 107
	// manyOld is the number of old processes from which on new ones are begun with pauses; connections that last keep them.
	manyOld  = 4
	oldPause = time.Second
)

// Driver runs one HAProxy.
type Driver struct {
	site    site
	program string
	version string
	s       edge.Settings
	master  master

	apply sync.Mutex // one table at a time

	mu       sync.Mutex // guards what follows
	process  *edge.Process
	plan     *plan  // that was made for the last table which HAProxy took
	loaded   string // the structure that the newest worker has; empty if that is not known
	reloaded time.Time
	counters counters
}

// New makes the driver; HAProxy is started by the first Apply.
func New(ctx context.Context, s edge.Settings) (edge.Driver, error) {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the folder of HAProxy: %w", err)
	}
	socket := filepath.Join(dir, workerSocket)
	if !folders.MatchString(dir) || len(socket) > longestSocket-len(".12345678.tmp") {
		return nil, fmt.Errorf("%s cannot be the folder of HAProxy: choose a short path of letters, digits, dots, hyphens and underscores", dir)
	}
	program, err := find(s.Program)
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, program, "-v").Output()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its version: %w", program, err)
	}
	for _, folder := range []string{dir, filepath.Join(dir, "maps"), filepath.Join(dir, "certificates")} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of HAProxy: %w", err)
		}
	}
	d := &Driver{
		s: s, program: program, version: shortVersion(string(version)), master: master{path: filepath.Join(dir, masterSocket)},
		site:     site{dir: dir, http: s.HTTP, https: s.HTTPS, user: unprivileged(), connections: connections()},
		counters: counters{last: map[int]map[targetKey]count{}, ended: map[targetKey]count{}},
	}
	if d.site.relay, err = makeRelay(dir, d.site.user); err != nil {
		return nil, err
	}
	return d, writeDefaultCertificate(filepath.Join(dir, defaultCertificate))
}

// makeRelay makes the folder of the sockets between workers, which nobody but they can open: who reached them could say
// to come from anywhere.
func makeRelay(dir, owner string) (string, error) {
	if owner == "" {
		return dir, nil
	}
	folder := "/run/yunfan-edge-" + digest(dir)
	workers, err := user.Lookup(owner)
	if err == nil {
		err = os.MkdirAll(folder, 0o700)
	}
	id := 0
	if err == nil {
		id, err = strconv.Atoi(workers.Uid)
	}
	if err == nil {
		err = os.Chown(folder, id, -1)
	}
	if err != nil {
		return "", fmt.Errorf("making the folder of HAProxy's sockets: %w", err)
	}
	return folder, nil
}

// Installed says what is missing on this machine to run an edge; nil if nothing is.
func Installed() error {
	_, err := find("")
	return err
}

// find looks for the program.
func find(program string) (string, error) {
	if program == "" {
		program = "haproxy"
	}
	found, err := exec.LookPath(program)
	if err != nil && !strings.Contains(program, "/") {
		found, err = exec.LookPath("/usr/sbin/" + program) // which is not in everybody's PATH
	}
	if err != nil {
		return "", fmt.Errorf("HAProxy is missing; install it, on Debian by 'apt-get install haproxy': %w", err)
	}
	return found, nil
}

// shortVersion makes "haproxy 2.6.12-1" of "HAProxy version 2.6.12-1 2023/12/16 - https://haproxy.org/".
func shortVersion(text string) string {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return "haproxy"
	}
	return "haproxy " + fields[2]
}

// unprivileged is the user that workers run as: the one that the package made, if we may choose.
func unprivileged() string {
	if os.Geteuid() != 0 {
		return ""
	}
	if _, err := user.Lookup("haproxy"); err != nil {
		return ""
	}
	return "haproxy"
}

// connections is how many can be open at once: as many as there are files for.
func connections() int {
	const most, least, others, each = 20000, 100, 500, 3
	limit := syscall.Rlimit{}
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max > most*each+others {
		return most
	}
	return max(least, (int(limit.Max)-others)/each)
}

// Apply makes a table what HAProxy serves.
func (d *Driver) Apply(ctx context.Context, t *table.Table) error {
	d.apply.Lock()
	defer d.apply.Unlock()
	wanted, err := d.checked(ctx, t)
	if err != nil {
		return err
	}
	d.mu.Lock()
	loaded, before, process := d.loaded, d.plan, d.process
	d.mu.Unlock()
	switch {
	case process == nil:
		err = d.begin(ctx, wanted)
	case loaded == wanted.structure && d.change(ctx, before, wanted) == nil:
	default:
		err = d.reload(ctx, wanted)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.plan, d.loaded = wanted, wanted.structure
	d.mu.Unlock()
	return nil
}

// checked makes the plan for a table and writes it down. If HAProxy refuses it as a whole, pools that it refuses by
// themselves are left out.
func (d *Driver) checked(ctx context.Context, t *table.Table) (*plan, error) {
	wanted, err := render(t, d.site)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	known := d.loaded == wanted.structure
	d.mu.Unlock()
	if known {
		return wanted, d.write(wanted)
	}
	if err = d.check(ctx, wanted); err == nil {
		return wanted, d.write(wanted)
	}
	rest, refused := *t, []string{}
	rest.Pools = nil
	for _, pool := range t.Pools {
		one, other := render(&table.Table{Pools: []table.Pool{pool}}, d.site)
		if other == nil {
			other = d.check(ctx, one)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("checking the configuration: %w", ctx.Err())
		}
		if other != nil {
			refused = append(refused, fmt.Sprintf("pool %q: %v", pool.Name, other))
			continue
		}
		rest.Pools = append(rest.Pools, pool)
	}
	if len(refused) == 0 {
		return nil, err
	}
	generation := wanted.generation
	if wanted, err = render(&rest, d.site); err != nil {
		return nil, err
	}
	// What is served is still the table that was asked for, as far as it can be.
	wanted.generation, wanted.unsupported = generation, append(wanted.unsupported, refused...)
	wanted.files[generationFile] = markerKey + " " + generation + "\n"
	if err := d.check(ctx, wanted); err != nil {
		return nil, err
	}
	return wanted, d.write(wanted)
}

const newConfig = configFile + ".new"

// check asks HAProxy whether it would take a configuration. The files that it names are written for that; those that
// HAProxy has open now have other names, or are read at its start only.
func (d *Driver) check(ctx context.Context, p *plan) error {
	for name, content := range p.files {
		if name == configFile {
			name = newConfig
		} else if slices.Contains([]string{generationFile, closedFile, listFile}, name) && d.exists(name) {
			continue // what it has now is as good for a check, and is what it starts with if it dies at this moment
		}
		if err := d.writeFile(name, content); err != nil {
			return err
		}
	}
	if err := d.ensure(downFile, "1\n"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, servedWithin)
	defer cancel()
	output, err := exec.CommandContext(ctx, d.program, "-c", "-q", "-f", filepath.Join(d.site.dir, newConfig)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("HAProxy refuses the configuration: %s: %w", firstAlert(string(output)), err)
	}
	return nil
}

// firstAlert is what HAProxy found first, in one line.
func firstAlert(output string) string {
	for line := range strings.Lines(output) {
		if _, alert, found := strings.Cut(line, "[ALERT]"); found {
			if _, text, found := strings.Cut(alert, "parsing ["); found {
				_, alert, _ = strings.Cut(text, "] : ")
			}
			const most = 300
			return strings.TrimSpace(alert[:min(len(alert), most)])
		}
	}
	return "it says nothing"
}

func (d *Driver) exists(name string) bool {
	_, err := os.Stat(filepath.Join(d.site.dir, name))
	return err == nil
}

func (d *Driver) ensure(name, content string) error {
	if d.exists(name) {
		return nil
	}
	return d.writeFile(name, content)
}

// writeFile replaces a file as a whole. All of them may hold keys.
func (d *Driver) writeFile(name, content string) error {
	path := filepath.Join(d.site.dir, name)
	if present, err := os.ReadFile(path); err == nil && string(present) == content {
		return nil
	}
	err := os.WriteFile(path+".part", []byte(content), 0o600)
	if err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		return fmt.Errorf("writing the configuration of HAProxy: %w", err)
	}
	return nil
}

// write makes a plan what HAProxy starts with. The configuration comes last: what it names is there before.
func (d *Driver) write(p *plan) error {
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		if name == configFile {
			continue
		}
		if err := d.writeFile(name, p.files[name]); err != nil {
			return err
		}
	}
	if err := d.ensure(downFile, "1\n"); err != nil {
		return err
	}
	return d.writeFile(configFile, p.files[configFile])
}

// begin starts HAProxy.
func (d *Driver) begin(ctx context.Context, p *plan) error {
	process := edge.StartProcess(func() *exec.Cmd {
		_ = os.Remove(d.master.path) // left by one that was killed
		cmd := exec.CommandContext(context.Background(), d.program, "-W", "-S", d.master.path+",mode,600", "-f", filepath.Join(d.site.dir, configFile))
		cmd.Dir = d.site.dir
		return cmd
	}, syscall.SIGUSR1, d.s.Log)
	d.mu.Lock()
	d.process = process
	d.mu.Unlock()
	if err := d.served(ctx, p.generation); err != nil {
		return fmt.Errorf("starting HAProxy (is something else listening at %s or %s?): %w", d.site.http, d.site.https, err)
	}
	d.sweep(p)
	return nil
}

// reload starts a new worker beside the old one, which takes no new connections from then on.
func (d *Driver) reload(ctx context.Context, p *plan) error {
	before, old, err := d.master.workers(ctx)
	if err != nil {
		return err
	}
	if err := d.spare(ctx, len(old)); err != nil {
		return err
	}
	if err := d.rememberDown(ctx, before, p); err != nil {
		return err
	}
	d.mu.Lock()
	d.loaded, d.reloaded = "", time.Now()
	d.mu.Unlock()
	if _, err := d.master.ask(ctx, "reload"); err != nil {
		return err
	}
	if err := d.replaced(ctx, before, p); err != nil {
		return err
	}
	d.sweep(p)
	return nil
}

// spare waits before yet another process is begun while many old ones still have connections.
func (d *Driver) spare(ctx context.Context, old int) error {
	if old < manyOld {
		return nil
	}
	d.mu.Lock()
	wait := time.Until(d.reloaded.Add(time.Duration(old-manyOld+1) * oldPause))
	d.mu.Unlock()
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for old processes of HAProxy: %w", ctx.Err())
	}
}

// rememberDown tells the new worker which servers do not answer, for it would take all for well until it has asked them,
// and which do: it would give up at the first failure what it knows nothing of, and not after as many as the pool allows.
func (d *Driver) rememberDown(ctx context.Context, pid int, p *plan) error {
	answer, err := d.master.worker(ctx, pid, "show servers state")
	if err != nil {
		return err
	}
	const backend, name, state, weight, initial = 1, 3, 5, 7, 8
	kept := strings.Builder{}
	for line := range strings.Lines(answer) {
		fields := strings.Fields(line)
		if len(fields) < initial+1 || strings.HasPrefix(line, "#") {
			if len(fields) > 0 {
				kept.WriteString(strings.Join(fields, " ") + "\n")
			}
			continue
		}
		given, there := p.weights[fields[backend]][fields[name]]
		if (fields[state] == "0" || fields[state] == "2") && there {
			fields[weight] = fmt.Sprint(given)
			fields[initial] = fields[weight]
			kept.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	return d.writeFile(downFile, kept.String())
}

// replaced waits until another worker than before serves a plan, and retires those before it.
func (d *Driver) replaced(ctx context.Context, before int, p *plan) error {
	err := until(ctx, func(ctx context.Context) error {
		newest, _, err := d.master.workers(ctx)
		if err == nil && (newest == before || newest == 0) {
			err = errors.New("no new process has come up")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reloading HAProxy: %w", err)
	}
	if err := d.served(ctx, p.generation); err != nil {
		return fmt.Errorf("reloading HAProxy: %w", err)
	}
	return d.retire(ctx)
}

// served waits until the newest worker answers with a generation.
func (d *Driver) served(ctx context.Context, generation string) error {
	return until(ctx, func(ctx context.Context) error {
		answer, err := d.marker(ctx)
		if err == nil && answer != generation {
			err = fmt.Errorf("it serves %s instead of %s", answer, generation)
		}
		return err
	})
}

// until asks again and again, as long as a process may take to come up; its error is what was wrong at last.
func until(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, servedWithin)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lookEvery):
		}
	}
}

// sweep removes files that the plan does not name. Old workers have read theirs.
func (d *Driver) sweep(p *plan) {
	for _, folder := range []string{"maps", "certificates"} {
		entries, _ := os.ReadDir(filepath.Join(d.site.dir, folder))
		for _, entry := range entries {
			name := folder + "/" + entry.Name()
			if _, named := p.files[name]; !named && name != defaultCertificate {
				os.Remove(filepath.Join(d.site.dir, name))
			}
		}
	}
	os.Remove(filepath.Join(d.site.dir, newConfig))
}

// Close lets HAProxy end in peace.
func (d *Driver) Close(ctx context.Context) error {
	d.mu.Lock()
	process := d.process
	d.mu.Unlock()
	if process == nil {
		return nil
	}
	err := process.Close(ctx)
	if d.site.relay != d.site.dir {
		err = errors.Join(err, os.RemoveAll(d.site.relay))
	}
	return err
}
