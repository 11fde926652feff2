package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxPorts bounds a report.
const maxPorts = 4000

// listening gives a line "PORT [PROGRAM]" for each port that something on the node listens on, beyond its own loopback.
func listening(proc string, programs bool) (string, error) {
	inodes := map[int]string{} // by port
	for _, table := range []struct{ name, state string }{{"tcp", "0A"}, {"tcp6", "0A"}, {"udp", "07"}, {"udp6", "07"}} {
		text, err := os.ReadFile(filepath.Join(proc, "net", table.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return "", fmt.Errorf("reading sockets: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if port, inode, ok := socket(line, table.state); ok {
				inodes[port] = inode
			}
		}
	}
	names := map[string]string{}
	if programs {
		names = owners(proc)
	}
	var out strings.Builder
	ports := slices.Sorted(maps.Keys(inodes))
	for _, port := range ports[:min(len(ports), maxPorts)] {
		fmt.Fprintln(&out, strings.TrimSpace(strconv.Itoa(port)+" "+names[inodes[port]]))
	}
	return out.String(), nil
}

// socket reads a line of /proc/net/tcp and its like: "0: 0100007F:0CEA 00000000:0000 0A … uid timeout inode …".
func socket(line, state string) (port int, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != state {
		return 0, "", false
	}
	address, number, _ := strings.Cut(f[1], ":")
	// Addresses are in the machine's own order: 127.0.0.1 ends with 7F, ::1 with 01000000.
	loopback := len(address) == 8 && strings.HasSuffix(address, "7F") || address == "00000000000000000000000001000000"
	n, err := strconv.ParseUint(number, 16, 16)
	return int(n), f[9], err == nil && !loopback
}

// owners gives the programs that hold sockets, by inode, as far as they may be looked into.
func owners(proc string) map[string]string {
	out := map[string]string{}
	processes, _ := filepath.Glob(filepath.Join(proc, "[0-9]*")) // the pattern is a good one
	slices.SortFunc(processes, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, process := range processes {
		descriptors, err := os.ReadDir(filepath.Join(process, "fd"))
		if err != nil {
			continue // gone, or not ours to look into
		}
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			continue
		}
		for _, d := range descriptors {
			target, err := os.Readlink(filepath.Join(process, "fd", d.Name()))
			inode, socket := strings.CutPrefix(target, "socket:[")
			if err != nil || !socket {
				continue
			}
			inode = strings.TrimSuffix(inode, "]")
			if _, known := out[inode]; !known { // of a family, the eldest
				out[inode] = strings.TrimSpace(string(name))
			}
		}
	}
	return out
}
