package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"yunfan.io/engine/topology"
)

// ImportImages loads the archives (*.tar) of a folder into the containerd of this node. What was loaded is recorded by
// size and time of the archive, and asked back from containerd, so that a restarted node loses no time.
func ImportImages(ctx context.Context, ctr, folder, record string) error {
	archives, err := filepath.Glob(filepath.Join(folder, "*.tar"))
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	present, err := run(ctx, ctr, "images", "ls", "-q")
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	done := map[string]string{}
	if data, err := os.ReadFile(record); err == nil {
		_ = json.Unmarshal(data, &done) // an unreadable record means importing once more
	}
	for _, archive := range archives {
		info, err := os.Stat(archive)
		if err != nil {
			return fmt.Errorf("importing image: %w", err)
		}
		name := filepath.Base(archive)
		stamp := fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
		if done[name] == stamp && strings.Contains(present, "/"+strings.TrimSuffix(name, ".tar")+":") {
			continue
		}
		if out, err := run(ctx, ctr, "images", "import", "--digests=false", archive); err != nil {
			return fmt.Errorf("importing image %s: %w: %s", archive, err, out)
		}
		done[name] = stamp
		data, err := json.Marshal(done)
		if err != nil {
			return fmt.Errorf("recording images: %w", err)
		}
		if err := topology.WriteFile(record, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, ctr string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, ctr, append([]string{"--namespace=k8s.io"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
