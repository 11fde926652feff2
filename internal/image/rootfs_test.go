package image

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func globRecipes(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("../../examples/*/*.image.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recipes found: %v", err)
	}
	return paths
}

func readLayer(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return tarListing(t, zr)
}

func TestTreeLayers(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	writeTestFile(t, filepath.Join(root, "bin/perl"), "perl")
	writeTestFile(t, filepath.Join(root, "etc/kept"), "same")
	writeTestFile(t, filepath.Join(root, "etc/changed"), "old")
	writeTestFile(t, filepath.Join(root, "opt/gone/a"), "a")
	for _, err := range []error{
		os.Link(filepath.Join(root, "bin/perl"), filepath.Join(root, "bin/perl5")),
		os.Symlink("perl", filepath.Join(root, "bin/p")),
		os.Chmod(filepath.Join(root, "etc"), 0o750),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	base := filepath.Join(out, "base.tar.gz")
	if err := writeTreeLayer(root, base, nil); err != nil {
		t.Fatal(err)
	}
	owned := ""
	if os.Geteuid() != 0 {
		owned = " owned"
	}
	want := []string{
		"drwxr-xr-x bin", "Lrwxrwxrwx bin/p -> perl", "-rw-r--r-- bin/perl = perl", "-rw-r--r-- bin/perl5 -> bin/perl",
		"drwxr-x--- etc", "-rw-r--r-- etc/changed = old", "-rw-r--r-- etc/kept = same",
		"drwxr-xr-x opt", "drwxr-xr-x opt/gone", "-rw-r--r-- opt/gone/a = a",
	}
	if owned == "" {
		if diff := cmp.Diff(want, readLayer(t, base)); diff != "" {
			t.Error(diff)
		}
	}

	index, err := readLayerIndex(base)
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	for _, err := range []error{
		os.Chtimes(filepath.Join(root, "etc/kept"), later, later), // alone no change
		os.WriteFile(filepath.Join(root, "etc/changed"), []byte("new"), 0o644),
		os.WriteFile(filepath.Join(root, "etc/added"), []byte("added"), 0o600),
		os.RemoveAll(filepath.Join(root, "opt/gone")),
		os.Remove(filepath.Join(root, "bin/p")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	diffLayer := filepath.Join(out, "diff.tar.gz")
	if err := writeTreeLayer(root, diffLayer, index); err != nil {
		t.Fatal(err)
	}
	want = []string{
		"drwxr-x--- etc", "-rw------- etc/added = added", "-rw-r--r-- etc/changed = new",
		"drwxr-xr-x bin", "-rw-r--r-- bin/.wh.p", "drwxr-xr-x opt", "-rw-r--r-- opt/.wh.gone",
	}
	if owned == "" {
		if diff := cmp.Diff(want, readLayer(t, diffLayer)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestCleaningStaysInside(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	writeTestFile(t, filepath.Join(outside, "precious"), "x")
	writeTestFile(t, filepath.Join(root, "usr/share/doc/web/copyright"), "licence")
	writeTestFile(t, filepath.Join(root, "usr/share/doc/web/changelog.gz"), "x")
	writeTestFile(t, filepath.Join(root, "etc/shadow"), "root:*:20777:0:99999:7:::\nmysql:!:20777::::::\n")
	writeTestFile(t, filepath.Join(root, "var/log/apt/history.log"), "today")
	if err := os.Symlink(outside, filepath.Join(root, "var/lock")); err != nil {
		t.Fatal(err)
	}
	if err := removeGlobs(root, []string{"/var/lock/*", "/var/none/*"}); err != nil {
		t.Log(err) // an error is fine, following the link is not
	}
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Fatal("a symbolic link in the root file system led the cleaning outside")
	}
	if err := finish(root, filepath.Join(t.TempDir(), "layer.tar.gz"), nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"usr/share/doc/web/copyright": true, "usr/share/doc/web/changelog.gz": false, "var/log/apt": false, "var/log": true} {
		if _, err := os.Stat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s kept: %v, want %v", path, err == nil, want)
		}
	}
	shadow, err := os.ReadFile(filepath.Join(root, "etc/shadow"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("root:*:1:0:99999:7:::\nmysql:!:1::::::\n", string(shadow)); diff != "" {
		t.Error(diff)
	}
}

// TestDebianImage makes an image of a real Debian package twice, from separate layers. The base system that fetches the
// package comes from this machine's cache, or is made.
func TestDebianImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: debootstrap")
	}
	cache, err := DefaultCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Load("../../examples/busybox/busybox.image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]bool{}
	for range 2 {
		packer := &Packer{CacheDir: cache, Progress: t.Output()}
		base, err := packer.debianLayers(t.Context(), &Debian{Suite: r.Debian.Suite})
		if err != nil {
			t.Fatal(err)
		}
		if len(base) != 1 {
			t.Fatalf("%d layers for a base system", len(base))
		}
		// A cache of its own with only the base in it, so that the packages are unpacked anew.
		own := t.TempDir()
		name := cacheKey("base", r.Debian.Suite) + ".tar.gz"
		if err := os.MkdirAll(filepath.Join(own, "layers"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(cache, "layers", name), filepath.Join(own, "layers", name)); err != nil {
			t.Fatal(err)
		}
		packer.CacheDir = own
		img, err := packer.Pack(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		digests[digest(t, img)] = true
		files := strings.Join(listing(t, img), "\n")
		for _, want := range []string{"bin/busybox", "bin/sh -> /bin/busybox", "usr/share/doc/busybox-static/copyright"} {
			if !strings.Contains(files, want) {
				t.Errorf("%s is missing in\n%s", want, files[:min(2000, len(files))])
			}
		}
	}
	if len(digests) != 1 {
		t.Errorf("the same recipe gave %v", digests)
	}
}

func TestProgressIsThinnedOutAndErrorsKeepTheEnd(t *testing.T) {
	var shown strings.Builder
	w := &progressWriter{to: &shown}
	for range 100 {
		if _, err := io.WriteString(w, "line one\nline t"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "wo\n"); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(shown.String(), "\n"); n > 2 {
		t.Errorf("%d lines shown at once", n)
	}
	if got := strings.Split(w.tail(), "\n"); len(got) != tailLines || got[tailLines-1] != "line two" {
		t.Errorf("the end is %q", got)
	}
	p := &Packer{Progress: io.Discard}
	err := p.run(t.Context(), "sh", "-c", "echo it broke here; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3\nit broke here") {
		t.Errorf("got error %v", err)
	}
}
