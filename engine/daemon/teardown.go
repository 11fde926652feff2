package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"yunfan.io/engine/cgroup"
	"yunfan.io/engine/control"
	"yunfan.io/engine/host"
	"yunfan.io/engine/network"
	"yunfan.io/engine/sandbox"
	"yunfan.io/engine/topology"
)

// Teardown stops an instance, whether its daemon lives or not, and removes everything it put on the machine outside
// its data directory. The daemon is asked to go first, so that one piece of code ends units in every case.
func Teardown(ctx context.Context, paths topology.Paths) error {
	release, err := takeOver(ctx, paths)
	if err != nil {
		return err
	}
	defer release()
	state, err := topology.LoadState(paths.State())
	if err != nil {
		return err
	}
	group, foreign, err := instanceGroup(state, paths)
	if err != nil {
		return err
	}
	if !foreign {
		group.ThawAll()
	}
	if err := stopUnits(ctx, paths); err != nil || foreign {
		return err
	}
	group.Kill()
	err = errors.Join(
		network.Net{Plan: state.Plan()}.RemoveAll(ctx),
		group.Remove(ctx),
		host.Release(state.Index, paths.Host()))
	for _, file := range []string{paths.Socket(), paths.Lock()} {
		if e := os.Remove(file); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("cleaning up: %w", err)
	}
	return nil
}

// instanceGroup is the cgroup around all units. foreign means that nothing on the machine outside the data directory is
// this instance's: it was never started, or was stopped and another instance has its number now.
func instanceGroup(state *topology.State, paths topology.Paths) (group cgroup.Group, foreign bool, err error) {
	if state == nil {
		return group, true, nil
	}
	if foreign, err = host.Foreign(state.Index, paths.Data); err != nil || foreign {
		return group, foreign, err
	}
	hierarchies, err := cgroup.Detect()
	return cgroup.Group{Hierarchies: hierarchies, Path: groupPath(state.Index)}, false, err
}

// takeOver makes a living daemon quit and takes the lock it held.
func takeOver(ctx context.Context, paths topology.Paths) (func(), error) {
	var asked time.Time
	for {
		release, err := Lock(paths)
		if err == nil {
			return release, nil
		}
		if time.Since(asked) > time.Second { // again, for a daemon that was still starting
			asked = time.Now()
			_ = control.Client{Path: paths.Socket()}.Call(ctx, "/quit", nothing{}, nil)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopping the daemon: %w (see %s)", err, paths.DaemonLog())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stopUnits ends every unit that left a record, all at once.
func stopUnits(ctx context.Context, paths topology.Paths) error {
	var dirs []string
	for _, pattern := range []string{"clusters/*/" + topology.ControlPlane, "clusters/*/nodes/*", serviceUnits + "/*"} {
		found, err := filepath.Glob(filepath.Join(paths.Data, pattern))
		if err != nil {
			return fmt.Errorf("looking for units: %w", err)
		}
		dirs = append(dirs, found...)
	}
	errs := make([]error, len(dirs))
	var wg sync.WaitGroup
	for i, dir := range dirs {
		wg.Go(func() {
			spec := &sandbox.Spec{Unit: dir, Dir: dir}
			if run := sandbox.Adopt(spec, nil); run != nil {
				errs[i] = run.Stop(ctx, stopGrace)
			}
			errs[i] = errors.Join(errs[i], spec.Forget())
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
