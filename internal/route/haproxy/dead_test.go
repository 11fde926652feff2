package haproxy

import (
	"net/http"
	"testing"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

// A server that refuses connections, of which no probe has told yet.
func TestRetriesOfConnections(t *testing.T) {
	d := start(t)
	dead := startBackend(t, "dead.x")
	dead.server.Close()
	never := table.Health{Path: "/healthz", Interval: time.Hour, Failures: 100}
	with, without := poolOf("with", startBackend(t, "a.x"), dead), poolOf("without", startBackend(t, "b.x"), dead)
	with.Health, without.Health = never, never
	with.Hosts, with.Retries, without.Hosts = []string{"with"}, 2, []string{"without"}
	mustApply(t, d, with, without)
	failed := map[string]int{}
	for host := range map[string]bool{"with": true, "without": true} {
		for range 20 {
			got, err := askWith(t.Context(), &http.Client{}, d, http.MethodPost, host, "/")
			if err != nil || got.status != http.StatusOK {
				failed[host]++
			}
		}
	}
	if failed["with"] != 0 || failed["without"] < 5 {
		t.Errorf("failed: %v of 20", failed)
	}
}
