package haproxy

import (
	"fmt"
	"testing"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

// Two hundred applications in three partitions each, behind three gateways: more than one line of commands takes.
func TestManyPools(t *testing.T) {
	d := start(t)
	a := startBackend(t, "a.x")
	var pools []table.Pool
	for n := range 200 {
		pool := table.Pool{Name: fmt.Sprintf("app%d", n), Hosts: []string{fmt.Sprintf("app%d.example.com", n)}, Affinity: &table.Affinity{},
			Health: table.Health{Path: "/healthz", Interval: 30 * time.Second, Failures: 2}}
		for partition := range 3 {
			target := table.Target{Name: fmt.Sprintf("ns%d.c%d", n, partition), Weight: 1}
			for gateway := range 3 {
				target.Servers = append(target.Servers, fmt.Sprintf("127.0.%d.%d%s", partition, gateway+1, a.address()[len("127.0.0.1"):]))
			}
			pool.Targets = append(pool.Targets, target)
		}
		pool.Targets[1].Closed, pool.Targets[2].Closed = true, true
		pool.Targets[0].Servers[0] = a.address()
		pool.Targets[0].Servers = pool.Targets[0].Servers[:1]
		pools = append(pools, pool)
	}
	mustApply(t, d, pools...)
	if got := ask(t, d, "app199.example.com", "/"); got.body != "a.x" {
		t.Errorf("the last application: %+v", got)
	}
	worker, _, err := d.master.workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for n := range pools {
		pools[n].Targets[0].Weight = 3
		pools[n].Targets[1].Closed = false
	}
	mustApply(t, d, pools...)
	t.Logf("600 targets changed within %v", time.Since(began))
	if now, _, err := d.master.workers(t.Context()); err != nil || now != worker {
		t.Errorf("%v: weights took a new process", err)
	}
	if s := stateOf(t, d, "app199", "ns199.c1"); s.Closed {
		t.Errorf("opened again: %+v", s)
	}
}
