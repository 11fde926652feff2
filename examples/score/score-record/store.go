package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
)

// maxRows bounds what one page shows.
const maxRows = 1000

// queryTimeout is shorter than a probe's usual timeout, so that a slow database gives an answer and not a hang.
const queryTimeout = 3 * time.Second

// score is one student's mark in one subject.
type score struct {
	ID      int64   `json:"id"`
	Student string  `json:"student"`
	Subject string  `json:"subject"`
	Score   float64 `json:"score"`
}

type store struct{ db *sql.DB }

// openStore does not connect yet: the database may come later than the web.
func openStore(s settings) (*store, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr = "tcp", s.databaseAddress()
	c.User, c.Passwd, c.DBName = s.dbUser, s.dbPassword, s.dbName
	c.Timeout, c.ReadTimeout, c.WriteTimeout = queryTimeout, queryTimeout, queryTimeout
	c.Logger = &mysql.NopLogger{} // errors are returned as well
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("reading database settings: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(2)
	db.SetConnMaxLifetime(5 * time.Minute)
	return &store{db}, nil
}

func (s *store) scores(ctx context.Context) ([]score, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.db.QueryContext(ctx, "SELECT id, student, subject, score FROM scores ORDER BY id LIMIT ?", maxRows)
	if err != nil {
		return nil, fmt.Errorf("reading scores: %w", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says it
	out := []score{}
	for rows.Next() {
		var r score
		if err := rows.Scan(&r.ID, &r.Student, &r.Subject, &r.Score); err != nil {
			return nil, fmt.Errorf("reading scores: %w", err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading scores: %w", err)
	}
	return out, nil
}

// Close ends all connections.
func (s *store) Close() error { return s.db.Close() }
