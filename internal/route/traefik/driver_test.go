package traefik_test

import (
	"os"
	"path/filepath"
	"testing"

	"yunfan.io/yunfan/internal/route/edge/edgetest"
	"yunfan.io/yunfan/internal/route/traefik"
)

// program is the Traefik that `make build` builds.
func program(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("YUNFAN_TEST_TRAEFIK"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../../bin/gateway/traefik")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("Traefik is not there: run `make build` first: %v", err)
	}
	return path
}

func TestING02_Traefik(t *testing.T) {
	edgetest.Run(t, traefik.New, edgetest.Features{Program: program(t)})
}
