//go:build e2e

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	settle   = 15 * time.Second
	measured = 60 * time.Second
	// ticks per second of the times in /proc/PID/stat: the same on every Linux that Go runs on.
	ticks = 100
)

// cost of all processes of one program.
type cost struct {
	processes int
	cpu       float64 // seconds so far
	pss       int     // KiB
}

// idle prints what each program of the instance costs while nothing happens.
func (b *bench) idle(ctx context.Context) error {
	if err := wait(ctx, settle); err != nil {
		return err
	}
	before := costs(b.dir)
	if err := wait(ctx, measured); err != nil {
		return err
	}
	after := costs(b.dir)
	total := cost{}
	fmt.Printf("  %-28s %9s %8s %10s\n", "program", "processes", "CPU", "PSS")
	line := func(name string, c cost) {
		fmt.Printf("  %-28s %9d %6.2f %% %6d MiB\n", name, c.processes, 100*c.cpu/measured.Seconds(), c.pss>>10)
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		c := after[name]
		c.cpu -= before[name].cpu
		line(name, c)
		total = cost{total.processes + c.processes, total.cpu + c.cpu, total.pss + c.pss}
	}
	line("all", total)
	return nil
}

// costs sums what the instance's processes cost: those started with its data directory and all they started.
func costs(dir string) map[string]cost {
	children := map[int][]int{}
	var queue []int
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		pid, _ := strconv.Atoi(filepath.Base(folder))
		fields, ok := stat(pid)
		if !ok || pid == os.Getpid() {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], pid)
		if bytes.Contains(commandLine(pid), []byte(dir)) {
			queue = append(queue, pid)
		}
	}
	seen, sum := map[int]bool{}, map[string]cost{}
	for len(queue) > 0 {
		pid := queue[0]
		queue = append(queue[1:], children[pid]...)
		if !seen[pid] {
			seen[pid] = true
			add(sum, pid)
		}
	}
	return sum
}

func add(sum map[string]cost, pid int) {
	fields, ok := stat(pid)
	words := bytes.Split(commandLine(pid), []byte{0})
	if !ok || len(words[0]) == 0 {
		return
	}
	name := filepath.Base(string(words[0]))
	// Our own programs are told apart by their sub-command: server, registry, the engine's daemon and units.
	if strings.HasPrefix(name, "yunfan") && len(words) > 1 && !bytes.HasPrefix(words[1], []byte("-")) {
		name += " " + string(words[1])
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	c := sum[name]
	sum[name] = cost{c.processes + 1, c.cpu + float64(user+system)/ticks, c.pss + pss(pid)}
}

// stat gives the fields of /proc/PID/stat after the name, which may hold anything.
func stat(pid int) ([]string, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	end := bytes.LastIndexByte(text, ')')
	if err != nil || end < 0 {
		return nil, false
	}
	fields := strings.Fields(string(text[end+1:]))
	return fields, len(fields) > 12
}

func commandLine(pid int) []byte {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return text
}

// pss is a process' proportional share of memory, in KiB; 0 if it has ended.
func pss(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return kib
		}
	}
	return 0
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
