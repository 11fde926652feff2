//go:build e2e

package rollout_test

import (
	"fmt"
	"testing"

	"yunfan.io/yunfan/e2e/journey"
)

// The journeys of rollouts are for make test-full only until they hold on a busy machine: see docs/rollout.md.
func TestMain(m *testing.M) {
	if !full() {
		fmt.Println("the journeys of rollouts are run by make test-full: YUNFAN_FULL=1")
		return
	}
	journey.Main(m)
}
