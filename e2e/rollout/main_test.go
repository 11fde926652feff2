//go:build e2e

package rollout_test

import (
	"testing"

	"yunfan.io/yunfan/e2e/journey"
)

func TestMain(m *testing.M) { journey.Main(m) }
