// Package host deals with what the instances on one machine share: the requirements the machine must meet, the
// ranges of addresses in use, and the kernel settings that kubelet changes and the last instance puts back.
package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"yunfan.io/engine/topology"
)

// Dir holds one file per running instance. It is below /run, so that a reboot forgets it.
const Dir = "/run/yunfan"

// lockFile is beside the directory, which the last instance deletes while it holds the lock.
const lockFile = Dir + ".lock"

// sysctls are global settings that kubelet, or the engine itself, changes.
var sysctls = []string{
	"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys",
	"kernel.keys.root_maxbytes", "net.ipv4.ip_forward", "fs.inotify.max_user_instances", "fs.inotify.max_user_watches",
	"net.ipv4.neigh.default.gc_thresh1", "net.ipv4.neigh.default.gc_thresh2", "net.ipv4.neigh.default.gc_thresh3",
}

// limits are raised to at least this: the defaults serve one desktop, not the file watches of many kubelets and the
// neighbours of hundreds of pods, which all network namespaces count together.
var limits = map[string]int{
	"fs.inotify.max_user_instances": 8192, "fs.inotify.max_user_watches": 524288,
	"net.ipv4.neigh.default.gc_thresh1": 2048, "net.ipv4.neigh.default.gc_thresh2": 8192, "net.ipv4.neigh.default.gc_thresh3": 16384,
}

// mountPoints must exist for nodes to bind their own directories over them.
var mountPoints = []string{"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/yunfan-volumes", "/var/lib/cni"}

// Instance is a running instance as others see it.
type Instance struct {
	Name    string `json:"name"`
	Index   int    `json:"index"`
	DataDir string `json:"dataDir"`
}

// Before is what the machine was like before the first instance.
type Before struct {
	BootID  string            `json:"bootID"`
	Sysctls map[string]string `json:"sysctls"`
	Made    []string          `json:"made,omitempty"` // directories that did not exist
}

// Instances lists those registered whose data directory still exists.
func Instances() ([]Instance, error) {
	files, err := filepath.Glob(filepath.Join(Dir, "instance-*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing instances: %w", err)
	}
	var out []Instance
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // stopped this moment
		}
		var i Instance
		if err := json.Unmarshal(data, &i); err != nil {
			return nil, fmt.Errorf("reading %s: %w: delete it if no instance runs", file, err)
		}
		if _, err := os.Stat(i.DataDir); err == nil {
			out = append(out, i)
		}
	}
	return out, nil
}

// Register records an instance. choose is called under a lock with the other instances and picks the index; it must
// refuse what cannot run beside them. keep is a file in the data directory where the machine's former settings are
// kept too: if only /run was wiped, they are still known.
func Register(i Instance, keep string, choose func(others []Instance) (int, error)) (int, error) {
	unlock, err := lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	all, err := Instances()
	if err != nil {
		return 0, err
	}
	var others []Instance
	for _, o := range all {
		if o.DataDir != i.DataDir {
			others = append(others, o)
		}
	}
	if i.Index, err = choose(others); err != nil {
		return 0, err
	}
	if err := remember(keep); err != nil {
		return 0, err
	}
	return i.Index, save(instanceFile(i.Index), i)
}

// Release forgets an instance; the last one puts the machine's settings back.
func Release(index int, keep string) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(instanceFile(index)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("releasing instance: %w", err)
	}
	others, err := Instances()
	if err != nil {
		return err
	}
	var errs []error
	if len(others) == 0 {
		before, ok := load(filepath.Join(Dir, "before.json"))
		if !ok {
			before, ok = load(keep)
		}
		if ok {
			errs = append(errs, before.restore())
		}
		errs = append(errs, os.RemoveAll(Dir), os.Remove(lockFile))
	}
	if err := os.Remove(keep); !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Foreign tells whether an index now belongs to an instance with another data directory.
func Foreign(index int, dataDir string) (bool, error) {
	all, err := Instances()
	for _, i := range all {
		if i.Index == index && i.DataDir != dataDir {
			return true, nil
		}
	}
	return false, err
}

func instanceFile(index int) string {
	return filepath.Join(Dir, fmt.Sprintf("instance-%d.json", index))
}

// remember records the machine's settings before the first instance changes them.
func remember(keep string) error {
	shared := filepath.Join(Dir, "before.json")
	before, ok := load(shared)
	if !ok {
		before, ok = load(keep)
	}
	now, err := observe()
	if err != nil {
		return err
	}
	now.Made = before.Made // also of an earlier boot that did not end in order
	if ok {
		maps.Copy(now.Sysctls, before.Sysctls) // what an older engine did not record yet is as it was
	}
	before = now
	for _, dir := range mountPoints {
		if err := os.Mkdir(dir, 0o755); err == nil {
			before.Made = append(before.Made, dir)
		} else if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making a mount point: %w", err)
		}
	}
	return errors.Join(save(shared, before), save(keep, before), raiseLimits())
}

func observe() (Before, error) {
	id, err := bootID()
	if err != nil {
		return Before{}, err
	}
	b := Before{BootID: id, Sysctls: map[string]string{}}
	for _, name := range sysctls {
		if value, err := readSysctl(name); err == nil {
			b.Sysctls[name] = value
		}
	}
	return b, nil
}

func raiseLimits() error {
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		least := limits[name]
		value, err := readSysctl(name)
		if err != nil {
			return fmt.Errorf("reading sysctl %s: %w", name, err)
		}
		if n, err := strconv.Atoi(value); err == nil && n < least {
			if err := WriteSysctl(name, strconv.Itoa(least)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b Before) restore() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(b.Sysctls)) {
		value := b.Sysctls[name]
		if now, err := readSysctl(name); err == nil && now != value {
			errs = append(errs, WriteSysctl(name, value))
		}
	}
	for _, dir := range b.Made {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, fmt.Errorf("removing mount point: %w", err))
		}
	}
	return errors.Join(errs...)
}

// load tells whether the settings are of the running boot: a reboot has reset them.
func load(path string) (Before, bool) {
	var b Before
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &b) != nil {
		return b, false
	}
	id, err := bootID()
	return b, err == nil && id == b.BootID
}

func save(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return topology.WriteFile(path, data, 0o600)
}

func lock() (func(), error) {
	for {
		f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("locking instances: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("locking instances: %w", err), f.Close())
		}
		// The former holder may have deleted the file: then this lock guards nothing.
		mine, err := f.Stat()
		if there, e := os.Stat(lockFile); err == nil && e == nil && os.SameFile(mine, there) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
	}
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func sysctlPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile(sysctlPath(name))
	return strings.TrimSpace(string(data)), err
}

// WriteSysctl sets a kernel setting, e.g. net.ipv4.ip_forward.
func WriteSysctl(name, value string) error {
	if err := os.WriteFile(sysctlPath(name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("setting sysctl %s: %w", name, err)
	}
	return nil
}
