package haproxy

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// A new process gives up who was well before after as many failures as the pool allows, and not at the first: else a
// change while the machine is busy would close every partition at once.
func TestPatienceOutlastsChanges(t *testing.T) {
	g, d := NewWithT(t), start(t)
	a, b := startBackend(t, "a.x"), startBackend(t, "b.x")
	pool := poolOf("p", a, b)
	pool.Health.Failures, pool.Health.Interval = 10, time.Second
	mustApply(t, d, pool)
	up := func() bool { return stateOf(t, d, "p", "a.x").Up }
	g.Eventually(up, patience).Should(BeTrue())
	other := poolOf("other", b)
	other.Hosts = []string{"other"}
	a.broken.Store(true)
	mustApply(t, d, pool, other)
	g.Consistently(up, 3*time.Second, 100*time.Millisecond).Should(BeTrue())
	g.Eventually(up, patience).Should(BeFalse(), "in the end it is given up")
}
