package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	annotationImageName = "io.containerd.image.name"          // read by containerd: the whole reference
	annotationRefName   = "org.opencontainers.image.ref.name" // read by the other OCI tools: the tag
	dockerIndexFile     = "manifest.json"                     // read by docker load
	ociIndexFile        = "index.json"
	ociMarkerFile       = "oci-layout"
	ociMarker           = `{"imageLayoutVersion":"1.0.0"}`
	maxArchiveJSON      = 4 << 20 // bytes of one manifest or configuration
)

// dockerEntry is one image in the index that docker reads.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// WriteArchive stores an image as a tar file that is an OCI layout and a docker archive at once. The file appears only
// when it is complete.
func WriteArchive(path string, ref name.Tag, img v1.Image) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing archive %s: %w", path, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".archive-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := writeArchive(tmp, ref, img); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func writeArchive(w io.Writer, ref name.Tag, img v1.Image) error {
	a := archiveWriter{tw: tar.NewWriter(w), written: map[string]bool{}}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	desc, err := partial.Descriptor(img)
	if err != nil {
		return err
	}
	desc.Annotations = map[string]string{annotationImageName: ref.Name(), annotationRefName: ref.TagStr()}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	docker := dockerEntry{Config: blobPath(configName), RepoTags: []string{ref.Name()}}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*desc}}

	a.bytes(ociMarkerFile, []byte(ociMarker))
	a.json(ociIndexFile, index)
	a.bytes(blobPath(desc.Digest), manifest)
	a.bytes(blobPath(configName), config)
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		docker.Layers = append(docker.Layers, blobPath(digest))
		a.layer(blobPath(digest), l)
	}
	a.json(dockerIndexFile, []dockerEntry{docker})
	return errors.Join(a.err, a.tw.Close())
}

// archiveWriter keeps the first error, so that writing reads as a list.
type archiveWriter struct {
	tw      *tar.Writer
	written map[string]bool
	err     error
}

func (a *archiveWriter) stream(path string, size int64, r io.Reader) {
	if a.err != nil || a.written[path] {
		return
	}
	a.written[path] = true
	a.err = a.tw.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: epoch})
	if a.err == nil {
		_, a.err = io.Copy(a.tw, r)
	}
}

func (a *archiveWriter) bytes(path string, data []byte) {
	a.stream(path, int64(len(data)), bytes.NewReader(data))
}

func (a *archiveWriter) json(path string, v any) {
	data, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	a.bytes(path, data)
}

func (a *archiveWriter) layer(path string, l v1.Layer) {
	size, err := l.Size()
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	r, err := l.Compressed()
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	defer r.Close()
	a.stream(path, size, r)
}

// Archive is an image in a tar file written by WriteArchive. It satisfies partial.CompressedImageCore.
type Archive struct {
	Ref      name.Tag
	path     string
	blobs    map[string]section
	manifest []byte
	config   []byte
	desc     v1.Descriptor
}

type section struct{ offset, size int64 }

// ReadArchive opens an archive written by WriteArchive or by "docker save" with one image and one tag in it.
func ReadArchive(path string) (name.Tag, v1.Image, error) {
	a := &Archive{path: path, blobs: map[string]section{}}
	ownErr := a.read()
	if ownErr == nil {
		img, err := partial.CompressedToImage(a)
		if err != nil {
			return name.Tag{}, nil, fmt.Errorf("reading image archive %s: %w", path, err)
		}
		return a.Ref, img, nil
	}
	ref, img, err := readDockerArchive(path)
	if err != nil {
		return name.Tag{}, nil, fmt.Errorf("reading image archive %s: %w", path, errors.Join(ownErr, err))
	}
	return ref, img, nil
}

func readDockerArchive(path string) (name.Tag, v1.Image, error) {
	open := func() (io.ReadCloser, error) { return os.Open(path) }
	images, err := tarball.LoadManifest(open)
	if err != nil {
		return name.Tag{}, nil, err
	}
	if len(images) != 1 || len(images[0].RepoTags) != 1 {
		return name.Tag{}, nil, errors.New("one image with one tag is expected")
	}
	ref, err := name.NewTag(images[0].RepoTags[0])
	if err != nil {
		return name.Tag{}, nil, err
	}
	img, err := tarball.Image(open, &ref)
	return ref, img, err
}

func (a *Archive) read() error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		// The tar reader reads headers exactly, so the file stands at the first byte of the content.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		a.blobs[h.Name] = section{at, h.Size}
	}
	index := v1.IndexManifest{}
	data, err := a.small(ociIndexFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return err
	}
	if len(index.Manifests) != 1 {
		return fmt.Errorf("holds %d images: one is expected", len(index.Manifests))
	}
	a.desc = index.Manifests[0]
	if !a.desc.MediaType.IsImage() {
		return fmt.Errorf("holds a %s: an image is expected", a.desc.MediaType)
	}
	if a.Ref, err = name.NewTag(a.desc.Annotations[annotationImageName], name.StrictValidation); err != nil {
		return err
	}
	if a.manifest, err = a.small(blobPath(a.desc.Digest)); err != nil {
		return err
	}
	m, err := a.parsedManifest()
	if err != nil {
		return err
	}
	a.config, err = a.small(blobPath(m.Config.Digest))
	return err
}

func (a *Archive) parsedManifest() (*v1.Manifest, error) {
	return v1.ParseManifest(bytes.NewReader(a.manifest))
}

func (a *Archive) small(name string) ([]byte, error) {
	s, ok := a.blobs[name]
	if !ok || s.size > maxArchiveJSON {
		return nil, fmt.Errorf("%s is missing or too big", name)
	}
	r, err := a.open(s)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func (a *Archive) open(s section) (io.ReadCloser, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.offset, s.size), f}, nil
}

// RawConfigFile is part of partial.CompressedImageCore.
func (a *Archive) RawConfigFile() ([]byte, error) { return a.config, nil }

// RawManifest is part of partial.CompressedImageCore.
func (a *Archive) RawManifest() ([]byte, error) { return a.manifest, nil }

// MediaType is part of partial.CompressedImageCore.
func (a *Archive) MediaType() (types.MediaType, error) { return a.desc.MediaType, nil }

// LayerByDigest is part of partial.CompressedImageCore.
func (a *Archive) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := a.parsedManifest()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(m.Layers, func(d v1.Descriptor) bool { return d.Digest == h })
	s, ok := a.blobs[blobPath(h)]
	if i < 0 || !ok {
		return nil, fmt.Errorf("layer %s is missing", h)
	}
	return archiveLayer{a, m.Layers[i], s}, nil
}

type archiveLayer struct {
	archive *Archive
	desc    v1.Descriptor
	section section
}

func (l archiveLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l archiveLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l archiveLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l archiveLayer) Compressed() (io.ReadCloser, error)  { return l.archive.open(l.section) }
