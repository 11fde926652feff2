package testkit

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// PostgreSQL is a server of the Debian package postgresql, on a port of its own with data of its own. It never runs as
// root, which it refuses, but as nobody.
type PostgreSQL struct {
	// URL of a database in it, with a password.
	URL string
	// Password is the one in URL.
	Password string

	dir, bin string
	port     int
}

// unprivileged is the user nobody on Debian.
const unprivileged = 65534

// StartPostgreSQL starts a server that ends with the test.
func StartPostgreSQL(t testing.TB) *PostgreSQL {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is missing: run make test-deps, or install Debian's postgresql")
	}
	slices.Sort(found)
	p := &PostgreSQL{bin: filepath.Dir(found[len(found)-1]), Password: rand.Text(), port: freePort(t)}
	// Not t.TempDir: the path of its socket must be short, and nobody must be let into the folders above.
	if p.dir, err = os.MkdirTemp("", "pg"); err != nil { //nolint:usetesting // as said above
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(p.dir) })
	if os.Geteuid() == 0 {
		if err := os.Chown(p.dir, unprivileged, unprivileged); err != nil {
			t.Fatal(err)
		}
	}
	password := filepath.Join(p.dir, "password")
	if err := os.WriteFile(password, []byte(p.Password), 0o644); err != nil {
		t.Fatal(err)
	}
	p.URL = (&url.URL{
		Scheme: "postgres", User: url.UserPassword("yunfan", p.Password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port)), Path: "/postgres", RawQuery: "sslmode=disable",
	}).String()
	p.run(t, "initdb", "-D", p.data(), "-U", "yunfan", "-A", "scram-sha-256", "--pwfile", password, "-N", "-E", "UTF8", "--locale", "C")
	p.Start(t)
	t.Cleanup(func() { p.Stop(t) })
	return p
}

// Start starts the server again after Stop.
func (p *PostgreSQL) Start(t testing.TB) {
	t.Helper()
	options := fmt.Sprintf("-c listen_addresses=127.0.0.1 -c port=%d -c unix_socket_directories=%s", p.port, p.dir)
	p.run(t, "pg_ctl", "-D", p.data(), "-l", filepath.Join(p.dir, "log"), "-o", options, "-w", "-t", strconv.Itoa(int(startTimeout.Seconds())), "start")
}

// Stop ends the server at once, with all its connections. It may be stopped already.
func (p *PostgreSQL) Stop(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(p.data(), "postmaster.pid")); err != nil {
		return
	}
	p.run(t, "pg_ctl", "-D", p.data(), "-m", "immediate", "-w", "stop")
}

func (p *PostgreSQL) data() string { return filepath.Join(p.dir, "data") }

func (p *PostgreSQL) run(t testing.TB, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.Dir = p.dir
	var said bytes.Buffer
	if program == "initdb" { // what a server inherits stays open as long as it runs
		cmd.Stdout, cmd.Stderr = &said, &said
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged}}
	}
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
		t.Fatalf("running %s: %v\n%s%s", program, err, said.Bytes(), log)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
