package record

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // registers the driver
)

const (
	sqliteScheme = "sqlite://"
	// sqliteReaders read at once beside the one writer.
	sqliteReaders = 4
	// busyTimeout is how long a writer waits for one of another process.
	busyTimeout = 10 * time.Second
	// journalLimit is what the write-ahead log keeps on disk after it was copied into the file, in bytes.
	journalLimit = 64 << 20
)

// sqlitePath is the file that a location means.
func sqlitePath(location string) (string, error) {
	path, isURL := strings.CutPrefix(location, sqliteScheme)
	if isURL && !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("opening records: %q names a host: write sqlite:///PATH with three slashes", location)
	}
	if !isURL && strings.Contains(location, "://") {
		scheme, _, _ := strings.Cut(location, "://") // the rest may hold a password
		return "", fmt.Errorf("opening records: there is no kind of database %q: write sqlite:///PATH or postgres://USER:PASSWORD@HOST:PORT/NAME", scheme)
	}
	if path == "" {
		return "", errors.New("opening records: no database is named: write sqlite:///PATH or postgres://USER:PASSWORD@HOST:PORT/NAME")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("opening records: %w", err)
	}
	return path, nil
}

// prepareFile makes the file, for its owner only; SQLite gives the files beside it the same permissions.
func prepareFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the folder of the records: %w: choose another with --records", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening records: %w: choose another file with --records", err)
	}
	return file.Close()
}

func existing(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening records: there is no %s: name the server's database with --records", path)
	}
	if err != nil {
		return fmt.Errorf("opening records: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("opening records: %s is no file", path)
	}
	return nil
}

// openSQLite opens a file. synchronous=FULL has every commit on disk before it returns, also if power fails.
func openSQLite(path string) (*Database, error) {
	pool := func(more url.Values, connections int) (*sql.DB, error) {
		query := url.Values{"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "journal_mode(WAL)", "synchronous(FULL)",
			fmt.Sprintf("journal_size_limit(%d)", journalLimit), "foreign_keys(1)", "temp_store(MEMORY)",
		}}
		for key, values := range more {
			query[key] = append(query[key], values...)
		}
		name := (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
		db, err := sql.Open("sqlite", name)
		if err != nil {
			return nil, fmt.Errorf("opening records: %w", err)
		}
		db.SetMaxOpenConns(connections)
		db.SetMaxIdleConns(connections)
		return db, nil
	}
	write, err := pool(url.Values{"_txlock": {"immediate"}}, 1)
	if err != nil {
		return nil, err
	}
	read, err := pool(url.Values{"_pragma": {"query_only(1)"}}, sqliteReaders)
	if err != nil {
		return nil, err
	}
	return &Database{dialect: SQLite, write: write, read: read, place: sqliteScheme + path}, nil
}
