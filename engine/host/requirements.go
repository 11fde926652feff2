package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"yunfan.io/engine/topology"
)

// What a machine must have.
const (
	minKernelMajor, minKernelMinor = 3, 10
	minDisk                        = 4 << 30 // bytes free below the data directory
)

// Facts is what is known about a machine that is to carry nodes.
type Facts struct {
	OS       string
	UID      int
	Kernel   string   // release, e.g. "6.1.0-18-amd64"
	Missing  []string // programs that were not found
	FreeDisk uint64   // bytes
	Network  error    // why the network probe failed
}

// Check returns every reason to refuse the machine.
func (f Facts) Check() error {
	var errs []error
	if f.OS != "linux" {
		errs = append(errs, fmt.Errorf("the engine runs on Linux only, this is %s: use `yunfan server --kubeconfig` with an existing cluster", f.OS))
	}
	if f.UID != 0 {
		errs = append(errs, errors.New("the engine needs root for namespaces and networks: run it with sudo"))
	}
	if err := CheckKernel(f.Kernel); err != nil {
		errs = append(errs, err)
	}
	if len(f.Missing) > 0 {
		errs = append(errs, fmt.Errorf("programs are missing: %s: `make build` makes the engine's own, the package nftables brings nft", strings.Join(f.Missing, ", ")))
	}
	if f.FreeDisk < minDisk {
		errs = append(errs, fmt.Errorf("only %d MiB of disk are free below the data directory, %d are needed: free some or choose another --data-dir", f.FreeDisk>>20, minDisk>>20))
	}
	if f.Network != nil {
		errs = append(errs, fmt.Errorf("the network probe failed: %w", f.Network))
	}
	return errors.Join(errs...)
}

// CheckKernel refuses a kernel older than 3.10.
func CheckKernel(release string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return fmt.Errorf("kernel release %q is not understood: expected something like 6.1.0", release)
	}
	if major < minKernelMajor || major == minKernelMajor && minor < minKernelMinor {
		return fmt.Errorf("kernel %s is too old: %d.%d or newer is needed", release, minKernelMajor, minKernelMinor)
	}
	return nil
}

// Gather looks at this machine.
func Gather(ctx context.Context, programs topology.Programs, dataDir string) (Facts, error) {
	f := Facts{OS: runtime.GOOS, UID: os.Geteuid()}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return f, fmt.Errorf("asking for the kernel release: %w", err)
	}
	f.Kernel = unix.ByteSliceToString(name.Release[:])
	var disk unix.Statfs_t
	if err := unix.Statfs(dataDir, &disk); err != nil {
		return f, fmt.Errorf("measuring free disk: %w", err)
	}
	f.FreeDisk = disk.Bavail * uint64(disk.Bsize)
	for _, p := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
		"containerd", "containerd-shim-runc-v2", "runc", "ctr", "cni/ptp", "cni/host-local", "cni/loopback", "cni/portmap",
		"yunfan-policy", "cni/yunfan-policy"} {
		if _, err := os.Stat(programs.Path(p)); err != nil {
			f.Missing = append(f.Missing, p)
		}
	}
	if _, err := exec.LookPath("nft"); err != nil {
		f.Missing = append(f.Missing, "nft")
	} else if f.UID == 0 {
		f.Network = probeNetwork(ctx)
	}
	return f, nil
}

// probeNetwork asks the kernel, without changing anything, whether it has the packet filters clusters are made of.
func probeNetwork(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "nft", "--check", "-f", "-")
	cmd.Stdin = strings.NewReader(`
table ip yunfanprobe {
 chain c { type nat hook postrouting priority 100; ip saddr 198.18.0.0/18 masquerade; };
}
table bridge yunfanprobe {
 chain c { type filter hook prerouting priority -300; ether type != arp drop; };
}
`)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nftables with NAT and bridge filters is needed in the kernel: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
