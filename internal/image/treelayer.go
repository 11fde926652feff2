package image

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// layerIndex knows every path of a layer with a fingerprint of all that an image keeps about it.
type layerIndex map[string]string

func fingerprint(h *tar.Header, contentSum string) string {
	kind := h.Typeflag
	if kind == tar.TypeLink { // a hard link is a file like the other
		kind = tar.TypeReg
	}
	return fmt.Sprintf("%c %o %d:%d %s %s", kind, h.Mode, h.Uid, h.Gid, contentSum, linkTarget(h))
}

func linkTarget(h *tar.Header) string {
	if h.Typeflag == tar.TypeSymlink {
		return h.Linkname
	}
	return ""
}

// readLayerIndex reads a layer written by writeTreeLayer.
func readLayerIndex(layer string) (layerIndex, error) {
	f, err := os.Open(layer)
	if err != nil {
		return nil, fmt.Errorf("opening the base layer: %w", err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("reading the base layer: %w", err)
	}
	index, sums := layerIndex{}, map[string]string{}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return index, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the base layer: %w", err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		switch h.Typeflag {
		case tar.TypeReg:
			if sums[name], err = sum(tr); err != nil {
				return nil, fmt.Errorf("reading the base layer: %w", err)
			}
		case tar.TypeLink:
			sums[name] = sums[h.Linkname]
		}
		index[name] = fingerprint(h, sums[name])
	}
}

func sum(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeTreeLayer writes a directory tree as a layer: everything, or with a base only what differs from it, with
// whiteouts for what is gone. Sockets, pipes and devices are left out: the runtime provides its own.
func writeTreeLayer(root, out string, base layerIndex) error {
	f, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("writing the layer: %w", err)
	}
	defer f.Close()
	zw := gzip.NewWriter(f)
	t := &treeWriter{root: root, base: base, tw: tar.NewWriter(zw), present: map[string]bool{}, inodes: map[uint64]string{}, parents: map[string]bool{}}
	err = filepath.WalkDir(root, t.visit)
	if err == nil {
		err = t.whiteouts()
	}
	if err := errors.Join(err, t.tw.Close(), zw.Close(), f.Close()); err != nil {
		return fmt.Errorf("writing the layer: %w", err)
	}
	return nil
}

type treeWriter struct {
	root    string
	base    layerIndex
	tw      *tar.Writer
	present map[string]bool
	inodes  map[uint64]string // first path written of each file with several names
	parents map[string]bool   // directories written
}

// visit is called in lexical order, so two runs write the same bytes.
func (t *treeWriter) visit(full string, d fs.DirEntry, err error) error {
	if err != nil || full == t.root {
		return err
	}
	name, err := filepath.Rel(t.root, full)
	if err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		return nil
	}
	h, err := treeHeader(full, name, info)
	if err != nil {
		return err
	}
	t.present[name] = true
	if t.base != nil {
		contentSum := ""
		if h.Typeflag == tar.TypeReg {
			if contentSum, err = sumFile(full); err != nil {
				return err
			}
		}
		if t.base[name] == fingerprint(h, contentSum) {
			return nil
		}
	}
	return t.write(full, name, info, h)
}

func treeHeader(full, name string, info fs.FileInfo) (*tar.Header, error) {
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(full); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return nil, err
	}
	return &tar.Header{
		Name: name, Typeflag: h.Typeflag, Linkname: link, Size: h.Size, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid,
		ModTime: epoch, Format: tar.FormatPAX,
	}, nil
}

func (t *treeWriter) write(full, name string, info fs.FileInfo, h *tar.Header) error {
	if err := t.writeParents(path.Dir(name)); err != nil {
		return err
	}
	switch stat, ok := info.Sys().(*syscall.Stat_t); {
	case h.Typeflag == tar.TypeDir:
		if t.parents[name] {
			return nil
		}
		t.parents[name] = true
		h.Name += "/"
	case h.Typeflag == tar.TypeReg && ok && stat.Nlink > 1:
		if first, seen := t.inodes[stat.Ino]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.inodes[stat.Ino] = name
		}
	}
	if err := t.tw.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(full)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(t.tw, f)
	return err
}

// writeParents repeats unchanged parent directories of a change, so that no runtime has to invent their permissions.
func (t *treeWriter) writeParents(dir string) error {
	if dir == "." || t.parents[dir] {
		return nil
	}
	full := filepath.Join(t.root, dir)
	info, err := os.Lstat(full)
	if err != nil {
		return err
	}
	h, err := treeHeader(full, dir, info)
	if err != nil {
		return err
	}
	return t.write(full, dir, info, h)
}

func (t *treeWriter) whiteouts() error {
	for _, name := range slices.Sorted(maps.Keys(t.base)) {
		// What lay below a removed directory goes with it.
		if t.present[name] || (path.Dir(name) != "." && !t.present[path.Dir(name)]) {
			continue
		}
		if err := t.writeParents(path.Dir(name)); err != nil {
			return err
		}
		wh := path.Join(path.Dir(name), ".wh."+path.Base(name))
		if err := t.tw.WriteHeader(&tar.Header{Name: wh, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: epoch, Format: tar.FormatPAX}); err != nil {
			return err
		}
	}
	return nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sum(f)
}
