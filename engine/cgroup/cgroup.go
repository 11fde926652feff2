// Package cgroup gives every unit of the engine (a control plane or a node) cgroups of its own, to freeze, count and
// remove what runs in it. Cgroup v1 is what it was developed and run on; the v2 half was written with care from the
// kernel's documentation but not run.
package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Hierarchies are the cgroup mounts of the host.
type Hierarchies struct {
	// V1 maps each v1 controller set, as in the mount option ("cpu,cpuacct", "name=systemd"), to its mount point.
	V1 map[string]string
	// V2 is the mount point of the unified hierarchy, empty when v1 hierarchies hold the controllers.
	V2 string
}

// Detect reads the cgroup mounts of this process.
func Detect() (Hierarchies, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Hierarchies{}, fmt.Errorf("looking for cgroups: %w", err)
	}
	defer f.Close()
	return parse(f)
}

// parse understands lines such as
//
//	30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup none rw,cpu,cpuacct
func parse(mountinfo io.Reader) (Hierarchies, error) {
	h := Hierarchies{V1: map[string]string{}}
	unified := ""
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		before, after, found := strings.Cut(lines.Text(), " - ")
		mount, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(mount) < 5 || len(kind) < 3 || mount[3] != "/" {
			continue
		}
		switch kind[0] {
		case "cgroup":
			if set := controllers(kind[2]); set != "" && h.V1[set] == "" {
				h.V1[set] = mount[4]
			}
		case "cgroup2":
			if unified == "" {
				unified = mount[4]
			}
		}
	}
	if err := lines.Err(); err != nil {
		return h, fmt.Errorf("looking for cgroups: %w", err)
	}
	if len(h.V1) == 0 {
		h.V2 = unified
	}
	if len(h.V1) == 0 && h.V2 == "" {
		return h, errors.New("looking for cgroups: none are mounted below /sys/fs/cgroup: mount them first")
	}
	return h, nil
}

// controllers picks the controller names out of the options of a v1 mount.
func controllers(options string) string {
	var set []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "relatime", "noatime", "clone_children", "xattr", "nosuid", "nodev", "noexec", "noprefix", "release_agent", "seclabel":
		default:
			if !strings.HasPrefix(o, "release_agent=") {
				set = append(set, o)
			}
		}
	}
	return strings.Join(set, ",")
}

// Group is one cgroup, the same path in every hierarchy.
type Group struct {
	Hierarchies
	Path string // e.g. "yunfan/default/beijing.control-plane"
}

func (g Group) dirs() []string {
	if g.V2 != "" {
		return []string{filepath.Join(g.V2, g.Path)}
	}
	var out []string
	for _, mount := range g.V1 {
		out = append(out, filepath.Join(mount, g.Path))
	}
	slices.Sort(out)
	return out
}

// Join makes the group where it is missing and moves a process into it.
func (g Group) Join(pid int) error {
	for _, set := range slices.Sorted(maps.Keys(g.V1)) {
		if err := g.makeV1(set, g.V1[set]); err != nil {
			return err
		}
	}
	if g.V2 != "" {
		if err := g.makeV2(); err != nil {
			return err
		}
	}
	for _, dir := range g.dirs() {
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("joining cgroup: %w", err)
		}
	}
	return nil
}

// makeV1 creates the path level by level, because a cpuset is unusable until it has cpus and memory nodes.
func (g Group) makeV1(set, mount string) error {
	dir := mount
	for part := range strings.SplitSeq(g.Path, "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making cgroup: %w", err)
		}
		if !slices.Contains(strings.Split(set, ","), "cpuset") {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			data, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return fmt.Errorf("reading cpuset: %w", err)
			}
			if err := write(filepath.Join(dir, file), strings.TrimSpace(string(data))); err != nil {
				return fmt.Errorf("setting cpuset: %w", err)
			}
		}
		if err := write(filepath.Join(dir, "cgroup.clone_children"), "1"); err != nil {
			return fmt.Errorf("setting cpuset: %w", err)
		}
	}
	return nil
}

