package record

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	postgresConnections = 16
	postgresIdle        = 4
	postgresIdleTime    = 5 * time.Minute
	// postgresLife lets connections find a database that moved to another address.
	postgresLife = 30 * time.Minute
	// connectTimeout is for one connection, unless the URL has connect_timeout.
	connectTimeout = 5 * time.Second
)

func isPostgreSQL(location string) bool {
	return strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://")
}

// openPostgreSQL connects to nothing yet.
func openPostgreSQL(location string) (*Database, error) {
	config, err := pgx.ParseConfig(location)
	if err != nil { // its text may quote the URL, and that its password
		return nil, errors.New("opening records: the URL of the database cannot be read: write postgres://USER:PASSWORD@HOST:PORT/NAME, special characters in the password as %XX")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "yunfan"
	}
	// Whatever the database's default is: a committed row is on disk.
	config.RuntimeParams["synchronous_commit"] = "on"
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(postgresConnections)
	db.SetMaxIdleConns(postgresIdle)
	db.SetConnMaxIdleTime(postgresIdleTime)
	db.SetConnMaxLifetime(postgresLife)
	place := url.URL{Scheme: "postgres", Host: fmt.Sprintf("%s:%d", config.Host, config.Port), Path: config.Database}
	if strings.HasPrefix(config.Host, "/") { // a folder of sockets
		place.Host, place.RawQuery = "", "host="+config.Host
	}
	return &Database{dialect: PostgreSQL, write: db, read: db, place: place.String()}, nil
}
