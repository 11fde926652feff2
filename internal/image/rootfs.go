package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// DefaultMirror serves Debian's main suites; its security suites are expected beside it in debian-security.
const DefaultMirror = "http://deb.debian.org/debian"

// layerFormat is part of every cache key: raise it when the way layers are made changes.
const layerFormat = 1

// DefaultCacheDir is $YUNFAN_CACHE, or the yunfan folder of the user's cache directory.
func DefaultCacheDir() (string, error) {
	if dir := os.Getenv("YUNFAN_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w: set YUNFAN_CACHE", err)
	}
	return filepath.Join(dir, "yunfan"), nil
}

type debianLayer struct {
	layer v1.Layer
	what  string
}

// debianLayers gives the base layer, shared by all images of a suite, and the layer of the recipe's packages.
func (p *Packer) debianLayers(ctx context.Context, d *Debian) ([]debianLayer, error) {
	base, err := p.cached(ctx, cacheKey("base", d.Suite), func(dir, out string) error {
		return p.buildBase(ctx, d.Suite, dir, out)
	})
	if err != nil {
		return nil, fmt.Errorf("making the base system of Debian %s: %w", d.Suite, err)
	}
	packages := strings.Join(d.Packages, " ")
	var names []string
	if d.Base != BaseNone {
		names = append(names, base)
		if len(d.Packages)+len(d.Run)+len(d.Remove) == 0 {
			return openLayers(names, "Debian "+d.Suite)
		}
	}
	added, err := p.cached(ctx, cacheKey("packages", d), func(dir, out string) error {
		if d.Base == BaseNone {
			return p.buildUnpacked(ctx, d, base, dir, out)
		}
		return p.buildPackages(ctx, d, base, dir, out)
	})
	if err != nil {
		return nil, fmt.Errorf("adding Debian packages %s: %w", packages, err)
	}
	return openLayers(append(names, added), "Debian "+d.Suite, packages)
}

func openLayers(paths []string, what ...string) ([]debianLayer, error) {
	var out []debianLayer
	for i, path := range paths {
		l, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("reading cached layer %s: %w: remove the file to make it anew", path, err)
		}
		out = append(out, debianLayer{l, what[len(what)-len(paths)+i]})
	}
	return out, nil
}

func cacheKey(kind string, definition any) string {
	data, err := json.Marshal([]any{layerFormat, runtime.GOARCH, kind, definition})
	if err != nil { // only strings and lists of strings get here
		panic(err)
	}
	sum := sha256.Sum256(data)
	return kind + "-" + hex.EncodeToString(sum[:8])
}

// cached returns the path of the layer named key, built once by build(scratch directory, output file). Processes that
// want the same layer wait for each other.
func (p *Packer) cached(ctx context.Context, key string, build func(dir, out string) error) (string, error) {
	dir := filepath.Join(p.CacheDir, "layers")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, key+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	final := filepath.Join(dir, key+".tar.gz")
	if _, err := os.Stat(final); err == nil && !p.Refresh {
		return final, nil
	}
	if os.Geteuid() != 0 {
		return "", errors.New("making a Debian root file system needs root: run as root, or take the finished image archives")
	}
	if err := removeLeftOvers(dir, key); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, ".build-"+key+"-*")
	if err != nil {
		return "", fmt.Errorf("making a scratch directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	root, out := filepath.Join(tmp, "root"), filepath.Join(tmp, "layer.tar.gz")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", fmt.Errorf("making a scratch directory: %w", err)
	}
	if err := build(root, out); err != nil {
		return "", err
	}
	if err := os.Rename(out, final); err != nil {
		return "", fmt.Errorf("storing the layer: %w", err)
	}
	return final, nil
}

// removeLeftOvers removes what a killed process left behind; the caller holds the lock of the key.
func removeLeftOvers(dir, key string) error {
	paths, err := filepath.Glob(filepath.Join(dir, ".build-"+key+"-*"))
	for _, path := range paths {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("removing an unfinished root file system: %w", err)
	}
	return nil
}

