//go:build e2e

package workflow_test

import (
	"testing"

	"yunfan.io/yunfan/e2e/journey"
)

func TestMain(m *testing.M) { journey.Main(m) }
