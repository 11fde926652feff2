package notification

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"yunfan.io/yunfan/internal/testkit"
)

// What is more than a plain question to the database is tried with both kinds.
func TestOnBothDatabases(t *testing.T) {
	tests := map[string]func(t *testing.T, location string){
		"OPS-06 Killed in the middle": checkKilledInTheMiddle,
		"OPS-06 Two senders":          checkTwoSenders,
		"OPS-06 Recipients":           checkRecipients,
		"OPS-06 Storm":                checkStorm,
		"OPS-06 Bounded and trimmed":  checkBoundedAndTrimmed,
		"OPS-06 Dead and retried":     checkDeadAndRetried,
		"OPS-06 Inbox":                checkInbox,
	}
	server := testkit.StartPostgreSQL(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Run("SQLite", func(t *testing.T) { test(t, sqlite(t)) })
			t.Run("PostgreSQL", func(t *testing.T) { test(t, database(t, server)) })
		})
	}
}

// database makes one of the test's own in a server that others use, too.
func database(t *testing.T, server *testkit.PostgreSQL) string {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(context.Background())
	name := testkit.Name(t)
	if _, err := connection.Exec(t.Context(), "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = strings.Replace(u.Path, "postgres", name, 1)
	return u.String()
}
