package record

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/testkit"
)

// both runs a test with a database of each kind.
func both(t *testing.T, test func(t *testing.T, location string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) { test(t, "sqlite://"+filepath.Join(t.TempDir(), "a b?", "records.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, testkit.StartPostgreSQL(t).URL) })
}

func opened(t *testing.T, location string) *Database {
	t.Helper()
	d, err := Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func things(version int, statements ...string) Migration {
	return Migration{Capability: "thing", Version: version, Statements: statements}
}

func TestRows(t *testing.T) {
	both(t, func(t *testing.T, location string) {
		ctx, d := t.Context(), opened(t, location)
		if err := d.Migrate(ctx, things(1, `CREATE TABLE thing_rows (name TEXT NOT NULL, size BIGINT NOT NULL)`)); err != nil {
			t.Fatal(err)
		}
		insert := `INSERT INTO thing_rows (name, size) VALUES (?, ?)`
		if err := d.Update(ctx, func(tx *Tx) error {
			for i := range 3 {
				if err := tx.Exec(ctx, insert, fmt.Sprint("a", i, "?"), i); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		wrong := errors.New("wrong")
		if err := d.Update(ctx, func(tx *Tx) error { return errors.Join(tx.Exec(ctx, insert, "lost", 9), wrong) }); !errors.Is(err, wrong) {
			t.Errorf("got %v, want what the function gave", err)
		}
		got := map[string]int{}
		if err := d.View(ctx, func(tx *Tx) error {
			return tx.Each(ctx, func(scan func(...any) error) error {
				var name string
				var size int
				err := scan(&name, &size)
				got[name] = size
				return err
			}, `SELECT name, size FROM thing_rows WHERE size > ? AND name <> 'what?'`, 0)
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]int{"a1?": 1, "a2?": 2}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if err := d.View(ctx, func(tx *Tx) error { return tx.Exec(ctx, insert, "sneaked in", 1) }); err == nil {
			t.Error("a view has written")
		}
		if err := d.Check(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestMigrateAtOnce(t *testing.T) {
	both(t, func(t *testing.T, location string) {
		const servers = 5
		var group sync.WaitGroup
		identities, failures := make([]string, servers), make([]error, servers)
		for i := range servers {
			group.Go(func() {
				d, err := Open(t.Context(), location)
				if err != nil {
					failures[i] = err
					return
				}
				defer d.Close()
				identities[i] = d.Identity()
				failures[i] = d.Migrate(t.Context(),
					things(1, `CREATE TABLE thing_rows (name TEXT NOT NULL)`), things(2, `ALTER TABLE thing_rows ADD COLUMN size BIGINT`))
			})
		}
		group.Wait()
		if err := errors.Join(failures...); err != nil {
			t.Fatal(err)
		}
		for _, identity := range identities {
			if identity == "" || identity != identities[0] {
				t.Errorf("servers of one database see identities %q", identities)
			}
		}
		d := opened(t, location)
		if err := d.Migrate(t.Context(), things(1)); err == nil || !strings.Contains(err.Error(), "newer server") {
			t.Errorf("an older server starts on newer tables: %v", err)
		}
		if err := d.Migrate(t.Context(), things(3, `CREATE TABLE half (name TEXT NOT NULL)`, `no SQL`)); err == nil {
			t.Error("a step that fails is told")
		}
		if err := d.Migrate(t.Context(), things(3, `CREATE TABLE half (name TEXT NOT NULL)`)); err != nil {
			t.Errorf("a step that failed left something behind: %v", err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	folder := t.TempDir()
	damaged := filepath.Join(folder, "damaged.db")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ reason, location, says string }{
		"Nothing":     {"nothing is named", "", "no database is named"},
		"Host":        {"two slashes make the folder a host", "sqlite://records.db", "three slashes"},
		"Kind":        {"a kind that is not there", "mysql://root:geheim@db/records", `"mysql"`},
		"Unreadable":  {"a URL that cannot be read", "postgres://root:geheim%zz@db/records", "cannot be read"},
		"Away":        {"nobody listens", "postgres://root:geheim@127.0.0.1:1/records?sslmode=disable", "does not answer"},
		"Damaged":     {"a file that is no database", damaged, "is damaged"},
		"FolderIsOne": {"the folder is a file", filepath.Join(file, "records.db"), "--records"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), tc.location)
			if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%s: got %v, want %q and no password", tc.reason, err, tc.says)
			}
		})
	}
	if _, err := OpenToRead(t.Context(), filepath.Join(folder, "none.db")); err == nil || !strings.Contains(err.Error(), "there is no") {
		t.Errorf("reading makes no database: got %v", err)
	}
}

func TestFilesAreTheOwnersOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records", "records.db")
	d := opened(t, path)
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, path + "-wal", path + "-shm"} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if !strings.HasSuffix(d.String(), path) {
		t.Errorf("got %s", d)
	}
}

func TestFullDatabase(t *testing.T) {
	d := opened(t, filepath.Join(t.TempDir(), "records.db"))
	if err := d.Migrate(t.Context(), things(1, `CREATE TABLE thing_rows (name TEXT NOT NULL)`)); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(t.Context(), func(tx *Tx) error { return tx.Exec(t.Context(), `PRAGMA max_page_count = 10`) }); err != nil {
		t.Fatal(err)
	}
	err := d.Update(t.Context(), func(tx *Tx) error {
		return tx.Exec(t.Context(), `INSERT INTO thing_rows (name) VALUES (?)`, strings.Repeat("x", 1<<20))
	})
	if _, ok := errors.AsType[*UnavailableError](err); !ok || !strings.Contains(err.Error(), "full disk") {
		t.Errorf("got %v, want that the disk is full", err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Errorf("a row that was too large has spoilt the database: %v", err)
	}
}

func TestPostgreSQLStops(t *testing.T) {
	g, server := NewWithT(t), testkit.StartPostgreSQL(t)
	d := opened(t, server.URL)
	if strings.Contains(d.String(), server.Password) {
		t.Errorf("%s has the password", d)
	}
	g.Expect(d.Check(t.Context())).To(Succeed())
	server.Stop(t)
	err := d.Check(t.Context())
	if _, ok := errors.AsType[*UnavailableError](err); !ok || strings.Contains(fmt.Sprint(err), server.Password) {
		t.Errorf("got %v, want that the database is away, without its password", err)
	}
	server.Start(t)
	g.Eventually(func() error { return d.Check(t.Context()) }).WithTimeout(time.Minute).Should(Succeed())

	wrong := strings.Replace(server.URL, server.Password, "geheim", 1)
	if _, err := Open(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "user or password") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("got %v, want that the password is refused", err)
	}
}

func TestUpdateEndsWithItsContext(t *testing.T) {
	both(t, func(t *testing.T, location string) {
		d := opened(t, location)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Update(ctx, func(*Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that it was called off", err)
		}
	})
}
