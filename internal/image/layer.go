package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image: the real time would make every digest different.
var epoch = time.Unix(0, 0).UTC()

// maxFilesLayer bounds one files layer, which is put together in memory.
const maxFilesLayer = 1 << 30

// filesLayer makes the layer of a recipe's own files, sorted, with the parent directories they need.
func filesLayer(files []File) (v1.Layer, error) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.To, b.To) })
	seen := map[string]bool{"/": true}
	for _, f := range sorted {
		if err := writeParents(tw, f.To, seen); err != nil {
			return nil, err
		}
		if seen[f.To] {
			return nil, fmt.Errorf("packing files: %s is given twice", f.To)
		}
		seen[f.To] = true
		if err := writeFile(tw, f); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.To, err)
		}
		if buf.Len() > maxFilesLayer {
			return nil, fmt.Errorf("packing files: more than %d bytes: put less into one image", maxFilesLayer)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("packing files: %w", err)
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("packing files: %w", err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("packing files: %w", err)
	}
	return layer, nil
}

func writeParents(tw *tar.Writer, p string, seen map[string]bool) error {
	dir := path.Dir(p)
	if seen[dir] {
		return nil
	}
	if err := writeParents(tw, dir, seen); err != nil {
		return err
	}
	seen[dir] = true
	return writeFile(tw, File{To: dir, Directory: true})
}

func writeFile(tw *tar.Writer, f File) error {
	mode, err := f.mode()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: strings.TrimPrefix(f.To, "/"), Mode: mode, Uid: f.UID, Gid: f.GID, ModTime: epoch, Format: tar.FormatPAX}
	switch {
	case f.Directory:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	case f.From != "":
		return writeHostFile(tw, h, f.From)
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Content))
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.WriteString(tw, f.Content)
	return err
}

func writeHostFile(tw *tar.Writer, h *tar.Header, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", from)
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, in)
	return err
}
