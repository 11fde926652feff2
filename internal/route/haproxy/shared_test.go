package haproxy

import (
	"testing"

	"yunfan.io/yunfan/internal/route/edge/edgetest"
)

// TestING02_HAProxy holds the driver to what every driver is held to.
func TestING02_HAProxy(t *testing.T) {
	requireHAProxy(t)
	edgetest.Run(t, New, edgetest.Features{})
}
