package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// States of sockets in /proc/net/tcp.
const (
	established = "01"
	listening   = "0A"
)

// socket is a line of /proc/net/tcp.
type socket struct {
	local, remote netip.AddrPort
	state         string
}

// connections counts the established connections of this network namespace by their remote end. Those that somebody else
// opened, to a port that is listened on here, are left out.
func connections(folder string) (map[string]int, error) {
	var all []socket
	for _, name := range []string{"tcp", "tcp6"} {
		sockets, err := read(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		all = append(all, sockets...)
	}
	served := map[uint16]bool{}
	for _, s := range all {
		if s.state == listening {
			served[s.local.Port()] = true
		}
	}
	counts := map[string]int{}
	for _, s := range all {
		if s.state == established && !served[s.local.Port()] {
			counts[s.remote.String()]++
		}
	}
	return counts, nil
}

// read gives the sockets of one file; none where the kernel has no such protocol.
func read(path string) ([]socket, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening sockets: %w", err)
	}
	defer file.Close()
	sockets, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return sockets, nil
}

// parse reads lines like "0: 0100007F:0CEA 0100007F:1F90 01 …" below a heading.
func parse(in io.Reader) ([]socket, error) {
	var out []socket
	lines := bufio.NewScanner(in)
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) < 4 {
			continue
		}
		local, err := endpoint(fields[1])
		if err != nil {
			return nil, err
		}
		remote, err := endpoint(fields[2])
		if err != nil {
			return nil, err
		}
		out = append(out, socket{local: local, remote: remote, state: fields[3]})
	}
	return out, lines.Err()
}

// endpoint reads an address and port: words of 32 bits in the order of the machine's bytes, and a port in hexadecimal.
func endpoint(text string) (netip.AddrPort, error) {
	digits, port, _ := strings.Cut(text, ":")
	bytes, err := hex.DecodeString(digits)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the address %q: %w", text, err)
	}
	for word := 0; word+4 <= len(bytes); word += 4 {
		binary.BigEndian.PutUint32(bytes[word:], binary.NativeEndian.Uint32(bytes[word:]))
	}
	address, ok := netip.AddrFromSlice(bytes)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the address %q: it is not one", text)
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(number)), nil
}
