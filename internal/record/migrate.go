package record

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Migration is one step of a capability's tables. Steps that were once released are never changed: another is added.
type Migration struct {
	// Capability whose tables they are; the tables' names begin with it.
	Capability string
	// Version counts from 1 within the capability.
	Version int
	// Statements for both databases, run before those of one of them. BIGINT, TEXT and DOUBLE PRECISION mean the same
	// in both; BLOB is BYTEA in PostgreSQL, and a key that counts by itself is INTEGER PRIMARY KEY in SQLite.
	Statements         []string
	SQLite, PostgreSQL []string
}

// migrationLock is the number of PostgreSQL's advisory lock under which one server migrates at a time.
const migrationLock = 0x59756e66616e

const migrationTable = `CREATE TABLE IF NOT EXISTS record_migrations (
	capability TEXT NOT NULL, version BIGINT NOT NULL, applied BIGINT NOT NULL, PRIMARY KEY (capability, version))`

func ownMigrations() []Migration {
	return []Migration{{
		Capability: "record", Version: 1,
		Statements: []string{
			`CREATE TABLE record_meta (identity TEXT NOT NULL, created BIGINT NOT NULL, checked BIGINT NOT NULL)`,
			fmt.Sprintf(`INSERT INTO record_meta (identity, created, checked) VALUES ('%s', %d, 0)`, rand.Text(), time.Now().UnixMilli()),
		},
	}}
}

// Migrate runs those of the steps that the database has not had yet, each in a transaction of its own. Several servers
// may do so at once: every step runs once. A database that a newer server has changed is refused.
func (d *Database) Migrate(ctx context.Context, migrations ...Migration) error {
	newest := map[string]int{}
	for _, m := range migrations {
		newest[m.Capability] = max(newest[m.Capability], m.Version)
	}
	if err := d.locked(ctx, func(tx *Tx) error { return refuseNewer(ctx, tx, newest) }); err != nil {
		return err
	}
	for _, m := range migrations {
		if err := d.locked(ctx, func(tx *Tx) error { return m.run(ctx, tx) }); err != nil {
			return fmt.Errorf("making the tables of %s, step %d: %w", m.Capability, m.Version, err)
		}
	}
	return nil
}

// locked runs do while no other server migrates. SQLite's transactions that write exclude each other anyway.
func (d *Database) locked(ctx context.Context, do func(*Tx) error) error {
	return d.Update(ctx, func(tx *Tx) error {
		if d.dialect == PostgreSQL {
			if err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(?)`, int64(migrationLock)); err != nil {
				return err
			}
		}
		if err := tx.Exec(ctx, migrationTable); err != nil {
			return err
		}
		return do(tx)
	})
}

func refuseNewer(ctx context.Context, tx *Tx, newest map[string]int) error {
	for _, capability := range slices.Sorted(maps.Keys(newest)) {
		version := newest[capability]
		var found int
		if _, err := tx.One(ctx, []any{&found}, `SELECT COALESCE(MAX(version), 0) FROM record_migrations WHERE capability = ?`, capability); err != nil {
			return err
		}
		if found > version {
			return fmt.Errorf("a newer server has changed the tables of %s (step %d, this one knows %d): start that version or a later one", capability, found, version)
		}
	}
	return nil
}

func (m Migration) run(ctx context.Context, tx *Tx) error {
	var done int
	if found, err := tx.One(ctx, []any{&done}, `SELECT 1 FROM record_migrations WHERE capability = ? AND version = ?`, m.Capability, m.Version); err != nil || found {
		return err
	}
	own := m.SQLite
	if tx.dialect == PostgreSQL {
		own = m.PostgreSQL
	}
	for _, statements := range [][]string{m.Statements, own} {
		for _, statement := range statements {
			if err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
	}
	return tx.Exec(ctx, `INSERT INTO record_migrations (capability, version, applied) VALUES (?, ?, ?)`, m.Capability, m.Version, time.Now().UnixMilli())
}

func (d *Database) loadIdentity(ctx context.Context) (string, error) {
	var identity string
	err := d.View(ctx, func(tx *Tx) error {
		found, err := tx.One(ctx, []any{&identity}, `SELECT identity FROM record_meta`)
		if err == nil && !found {
			err = fmt.Errorf("the database has lost its identity (table record_meta is empty): restore it from a backup")
		}
		return err
	})
	return identity, err
}