func (p *Packer) buildBase(ctx context.Context, suite, root, out string) error {
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return errors.New("debootstrap is missing: apt-get install debootstrap")
	}
	mirror := p.mirror()
	p.say("making the base system of Debian %s (about a minute, once)", suite)
	if err := p.isolated(ctx, "", "debootstrap", "--variant=minbase", suite, root, mirror); err != nil {
		return err
	}
	// debootstrap knows only the main suite; updates and security come from apt.
	sources := fmt.Sprintf("deb %[1]s %[2]s main\ndeb %[1]s %[2]s-updates main\ndeb %[1]s-security %[2]s-security main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(root, "etc/apt/sources.list"), []byte(sources), 0o644); err != nil {
		return fmt.Errorf("naming the mirror: %w", err)
	}
	if err := p.apt(ctx, root, []string{"apt-get", "upgrade", "-y", "-q", "--no-install-recommends"}); err != nil {
		return err
	}
	return finish(root, out, nil)
}

func (p *Packer) buildPackages(ctx context.Context, d *Debian, base, root, out string) error {
	index, err := readLayerIndex(base)
	if err != nil {
		return err
	}
	if err := p.unpackBase(ctx, base, root); err != nil {
		return err
	}
	if len(d.Packages) > 0 {
		p.say("installing %s", strings.Join(d.Packages, " "))
		install := append([]string{"apt-get", "install", "-y", "-q", "--no-install-recommends", "--"}, d.Packages...)
		if err := p.apt(ctx, root, install); err != nil {
			return err
		}
	}
	if err := p.customise(ctx, d, root); err != nil {
		return err
	}
	return finish(root, out, index)
}

// buildUnpacked takes the packages' files alone, fetched and verified by the apt of the base system.
func (p *Packer) buildUnpacked(ctx context.Context, d *Debian, base, root, out string) error {
	tool := root + ".apt"
	if err := os.Mkdir(tool, 0o755); err != nil {
		return fmt.Errorf("making a scratch directory: %w", err)
	}
	if err := p.unpackBase(ctx, base, tool); err != nil {
		return err
	}
	p.say("unpacking %s", strings.Join(d.Packages, " "))
	download := append([]string{"apt-get", "download", "-q", "--"}, d.Packages...)
	if err := p.apt(ctx, tool, download); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tool, "*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("finding downloaded packages: none in %s", tool)
	}
	for _, deb := range debs {
		if err := p.run(ctx, "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	if err := p.customise(ctx, d, root); err != nil {
		return err
	}
	return finish(root, out, nil)
}

func (p *Packer) unpackBase(ctx context.Context, base, root string) error {
	if err := p.run(ctx, "tar", "-xzpf", base, "--numeric-owner", "-C", root); err != nil {
		return err
	}
	devices := []struct {
		name  string
		minor uint32
	}{{"null", 3}, {"zero", 5}, {"full", 7}, {"random", 8}, {"urandom", 9}}
	for _, device := range devices {
		path := filepath.Join(root, "dev", device.name)
		err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, device.minor)))
		if err == nil {
			err = os.Chmod(path, 0o666)
		}
		if err != nil {
			return fmt.Errorf("making /dev/%s: %w", device.name, err)
		}
	}
	return nil
}

// customise does what the recipe says beyond its packages.
func (p *Packer) customise(ctx context.Context, d *Debian, root string) error {
	for _, argv := range d.Run {
		p.say("running %s", strings.Join(argv, " "))
		if err := p.inside(ctx, root, argv); err != nil {
			return err
		}
	}
	return removeGlobs(root, d.Remove)
}

// apt runs one apt command in a root file system with fresh package lists and without starting any service.
func (p *Packer) apt(ctx context.Context, root string, argv []string) error {
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("reading name servers: %w", err)
	}
	err = withRoot(root, func(r *os.Root) error {
		return errors.Join(r.RemoveAll("etc/resolv.conf"), r.WriteFile("etc/resolv.conf", resolv, 0o644),
			r.WriteFile(policyFile, []byte("#!/bin/sh\nexit 101\n"), 0o755), // no package may start its services
			r.WriteFile(settingsFile, []byte("Acquire::Retries \"3\";\nAcquire::http::Timeout \"30\";\nAcquire::Languages \"none\";\n"), 0o644))
	})
	if err != nil {
		return fmt.Errorf("preparing apt: %w", err)
	}
	for _, argv := range [][]string{{"apt-get", "update", "-q"}, argv} {
		if err := p.inside(ctx, root, argv); err != nil {
			return err
		}
	}
	return withRoot(root, func(r *os.Root) error { return errors.Join(r.Remove(policyFile), r.Remove(settingsFile)) })
}

