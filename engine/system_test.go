//go:build e2e

package engine_test

import (
	"context"
	"os/exec"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/engine/cgroup"
)

// TestCgroups freezes, thaws, kills and removes on the machine's real hierarchies. On a machine with v1 controllers
// the v2 code runs on the unified hierarchy beside them, which has no controllers to hand on but all the rest.
func TestCgroups(t *testing.T) {
	found, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]cgroup.Hierarchies{"as the engine uses them": found}
	if unified := "/sys/fs/cgroup/unified"; found.V2 == "" && exec.Command("stat", unified+"/cgroup.procs").Run() == nil {
		cases["v2 beside v1"] = cgroup.Hierarchies{V2: unified}
	}
	for name, h := range cases {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			group := cgroup.Group{Hierarchies: h, Path: "yunfan-cgroup-test/0/a.b"}
			g.Expect(group.Exists()).To(BeFalse())
			g.Expect(group.Freeze(ctx, false)).To(Succeed(), "what is not there is not frozen")

			cmd := exec.Command("sh", "-c", "while :; do sleep 0.01; echo; done")
			ticks, err := cmd.StdoutPipe()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(cmd.Start()).To(Succeed())
			ended := make(chan error, 1)
			beats := make(chan struct{}, 1)
			go func() {
				for buffer := make([]byte, 1); ; {
					if _, err := ticks.Read(buffer); err != nil {
						break
					}
					select {
					case beats <- struct{}{}:
					default:
					}
				}
				ended <- cmd.Wait()
			}()
			g.Expect(group.Join(cmd.Process.Pid)).To(Succeed())
			g.Expect(group.Exists()).To(BeTrue())
			g.Eventually(beats).WithTimeout(5 * time.Second).Should(Receive())
			g.Expect(group.Freeze(ctx, true)).To(Succeed())
			select { // one may have been under way
			case <-beats:
			default:
			}
			g.Consistently(beats, "300ms").ShouldNot(Receive(), "a frozen process does nothing")
			g.Expect(group.Freeze(ctx, false)).To(Succeed())
			g.Eventually(beats).WithTimeout(5 * time.Second).Should(Receive())
			group.Kill()
			g.Eventually(ended).WithTimeout(5 * time.Second).Should(Receive(MatchError("signal: killed")))
			g.Expect(group.Remove(ctx)).To(Succeed())
			parent := cgroup.Group{Hierarchies: h, Path: "yunfan-cgroup-test"}
			g.Expect(parent.Exists()).To(BeFalse(), "empty parents go too")
		})
	}
}
