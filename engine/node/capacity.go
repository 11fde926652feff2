package node

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"yunfan.io/engine/topology"
)

// A node offers at least this much, even if the nodes together then offer more than the machine has: CPU can be
// shared, and small clusters should hold a hundred small pods.
const (
	minMilliCPU = 2000
	minMemory   = 2 << 30
)

// Machine is what the host has.
type Machine struct {
	MilliCPU int64
	Memory   int64 // bytes
}

// ThisMachine counts processors and memory.
func ThisMachine() (Machine, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return Machine{}, fmt.Errorf("measuring memory: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return Machine{}, fmt.Errorf("measuring memory: %w", err)
			}
			return Machine{int64(runtime.NumCPU()) * 1000, kib << 10}, nil
		}
	}
	return Machine{}, fmt.Errorf("measuring memory: no MemTotal in /proc/meminfo")
}

// Reserved is what kubelet withholds from pods, so that a node does not offer the whole machine.
type Reserved struct{ CPU, Memory string }

// Reserve computes what a node of the wanted size withholds on a machine with so many nodes. Without a wish a node
// offers an even share, but at least 2 CPUs and 2 GiB (or the whole machine if it is smaller).
func (m Machine) Reserve(want topology.NodeSize, nodes int) (Reserved, error) {
	cpu := max(m.MilliCPU/int64(max(nodes, 1)), minMilliCPU)
	memory := max(m.Memory/int64(max(nodes, 1)), minMemory)
	if want.CPU != "" {
		q, err := resource.ParseQuantity(want.CPU)
		if err != nil {
			return Reserved{}, fmt.Errorf("parsing node cpu %q: %w", want.CPU, err)
		}
		cpu = q.MilliValue()
	}
	if want.Memory != "" {
		q, err := resource.ParseQuantity(want.Memory)
		if err != nil {
			return Reserved{}, fmt.Errorf("parsing node memory %q: %w", want.Memory, err)
		}
		memory = q.Value()
	}
	return Reserved{
		CPU:    fmt.Sprintf("%dm", max(m.MilliCPU-cpu, 0)),
		Memory: fmt.Sprintf("%dKi", max(m.Memory-memory, 0)>>10),
	}, nil
}
