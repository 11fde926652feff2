//go:build e2e

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// padding makes images as big as those of small services, in bytes; random, so that it does not compress.
const padding = 8 << 20

// pods starts one application with many pods, and beside it the same manifests with plain kubectl. The two use images
// that no node has yet, of the same size, each in one layer of its own.
func (b *bench) pods(ctx context.Context) error {
	image, other := "registry.yunfan.internal/bench/web:ours", "registry.yunfan.internal/bench/web:plain"
	for _, tag := range []string{"ours", "plain"} {
		if err := b.pack(ctx, tag); err != nil {
			return err
		}
	}
	ready := func(o *observer) error { return o.ready(ctx, many/len(members)) }
	file, err := b.write("application.yaml", application("pods", "1", image, many, v1alpha1.PlacementWeighted))
	if err != nil {
		return err
	}
	ours, err := timed(func() error { return b.apply(ctx, journey.Hub, file) }, func() error { return everywhere(b.ours, ready) })
	if err != nil {
		return err
	}
	files, err := b.copies(ctx, other)
	if err != nil {
		return err
	}
	if err := b.clean(ctx); err != nil {
		return err
	}
	theirs, err := b.plainly(ctx, files, ready)
	if err != nil {
		return err
	}
	beside("all Ready", ours, theirs)
	return b.clean(ctx)
}

// pack puts an image with the echo program into the instance's registry.
func (b *bench) pack(ctx context.Context, tag string) error {
	noise := make([]byte, padding)
	if _, err := rand.Read(noise); err != nil {
		return fmt.Errorf("making padding: %w", err)
	}
	file := filepath.Join(b.dir, tag+".padding")
	if err := os.WriteFile(file, noise, 0o600); err != nil {
		return fmt.Errorf("writing padding: %w", err)
	}
	pack := exec.CommandContext(ctx, "bin/yunfan", "image", "pack", "--name", "registry.yunfan.internal/bench/web", "--tag", tag,
		"--file", "bin/examples/echo=/echo:0755", "--file", file+"=/padding", "--entrypoint", "/echo",
		"--push", "unix:"+filepath.Join(b.dir, "registry", "push.sock"))
	if out, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("packing an image: %w\n%s", err, tail(out))
	}
	return nil
}
