//go:build e2e

package route_test

import (
	"testing"

	"yunfan.io/yunfan/e2e/journey"
)

func TestMain(m *testing.M) { journey.Main(m) }
