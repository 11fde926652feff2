// Command db-service is the entrypoint of the score example's database image: it makes the database on the first start
// and then becomes the MariaDB server.
//
// The data lies in a sub-folder of the volume. It is made under another name and renamed when it is complete, so a kill
// at any moment leaves either no database or a whole one.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The account of the image that the server runs as.
const (
	account   = "mysql"
	accountID = 999
)

const lockTimeout = 5 * time.Second

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("database cannot start", "error", err.Error())
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	s, err := settingsFromEnv(os.Getenv)
	if err != nil {
		return err
	}
	if err := prepare(s.home); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	fd, err := lock(ctx, s.home)
	if err != nil {
		return err
	}
	if err := initialise(ctx, log, s); err != nil {
		return err
	}
	return become(log, s, fd)
}

// prepare makes the folders and gives them to the server's account. Without root they must be writable already.
func prepare(home string) error {
	for _, dir := range []string{home, socketDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making %s: %w", dir, err)
		}
		if os.Geteuid() != 0 {
			continue
		}
		if err := os.Chown(dir, accountID, accountID); err != nil {
			return fmt.Errorf("giving %s to %s: %w", dir, account, err)
		}
	}
	return nil
}

// lock keeps a second server off the same volume; one that is just being killed gets a moment to go.
func lock(ctx context.Context, home string) (int, error) {
	path := filepath.Join(home, ".lock")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("opening %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return fd, nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("locking %s: %w: another database uses this volume", path, err)
		}
	}
}

// become replaces this program by the server, which goes on holding the lock.
func become(log *slog.Logger, s settings, lock int) error {
	argv := serverArgs(s)
	log.Info("starting MariaDB", "data", s.dataDir())
	if _, err := unix.FcntlInt(uintptr(lock), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("handing over the lock: %w", err)
	}
	if err := syscall.Exec(argv[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("starting %s: %w", argv[0], err)
	}
	return nil
}

// initialise makes the database unless it is there.
func initialise(ctx context.Context, log *slog.Logger, s settings) error {
	if _, err := os.Stat(s.dataDir()); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("looking for the database: %w", err)
	}
	sql, err := initSQL(s)
	if err != nil {
		return err
	}
	log.Info("making the database", "name", s.database, "user", s.user)
	unfinished := filepath.Join(s.home, "unfinished")
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("removing an unfinished database: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	install := []string{s.installer, "--no-defaults", "--datadir=" + unfinished, "--auth-root-authentication-method=normal",
		"--skip-test-db", "--skip-name-resolve", "--force"}
	bootstrap := []string{s.server, "--no-defaults", "--bootstrap", "--datadir=" + unfinished}
	if os.Geteuid() == 0 {
		if err := os.Chown(unfinished, accountID, accountID); err != nil {
			return fmt.Errorf("giving the data folder to %s: %w", account, err)
		}
		install = append(install, "--user="+account)
		bootstrap = append(bootstrap, "--user="+account)
	}
	if err := command(ctx, install, ""); err != nil {
		return fmt.Errorf("making system tables: %w", err)
	}
	if err := command(ctx, bootstrap, sql); err != nil {
		return fmt.Errorf("making database %s: %w", s.database, err)
	}
	return publish(unfinished, s.dataDir())
}

// publish gives a complete database its name, surely stored.
func publish(unfinished, final string) error {
	dir, err := os.Open(filepath.Dir(final))
	if err != nil {
		return fmt.Errorf("opening the volume: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("storing the database: %w", err)
	}
	if err := os.Rename(unfinished, final); err != nil {
		return fmt.Errorf("storing the database: %w", err)
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("storing the database: %w", err)
	}
	return nil
}

// command runs a program with text on its standard input. Passwords go that way: arguments can be seen by others.
func command(ctx context.Context, argv []string, stdin string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		const most = 4000
		return fmt.Errorf("running %s: %w: %s", argv[0], err, out[max(0, len(out)-most):])
	}
	return nil
}

func serverArgs(s settings) []string {
	argv := []string{s.server, "--no-defaults", "--datadir=" + s.dataDir(), "--port=" + strconv.Itoa(s.port),
		"--socket=" + filepath.Join(socketDir, "mysqld.sock"), "--pid-file=" + filepath.Join(socketDir, "mysqld.pid"),
		"--bind-address=" + s.bind, "--skip-name-resolve", "--character-set-server=utf8mb4", "--collation-server=utf8mb4_unicode_ci",
		"--innodb-buffer-pool-size=" + s.bufferPool}
	if os.Geteuid() == 0 {
		argv = append(argv, "--user="+account)
	}
	return argv
}
