// Package record keeps rows in a database beside the hub: audit, use of resources over time, finished runs. It is SQLite
// in a file by default, and PostgreSQL where several servers share it. It knows no capability: each brings its own
// tables as Migrations and writes its own SQL, with "?" for arguments in both databases.
package record

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Dialect is the kind of a database.
type Dialect string

// The databases there are.
const (
	SQLite     Dialect = "SQLite"
	PostgreSQL Dialect = "PostgreSQL"
)

const (
	// openTimeout is how long a database may take to answer for the first time.
	openTimeout = 15 * time.Second
	// checkTimeout is how long a database may take to say that it can be written.
	checkTimeout = 5 * time.Second
)

// Database is where rows are kept. All methods may be called at once by many.
type Database struct {
	dialect Dialect
	// write has one connection in SQLite, which has one writer at a time; read has several. In PostgreSQL both are
	// the same pool.
	write, read *sql.DB
	place       string
	identity    string
}

// Open opens the database at location, and makes it if it is a file that does not exist: sqlite:///PATH or PATH, or
// postgres://USER:PASSWORD@HOST:PORT/NAME. Neither errors nor String ever have the password in them.
func Open(ctx context.Context, location string) (*Database, error) {
	d, err := open(location)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := d.Migrate(ctx, ownMigrations()...); err != nil {
		return nil, errors.Join(fmt.Errorf("opening records: %w", err), d.Close())
	}
	if d.identity, err = d.loadIdentity(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening records: %w", err), d.Close())
	}
	return d, nil
}

// OpenToRead opens a database that exists and changes nothing in it, also when its tables are those of another version.
func OpenToRead(ctx context.Context, location string) (*Database, error) {
	d, err := openExisting(location)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if d.identity, err = d.loadIdentity(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening records: %w", err), d.Close())
	}
	return d, nil
}

func open(location string) (*Database, error) {
	if isPostgreSQL(location) {
		return openPostgreSQL(location)
	}
	path, err := sqlitePath(location)
	if err != nil {
		return nil, err
	}
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	return openSQLite(path)
}

func openExisting(location string) (*Database, error) {
	if isPostgreSQL(location) {
		return openPostgreSQL(location)
	}
	path, err := sqlitePath(location)
	if err != nil {
		return nil, err
	}
	if err := existing(path); err != nil {
		return nil, err
	}
	return openSQLite(path)
}

// Close ends all connections.
func (d *Database) Close() error {
	err := d.write.Close()
	if d.read != d.write {
		err = errors.Join(err, d.read.Close())
	}
	if err != nil {
		return fmt.Errorf("closing %s: %w", d, err)
	}
	return nil
}

// Dialect says which database it is.
func (d *Database) Dialect() Dialect { return d.dialect }

// String says where the database is, without its password.
func (d *Database) String() string { return d.place }

// Identity is a random word that the database was given when it was made: two servers that read the same one share a
// database, whatever they call it.
func (d *Database) Identity() string { return d.identity }

// Update runs do in one transaction: all of what it writes is on disk when Update returns without an error, and nothing
// of it otherwise. In SQLite one transaction writes at a time: do should only talk to the database.
func (d *Database) Update(ctx context.Context, do func(*Tx) error) error {
	return d.transact(ctx, d.write, nil, do)
}

// View runs do over one unchanging state of the database. In SQLite a long view keeps the file from shrinking: read
// much in several.
func (d *Database) View(ctx context.Context, do func(*Tx) error) error {
	var options *sql.TxOptions
	if d.dialect == PostgreSQL {
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	return d.transact(ctx, d.read, options, do)
}

func (d *Database) transact(ctx context.Context, pool *sql.DB, options *sql.TxOptions, do func(*Tx) error) error {
	tx, err := pool.BeginTx(ctx, options)
	if err != nil {
		return d.explain(err)
	}
	if err := do(&Tx{tx, d.dialect}); err != nil {
		_ = tx.Rollback() // the first error counts; a connection that is lost has nothing to roll back
		return d.explain(err)
	}
	if err := tx.Commit(); err != nil {
		return d.explain(err)
	}
	return nil
}

// Check is nil if the database answers and can be written: a disk that is full or read-only is found by trying.
func (d *Database) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return d.Update(ctx, func(tx *Tx) error {
		return tx.Exec(ctx, "UPDATE record_meta SET checked = ?", time.Now().UnixMilli())
	})
}

// Tx is a transaction. Arguments stand as "?" in its statements.
type Tx struct {
	tx      *sql.Tx
	dialect Dialect
}

// Dialect says which database it is.
func (t *Tx) Dialect() Dialect { return t.dialect }

// Exec runs a statement.
func (t *Tx) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := t.tx.ExecContext(ctx, bind(t.dialect, statement), args...)
	return err
}

// Change runs a statement and says how many rows it changed.
func (t *Tx) Change(ctx context.Context, statement string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(ctx, bind(t.dialect, statement), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Each runs a query and calls row for each of its rows, with a function that reads the row's columns as sql.Rows.Scan
// does.
func (t *Tx) Each(ctx context.Context, row func(scan func(...any) error) error, query string, args ...any) error {
	rows, err := t.tx.QueryContext(ctx, bind(t.dialect, query), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// One reads the one row of a query into into; false if there is none.
func (t *Tx) One(ctx context.Context, into []any, query string, args ...any) (bool, error) {
	err := t.tx.QueryRowContext(ctx, bind(t.dialect, query), args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Prepare compiles a statement that is run many times in this transaction; the caller closes it.
func (t *Tx) Prepare(ctx context.Context, statement string) (*sql.Stmt, error) {
	return t.tx.PrepareContext(ctx, bind(t.dialect, statement))
}

// bind writes each "?" outside of quotes as the database wants it.
func bind(dialect Dialect, statement string) string {
	if dialect == SQLite || !strings.Contains(statement, "?") {
		return statement
	}
	var b strings.Builder
	b.Grow(len(statement) + len("$00"))
	n, quoted := 0, false
	for _, c := range statement {
		switch {
		case c == '\'':
			quoted = !quoted
			b.WriteRune(c)
		case c == '?' && !quoted:
			n++
			fmt.Fprintf(&b, "$%d", n)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
