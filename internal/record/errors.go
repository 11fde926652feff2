package record

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// UnavailableError says that the database cannot take or give rows now, and why. Trying again may help once somebody
// has put it right.
type UnavailableError struct {
	// Reason is for people: what is wrong and what to do. It has no password in it.
	Reason string
	err    error
}

// Error gives the reason.
func (e *UnavailableError) Error() string { return e.Reason }

// Unwrap gives the driver's error.
func (e *UnavailableError) Unwrap() error { return e.err }

// explain makes a clear error of what a driver says of a database that is not well; any other passes.
func (d *Database) explain(err error) error {
	var known *UnavailableError
	var lite *sqlite.Error
	var server *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case err == nil, errors.As(err, &known), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &lite):
		if reason := liteReason(lite); reason != "" {
			return d.unavailable(reason, err)
		}
	case errors.As(err, &server):
		if reason := serverReason(server); reason != "" {
			return d.unavailable(reason, err)
		}
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone),
		strings.Contains(err.Error(), "unexpected EOF"), strings.Contains(err.Error(), "conn closed"), strings.Contains(err.Error(), "closed the connection"):
		return d.unavailable("does not answer: start it, or look for what keeps this server from reaching it", err)
	case errors.Is(err, context.DeadlineExceeded):
		return d.unavailable("did not answer in time", err)
	}
	return err
}

func (d *Database) unavailable(reason string, err error) error {
	return &UnavailableError{Reason: fmt.Sprintf("the records database %s %s", d, reason), err: err}
}

func liteReason(err *sqlite.Error) string {
	const primary = 0xff // the higher bits tell details
	switch err.Code() & primary {
	case sqlite3.SQLITE_FULL:
		return "is on a full disk: free some space"
	case sqlite3.SQLITE_READONLY:
		return "cannot be written: the file or its disk is read-only"
	case sqlite3.SQLITE_IOERR:
		return "cannot be read or written: its disk fails or is full"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return "cannot be opened: its file or folder is missing or belongs to somebody else"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return "is locked by another process for too long: only this server and the registry may have it open"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return "is damaged: restore it from a backup, or move it away to begin a new one"
	}
	return ""
}

// serverReason knows PostgreSQL's classes of errors: https://www.postgresql.org/docs/current/errcodes-appendix.html
func serverReason(err *pgconn.PgError) string {
	switch {
	case err.Code == "53100":
		return "is on a full disk: free some space"
	case err.Code == "25006":
		return "is read-only: it may be a standby, name the primary"
	case err.Code == "3D000":
		return "does not exist: create it (CREATE DATABASE)"
	case strings.HasPrefix(err.Code, "28"):
		return "refuses user or password: check --records"
	case err.Code == "42501":
		return "does not let its user make or change tables: grant it CREATE on the schema"
	case strings.HasPrefix(err.Code, "53"), strings.HasPrefix(err.Code, "57P"), strings.HasPrefix(err.Code, "08"), strings.HasPrefix(err.Code, "58"):
		return "does not take requests now: its own log says why"
	}
	return ""
}
