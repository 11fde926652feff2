package audit

import "yunfan.io/yunfan/internal/record"

// Migrations are the tables of audit. A row's documents are kept as they were hashed; the columns beside them are
// taken from the documents, for searching, and verification compares them. Times are Unix, ms.
func Migrations() []record.Migration {
	table := func(key, blob string) []string {
		return []string{
			`CREATE TABLE audit_writers (
				id BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, identity TEXT NOT NULL,
				started BIGINT NOT NULL, seen BIGINT NOT NULL, ended BIGINT,
				head_seq BIGINT NOT NULL, head_hash ` + blob + ` NOT NULL,
				cut_seq BIGINT NOT NULL, cut_hash ` + blob + ` NOT NULL)`,
			`CREATE TABLE audit_rows (
				id ` + key + `, writer BIGINT NOT NULL, seq BIGINT NOT NULL, hash ` + blob + ` NOT NULL,
				result_writer BIGINT, result_seq BIGINT, result_hash ` + blob + `,
				user_name TEXT NOT NULL, tenant TEXT NOT NULL, cluster TEXT NOT NULL, resource TEXT NOT NULL,
				name TEXT NOT NULL, action TEXT NOT NULL, result TEXT NOT NULL, words TEXT NOT NULL,
				intent TEXT NOT NULL, outcome TEXT, state_before TEXT, state_after TEXT)`,
			`CREATE UNIQUE INDEX audit_links ON audit_rows (writer, seq)`,
			`CREATE UNIQUE INDEX audit_result_links ON audit_rows (result_writer, result_seq)`,
			`CREATE INDEX audit_open ON audit_rows (writer) WHERE result_seq IS NULL`,
			`CREATE INDEX audit_users ON audit_rows (user_name, id)`,
			`CREATE INDEX audit_tenants ON audit_rows (tenant, id)`,
			`CREATE INDEX audit_clusters ON audit_rows (cluster, id)`,
			`CREATE INDEX audit_names ON audit_rows (name, id)`,
			`CREATE INDEX audit_resources ON audit_rows (resource, id)`,
			`CREATE INDEX audit_actions ON audit_rows (action, id)`,
			`CREATE INDEX audit_results ON audit_rows (result, id) WHERE result <> 'Succeeded'`,
		}
	}
	return []record.Migration{{
		Capability: "audit", Version: 1,
		SQLite:     table("INTEGER PRIMARY KEY", "BLOB"),
		PostgreSQL: table("BIGINT PRIMARY KEY", "BYTEA"),
	}}
}

// clock is the database's own time, so that servers whose clocks differ agree on who is alive.
func clock(dialect record.Dialect) string {
	if dialect == record.PostgreSQL {
		return `(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint`
	}
	return `CAST(unixepoch('subsec') * 1000 AS INTEGER)`
}