// makeV2 hands every controller down to the group, level by level.
func (g Group) makeV2() error {
	dir := g.V2
	for part := range strings.SplitSeq(g.Path, "/") {
		if err := Delegate(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making cgroup: %w", err)
		}
	}
	return nil
}

// Delegate makes all controllers of a v2 cgroup available to its children. One it cannot hand on is left out:
// kubelet names what it misses.
func Delegate(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("delegating cgroup controllers: %w", err)
	}
	for controller := range strings.FieldsSeq(string(data)) {
		_ = write(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
	}
	return nil
}

// Freeze stops or resumes every process of the group: sockets go on accepting, nobody answers.
func (g Group) Freeze(ctx context.Context, frozen bool) error {
	file, state, want := "cgroup.freeze", "cgroup.events", map[bool]string{true: "frozen 1", false: "frozen 0"}[frozen]
	value, dir := map[bool]string{true: "1", false: "0"}[frozen], filepath.Join(g.V2, g.Path)
	if g.V2 == "" {
		want = map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
		file, state, value = "freezer.state", "freezer.state", want
		dir = filepath.Join(g.V1["freezer"], g.Path)
		if g.V1["freezer"] == "" {
			return errors.New("freezing: no freezer cgroup is mounted: mount it at /sys/fs/cgroup/freezer")
		}
	}
	if err := write(filepath.Join(dir, file), value); err != nil {
		if errors.Is(err, fs.ErrNotExist) && !frozen {
			return nil
		}
		return fmt.Errorf("freezing: %w", err)
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, state))
		if err != nil {
			return fmt.Errorf("freezing: %w", err)
		}
		if strings.Contains(string(data), want) {
			return nil
		}
		if g.V2 == "" { // a process that was just forking makes v1 stay in FREEZING until it is told again
			_ = write(filepath.Join(dir, file), value)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("freezing: waiting for %q in %s: %w", want, dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ThawAll resumes whatever is frozen in the group or below, without waiting: the frozen cannot even be killed on v1.
func (g Group) ThawAll() {
	dir, file, value := filepath.Join(g.V2, g.Path), "cgroup.freeze", "0"
	if g.V2 == "" {
		dir, file, value = filepath.Join(g.V1["freezer"], g.Path), "freezer.state", "THAWED"
	}
	for _, sub := range tree(dir) {
		_ = write(filepath.Join(sub, file), value) // gone meanwhile: nothing to thaw
	}
}

// Exists tells whether any part of the group is there.
func (g Group) Exists() bool {
	return slices.ContainsFunc(g.dirs(), func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	})
}

// Kill sends SIGKILL to everything still in the group.
func (g Group) Kill() {
	if g.V2 != "" && write(filepath.Join(g.V2, g.Path, "cgroup.kill"), "1") == nil {
		return
	}
	for _, dir := range g.dirs() {
		for _, sub := range tree(dir) {
			data, _ := os.ReadFile(filepath.Join(sub, "cgroup.procs")) // gone meanwhile: nothing to kill
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}
}

// Remove deletes the group from the bottom up, waiting for the kernel to let go of it, and then its parents if they
// are empty.
func (g Group) Remove(ctx context.Context) error {
	for _, dir := range g.dirs() {
		if err := removeTree(ctx, dir); err != nil {
			return err
		}
		for parent := filepath.Dir(g.Path); parent != "."; parent = filepath.Dir(parent) {
			if os.Remove(strings.TrimSuffix(dir, g.Path)+parent) != nil {
				break
			}
		}
	}
	return nil
}

func removeTree(ctx context.Context, root string) error {
	for {
		var last error
		for _, dir := range slices.Backward(tree(root)) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				last = fmt.Errorf("removing cgroup %s: %w", dir, err)
			}
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tree lists a cgroup and all below it, parents first. Groups that disappear meanwhile are left out.
func tree(root string) []string {
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// write does not create: cgroup files exist or the kernel lacks the feature.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
