package image

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Labels that the packer writes and the check reads.
const (
	labelBase       = "org.opencontainers.image.base.name"
	labelMaintainer = "org.opencontainers.image.authors"
	labelVersion    = "org.opencontainers.image.version"
	labelTitle      = "org.opencontainers.image.title"

	// LabelListens with the value "nothing" says that an image has no port to expose.
	LabelListens = "yunfan.io/listens"
	// LabelSettings with the value "nothing" says that there is no environment variable to declare.
	LabelSettings = "yunfan.io/settings"
)

// Packer turns recipes into images.
type Packer struct {
	CacheDir string    // where Debian layers are kept; see DefaultCacheDir
	Mirror   string    // Debian mirror; empty means DefaultMirror
	Refresh  bool      // make Debian layers anew (newer packages) instead of taking them from the cache
	Progress io.Writer // one line per step; nil discards them
}

// Pack makes the image of a recipe. The same recipe over the same files and cached Debian layers gives the same digest.
func (p *Packer) Pack(ctx context.Context, r *Recipe) (v1.Image, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("checking recipe %s: %w", r.Name, err)
	}
	if p.Progress == nil {
		p.Progress = io.Discard
	}
	layers, err := p.layers(ctx, r)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Created:      v1.Time{Time: epoch},
		RootFS:       v1.RootFS{Type: "layers"},
		Config:       r.containerConfig(),
	})
	if err != nil {
		return nil, fmt.Errorf("writing image configuration: %w", err)
	}
	if img, err = mutate.Append(img, layers...); err != nil {
		return nil, fmt.Errorf("adding layers: %w", err)
	}
	return img, nil
}

func (p *Packer) layers(ctx context.Context, r *Recipe) ([]mutate.Addendum, error) {
	var out []mutate.Addendum
	add := func(l v1.Layer, what string) {
		out = append(out, mutate.Addendum{
			Layer: l, MediaType: types.OCILayer,
			History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "yunfan image pack", Comment: what},
		})
	}
	if r.Debian != nil {
		debian, err := p.debianLayers(ctx, r.Debian)
		if err != nil {
			return nil, err
		}
		for _, l := range debian {
			add(l.layer, l.what)
		}
	}
	if len(r.Files) > 0 {
		l, err := filesLayer(r.Files)
		if err != nil {
			return nil, err
		}
		add(l, "files")
	}
	return out, nil
}

func (r *Recipe) containerConfig() v1.Config {
	c := r.Config
	labels := map[string]string{labelBase: r.baseName(), labelVersion: r.Tag, labelTitle: r.Name[strings.LastIndex(r.Name, "/")+1:]}
	if r.Maintainer != "" {
		labels[labelMaintainer] = r.Maintainer
	}
	maps.Copy(labels, c.Labels)
	out := v1.Config{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, User: c.User, WorkingDir: c.Workdir, StopSignal: c.StopSignal, Labels: labels,
		Volumes: set(c.Volumes),
	}
	env := maps.Clone(c.Env)
	if env == nil {
		env = map[string]string{}
	}
	if env["PATH"] == "" {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out.Env = append(out.Env, k+"="+env[k])
	}
	var ports []string
	for _, p := range c.Expose {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		ports = append(ports, p)
	}
	out.ExposedPorts = set(ports)
	return out
}

// set is the form in which image configurations write lists; nil if empty.
func set(keys []string) map[string]struct{} {
	var out map[string]struct{}
	for _, k := range keys {
		if out == nil {
			out = map[string]struct{}{}
		}
		out[k] = struct{}{}
	}
	return out
}

func (r *Recipe) baseName() string {
	if r.Debian == nil || r.Debian.Base == BaseNone {
		return "scratch"
	}
	return "debian:" + r.Debian.Suite
}
