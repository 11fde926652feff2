package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// mortal is a way to the hub that ends with a write of a Delivery: the hub has it, and the server never hears of it.
type mortal struct {
	client.Client

	left atomic.Int32
	dead chan struct{}
}

// Update writes, and dies if it is time.
func (m *mortal) Update(ctx context.Context, o client.Object, options ...client.UpdateOption) error {
	if _, ok := o.(*v1alpha1.Delivery); !ok {
		return m.Client.Update(ctx, o, options...)
	}
	if m.left.Load() < 0 {
		return errors.New("this server has ended")
	}
	err := m.Client.Update(ctx, o, options...)
	if err == nil && m.left.Add(-1) == 0 {
		m.left.Store(-1)
		close(m.dead)
		return errors.New("this server has ended")
	}
	return err
}

// Whichever write a server dies with, the next one goes on from there: nothing is written twice, left out or in another
// order.
func TestServerKilledAtEachWrite(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		strategy v1alpha1.Strategy
		broken   bool
		phase    v1alpha1.RolloutPhase
		writes   []string
	}{
		"partition": {
			"forward, in place", v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate}, false, v1alpha1.RolloutSucceeded,
			[]string{"v1 closed", "v1! closed", "v2 closed", "v2"},
		},
		"blue": {"forward, side by side", v1alpha1.Strategy{Type: v1alpha1.StrategyBlueGreen}, false, v1alpha1.RolloutSucceeded, []string{"v1+v2 0%", "v1+v2 100%", "v2"}},
		"back": {
			"and back", v1alpha1.Strategy{Type: v1alpha1.StrategyRecreate}, true, v1alpha1.RolloutFailed,
			[]string{"v1 closed", "v1! closed", "v2 closed", "v2! closed", "v1 closed", "v1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.clusters()
			for k := range tc.writes {
				app := fmt.Sprintf("%s%d", name, k)
				w.set(func() { w.broken[app+"-v2"] = tc.broken })
				w.app(app, []string{app + "@beijing"})
				m := &mortal{dead: make(chan struct{})}
				m.left.Store(int32(k + 1))
				w.wrap = func(c client.Client) client.Client {
					m.Client = c
					return m
				}
				stop := w.serve()
				o := w.release(app, "v2", []string{app}, tc.strategy)
				select {
				case <-m.dead:
				case <-t.Context().Done():
				}
				stop()
				w.wrap = nil
				stop = w.serve()
				w.comes(o, tc.phase)
				stop()
				var got []string
				for _, text := range w.history(app)[1:] {
					got = append(got, withoutSuffix(text))
				}
				if diff := cmp.Diff(tc.writes, got); diff != "" {
					t.Errorf("%s: killed with write %d: %s", tc.reason, k+1, diff)
				}
			}
		})
	}
}
