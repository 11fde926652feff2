package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// endpoint is a registry reached at HOST:PORT or at unix:PATH, by plain HTTP.
type endpoint struct {
	registry  name.Registry
	transport http.RoundTripper
}

func newEndpoint(address string) (*endpoint, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	t := &http.Transport{
		DialContext:           dialer.DialContext,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute, // a registry verifies a big layer before it answers
	}
	host := address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		// The name only fills the Host header; every connection goes to the socket.
		host = "localhost"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
	}
	registry, err := name.NewRegistry(host, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("reading registry address %q: %w: use HOST:PORT or unix:PATH", address, err)
	}
	return &endpoint{registry, t}, nil
}

// locate gives the place of an image on this endpoint: the registry in its name is only a name.
func (e *endpoint) locate(ref name.Reference) name.Reference {
	repo := e.registry.Repo(ref.Context().RepositoryStr())
	if d, ok := ref.(name.Digest); ok {
		return repo.Digest(d.DigestStr())
	}
	return repo.Tag(ref.Identifier())
}

func (e *endpoint) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(e.transport), remote.WithJobs(4)}
}

// Push uploads an image to the registry at address (HOST:PORT or unix:PATH). Blobs already there are not sent again.
func Push(ctx context.Context, img v1.Image, ref name.Reference, address string) error {
	e, err := newEndpoint(address)
	if err != nil {
		return err
	}
	return e.push(ctx, img, ref)
}

func (e *endpoint) push(ctx context.Context, img v1.Image, ref name.Reference) error {
	if err := remote.Write(e.locate(ref), img, e.options(ctx)...); err != nil {
		return fmt.Errorf("pushing %s: %w", ref, err)
	}
	return nil
}

// Pull opens an image of the registry at address; its layers are read when asked for.
func Pull(ctx context.Context, ref name.Reference, address string) (v1.Image, error) {
	e, err := newEndpoint(address)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(e.locate(ref), e.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("pulling %s: %w", ref, err)
	}
	return img, nil
}

// PushArchives uploads every image archive below dir to the registry (HOST:PORT or unix:PATH), one progress line each.
// What the registry already has is skipped, so calling it at every start costs little. All archives are tried; the
// error names each that failed.
func PushArchives(ctx context.Context, dir, registry string, progress io.Writer) error {
	paths, err := FindArchives(dir)
	if err != nil {
		return err
	}
	return PushFiles(ctx, paths, registry, progress)
}

// FindArchives lists the *.tar files below a directory in order.
func FindArchives(dir string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".tar" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for image archives: %w", err)
	}
	slices.Sort(paths)
	return paths, nil
}

// PushFiles is PushArchives for named archive files.
func PushFiles(ctx context.Context, paths []string, registry string, progress io.Writer) error {
	e, err := newEndpoint(registry)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range paths {
		ref, img, err := ReadArchive(path)
		if err == nil {
			err = e.pushMissing(ctx, ref, img, progress)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (e *endpoint) pushMissing(ctx context.Context, ref name.Tag, img v1.Image, progress io.Writer) error {
	want, err := img.Digest()
	if err != nil {
		return fmt.Errorf("reading %s: %w", ref, err)
	}
	if have, err := remote.Head(e.locate(ref), e.options(ctx)...); err == nil && have.Digest == want {
		fmt.Fprintf(progress, "%s is up to date\n", ref)
		return nil
	}
	start := time.Now()
	if err := e.push(ctx, img, ref); err != nil {
		return err
	}
	fmt.Fprintf(progress, "%s pushed (%.1fs)\n", ref, time.Since(start).Seconds())
	return nil
}
