// Package image makes, checks, stores and uploads container images without any outside tool or registry: from
// files (FROM scratch style) and from Debian packages. The same recipe always gives the same digest.
package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"sigs.k8s.io/yaml"
)

// Kind is the value of "kind" in every recipe file.
const Kind = "ImageRecipe"

// Recipe says what goes into one image. Layers are laid in this order: Debian base, Debian packages, files.
type Recipe struct {
	Kind       string  `json:"kind"`
	Name       string  `json:"name"`       // repository with registry, as in registry.yunfan.internal/examples/echo
	Tag        string  `json:"tag"`        // a version; never latest
	Maintainer string  `json:"maintainer"` // person or organisation that answers for the image
	Debian     *Debian `json:"debian,omitempty"`
	Files      []File  `json:"files,omitempty"`
	Config     Config  `json:"config"`
}

// Debian is a root file system made of Debian packages.
type Debian struct {
	Suite    string     `json:"suite"`            // as in bookworm
	Base     string     `json:"base,omitempty"`   // minbase (default), or none: only the named packages, unpacked, without what they depend on
	Packages []string   `json:"packages"`         // installed with what they depend on, without recommendations
	Run      [][]string `json:"run,omitempty"`    // programs run inside afterwards, no shell
	Remove   []string   `json:"remove,omitempty"` // globs removed afterwards
}

// Base systems of Debian.Base.
const (
	BaseMinimal = "minbase"
	BaseNone    = "none"
)

// File is one entry of the files layer: a host file, text, a symbolic link or a directory.
type File struct {
	To        string `json:"to"`                  // absolute path in the image
	From      string `json:"from,omitempty"`      // host path, relative to the recipe
	Content   string `json:"content,omitempty"`   // text
	Link      string `json:"link,omitempty"`      // target of a symbolic link
	Directory bool   `json:"directory,omitempty"` // an empty directory
	Mode      string `json:"mode,omitempty"`      // octal; default 0644, directories 0755
	UID       int    `json:"uid,omitempty"`
	GID       int    `json:"gid,omitempty"`
}

// Config is how the image is started.
type Config struct {
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Expose     []string          `json:"expose,omitempty"` // port or port/protocol
	Volumes    []string          `json:"volumes,omitempty"`
	User       string            `json:"user,omitempty"`
	Workdir    string            `json:"workdir,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
}

// Load reads a recipe file. Host paths in it become relative to the working directory.
func Load(path string) (*Recipe, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading recipe: %w", err)
	}
	r := &Recipe{}
	if err := yaml.UnmarshalStrict(data, r); err != nil {
		return nil, fmt.Errorf("reading recipe %s: %w", path, err)
	}
	if r.Kind != Kind {
		return nil, fmt.Errorf("recipe %s has kind %q: write \"kind: %s\"", path, r.Kind, Kind)
	}
	for i, f := range r.Files {
		if f.From != "" && !filepath.IsAbs(f.From) {
			r.Files[i].From = filepath.Join(filepath.Dir(path), f.From)
		}
	}
	return r, nil
}

// Reference is the full name of the image.
func (r *Recipe) Reference() (name.Tag, error) {
	if r.Name == "" || r.Tag == "" {
		return name.Tag{}, errors.New("an image needs a name and a version tag")
	}
	tag, err := name.NewTag(r.Name+":"+r.Tag, name.StrictValidation)
	if err != nil {
		return name.Tag{}, fmt.Errorf("reading image name: %w", err)
	}
	return tag, nil
}

// Validate reports everything in the recipe that cannot be packed.
func (r *Recipe) Validate() error {
	_, err := r.Reference()
	errs := []error{err}
	if r.Debian == nil && len(r.Files) == 0 {
		errs = append(errs, errors.New("an image needs files or Debian packages"))
	}
	if d := r.Debian; d != nil {
		if d.Suite == "" || strings.ContainsAny(d.Suite, "/ ") {
			errs = append(errs, fmt.Errorf("debian suite %q: name a suite such as bookworm", d.Suite))
		}
		if !slices.Contains([]string{"", BaseMinimal, BaseNone}, d.Base) {
			errs = append(errs, fmt.Errorf("debian base %q: use %s or %s", d.Base, BaseMinimal, BaseNone))
		}
		if d.Base == BaseNone && len(d.Packages) == 0 {
			errs = append(errs, errors.New("debian base none needs at least one package"))
		}
		for _, p := range d.Packages {
			if p == "" || strings.HasPrefix(p, "-") || strings.ContainsAny(p, " /;\n") {
				errs = append(errs, fmt.Errorf("debian package %q is not a package name", p))
			}
		}
		for _, g := range d.Remove {
			if !isCleanAbs(g) {
				errs = append(errs, fmt.Errorf("remove %q: use an absolute path in the image", g))
			}
		}
	}
	for _, f := range r.Files {
		errs = append(errs, f.validate())
	}
	for _, p := range r.Config.Expose {
		errs = append(errs, validatePort(p))
	}
	return errors.Join(errs...)
}

func isCleanAbs(p string) bool { return p != "/" && filepath.IsAbs(p) && filepath.Clean(p) == p }

func (f File) validate() error {
	if !isCleanAbs(f.To) {
		return fmt.Errorf("file %q: give an absolute, clean path in the image", f.To)
	}
	kinds := 0
	for _, set := range []bool{f.From != "", f.Content != "", f.Link != "", f.Directory} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return fmt.Errorf("file %s: give exactly one of from, content, link and directory", f.To)
	}
	_, err := f.mode()
	return err
}

// mode is the permission bits with setuid, setgid and sticky as Unix writes them.
func (f File) mode() (int64, error) {
	if f.Mode == "" {
		switch {
		case f.Directory:
			return 0o755, nil
		case f.Link != "":
			return 0o777, nil
		}
		return 0o644, nil
	}
	mode, err := strconv.ParseInt(f.Mode, 8, 64)
	if err != nil || mode < 0 || mode > 0o7777 {
		return 0, fmt.Errorf("file %s: mode %q is not octal such as 0755", f.To, f.Mode)
	}
	return mode, nil
}

func validatePort(p string) error {
	number, protocol, found := strings.Cut(p, "/")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > 65535 || (found && !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol)) {
		return fmt.Errorf("expose %q: use a port such as 8080 or 53/udp", p)
	}
	return nil
}

// ParseFileFlag reads HOST=PATH[:MODE], as given to --file.
func ParseFileFlag(s string) (File, error) {
	from, to, ok := strings.Cut(s, "=")
	if !ok || from == "" || to == "" {
		return File{}, fmt.Errorf("file %q: write host-path=/path/in/image or host-path=/path/in/image:0755", s)
	}
	f := File{From: from}
	f.To, f.Mode, _ = strings.Cut(to, ":")
	return f, f.validate()
}