// Files that exist in a root file system only while apt runs.
const (
	policyFile   = "usr/sbin/policy-rc.d"
	settingsFile = "etc/apt/apt.conf.d/99yunfan"
)

// withRoot gives access to a root file system that no symbolic link in it can lead out of.
func withRoot(dir string, do func(*os.Root) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return do(root)
}

// inside runs a program in a root file system.
func (p *Packer) inside(ctx context.Context, root string, argv []string) error {
	proc := filepath.Join(root, "proc")
	if err := os.MkdirAll(proc, 0o555); err != nil {
		return fmt.Errorf("making /proc: %w", err)
	}
	return p.isolated(ctx, "="+proc, append([]string{"chroot", root}, argv...)...)
}

// isolated runs a program in process and mount namespaces of its own: whatever it starts or mounts is gone when it ends,
// however it ends. proc is "" or "=" and where /proc shall be.
func (p *Packer) isolated(ctx context.Context, proc string, argv ...string) error {
	return p.run(ctx, "unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc" + proc}, argv...)...)
}

// run executes a program with a small, fixed environment and shows its progress. An error carries its last lines.
func (p *Packer) run(ctx context.Context, program string, args ...string) error {
	out := &progressWriter{to: p.Progress}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root",
		"DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH=0",
	}
	for _, proxy := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(proxy); ok {
			cmd.Env = append(cmd.Env, proxy+"="+v)
		}
	}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, 5*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it does not outlive us
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("running %s: %w", program, ctx.Err())
		}
		return fmt.Errorf("running %s: %w\n%s", program, err, out.tail())
	}
	return nil
}

func (p *Packer) mirror() string {
	if p.Mirror != "" {
		return strings.TrimSuffix(p.Mirror, "/")
	}
	return DefaultMirror
}

func (p *Packer) say(format string, args ...any) { fmt.Fprintf(p.Progress, format+"\n", args...) }

// dropped is what no image needs, what differs from one machine or run to the next, and what the runtime provides.
// Copyright files stay: they must go with the software.
var dropped = []string{
	"/dev/*", "/proc/*", "/sys/*", "/run/*", "/tmp/*", "/var/tmp/*", "/var/log/*", "/var/cache/*", "/var/lib/apt/lists/*",
	"/var/lib/dpkg/*-old", "/var/lib/dpkg/lock*", "/var/lib/systemd/*", "/etc/machine-id", "/etc/hostname", "/etc/hosts",
	"/etc/resolv.conf", "/etc/.pwd.lock", "/etc/*-", "/root/.bash_history", "/usr/share/man/*", "/usr/share/info/*",
	"/usr/share/locale/*", "/usr/share/lintian", "/usr/share/bug", "/usr/share/doc/*/*",
}

// finish cleans a root file system and writes it, or what it adds to the base, as a layer.
func finish(root, out string, base layerIndex) error {
	if err := removeGlobs(root, dropped); err != nil {
		return err
	}
	if err := withRoot(root, normaliseShadow); err != nil {
		return fmt.Errorf("fixing the dates of accounts: %w", err)
	}
	return writeTreeLayer(root, out, base)
}

func removeGlobs(dir string, globs []string) error {
	return withRoot(dir, func(root *os.Root) error {
		for _, g := range globs {
			paths, err := fs.Glob(root.FS(), strings.TrimPrefix(g, "/"))
			if err != nil {
				return fmt.Errorf("removing %s: %w", g, err)
			}
			for _, path := range paths {
				if filepath.Base(path) == "copyright" {
					continue
				}
				if err := root.RemoveAll(path); err != nil {
					return fmt.Errorf("removing %s: %w", g, err)
				}
			}
		}
		return nil
	})
}

var shadowDay = regexp.MustCompile(`(?m)^([^:\n]*:[^:\n]*:)\d+:`)

// normaliseShadow replaces the day of the last password change, which is the day of the build.
func normaliseShadow(root *os.Root) error {
	const shadow = "etc/shadow"
	data, err := root.ReadFile(shadow)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return root.WriteFile(shadow, shadowDay.ReplaceAll(data, []byte("${1}1:")), 0o640)
}
