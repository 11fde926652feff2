package probe_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/route/probe"
	"yunfan.io/yunfan/internal/route/table"
)

func TestProberCountsFailuresInARow(t *testing.T) {
	g := NewWithT(t)
	var status, asked, changes atomic.Int64
	status.Store(http.StatusOK)
	var seen atomic.Pointer[http.Request]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		seen.Store(r)
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	target := table.Target{Name: "edu.beijing", Servers: []string{address}, Closed: true}
	wanted := &table.Table{Pools: []table.Pool{{
		Name: "shop", Hosts: []string{"*.shop.test"}, Targets: []table.Target{target},
		Health: table.Health{Path: "/healthz", Interval: 20 * time.Millisecond, Failures: 3},
	}}}
	p := probe.New(func() { changes.Add(1) })
	p.Set(wanted)
	up, down, _ := p.Target("shop", &target)
	g.Expect(up).To(BeFalse(), "nothing is up that was not asked")
	g.Expect(down).To(BeEmpty(), "and nothing down")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go p.Run(ctx)
	isUp := func() bool {
		up, _, _ := p.Target("shop", &target)
		return up
	}
	g.Eventually(isUp).WithTimeout(40 * time.Second).Should(BeTrue())
	r := seen.Load()
	g.Expect([]string{r.Host, r.URL.Path, r.Header.Get(table.HeaderPartition)}).To(
		Equal([]string{"probe.shop.test", "/healthz", "edu.beijing"}))

	status.Store(http.StatusServiceUnavailable)
	before := asked.Load()
	g.Eventually(func() bool { return p.Down("shop", "edu.beijing", address) }).WithTimeout(40 * time.Second).Should(BeTrue())
	g.Expect(asked.Load()-before).To(BeNumerically(">=", 3), "as often as the table says")
	_, down, why := p.Target("shop", &target)
	g.Expect(down).To(Equal([]string{address}))
	g.Expect(why).To(ContainSubstring("answered 503"))

	p.Set(wanted)
	g.Expect(p.Down("shop", "edu.beijing", address)).To(BeTrue(), "a new table does not make it forget")
	status.Store(http.StatusNotFound)
	g.Eventually(isUp).WithTimeout(40*time.Second).Should(BeTrue(), "one good answer is enough, and 404 is one")
	g.Expect(changes.Load()).To(Equal(int64(2)))
}
