package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func writeTestFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testRecipe(t *testing.T) *Recipe {
	t.Helper()
	program := filepath.Join(t.TempDir(), "web")
	writeTestFile(t, program, "program")
	return &Recipe{
		Kind: Kind, Name: "registry.yunfan.internal/demo/web", Tag: "v1", Maintainer: "Yunfan",
		Files: []File{
			{From: program, To: "/usr/bin/web", Mode: "0755"},
			{Content: "a=b\n", To: "/etc/web.conf", UID: 7, GID: 8},
			{Link: "/usr/bin/web", To: "/bin/sh"},
			{Directory: true, To: "/tmp", Mode: "1777"},
		},
		Config: Config{Entrypoint: []string{"/usr/bin/web"}, Env: map[string]string{"PORT": "80"}, Expose: []string{"80", "53/udp"}, User: "65532"},
	}
}

func pack(t *testing.T, r *Recipe) v1.Image {
	t.Helper()
	img, err := (&Packer{CacheDir: t.TempDir()}).Pack(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, img v1.Image) string {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// listing gives the entries of the flattened image as "mode uid:gid name -> link | content".
func listing(t *testing.T, img v1.Image) []string {
	t.Helper()
	files := mutate.Extract(img)
	defer files.Close()
	return tarListing(t, files)
}

func tarListing(t *testing.T, r io.Reader) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		line := h.FileInfo().Mode().String() + " " + strings.TrimSuffix(h.Name, "/")
		if h.Uid != 0 || h.Gid != 0 {
			line += " owned"
		}
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		if len(content) > 0 {
			line += " = " + strings.TrimSpace(string(content))
		}
		out = append(out, line)
	}
}

func TestPackFiles(t *testing.T) {
	r := testRecipe(t)
	img := pack(t, r)
	want := []string{
		"drwxr-xr-x bin", "Lrwxrwxrwx bin/sh -> /usr/bin/web", "drwxr-xr-x etc", "-rw-r--r-- etc/web.conf owned = a=b",
		"dtrwxrwxrwx tmp", "drwxr-xr-x usr", "drwxr-xr-x usr/bin", "-rwxr-xr-x usr/bin/web = program",
	}
	if diff := cmp.Diff(want, listing(t, img)); diff != "" {
		t.Error(diff)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PORT=80"}, config.Config.Env); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]struct{}{"80/tcp": {}, "53/udp": {}}, config.Config.ExposedPorts); diff != "" {
		t.Error(diff)
	}

	t.Run("the same recipe later gives the same digest", func(t *testing.T) {
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(r.Files[0].From, later, later); err != nil {
			t.Fatal(err)
		}
		r.Files[0], r.Files[3] = r.Files[3], r.Files[0]
		if again := pack(t, r); digest(t, again) != digest(t, img) {
			t.Errorf("digest %s became %s", digest(t, img), digest(t, again))
		}
	})
}

func TestRecipeIsValidated(t *testing.T) {
	for reason, c := range map[string]struct {
		change func(*Recipe)
		want   string
	}{
		"no tag":                     {func(r *Recipe) { r.Tag = "" }, "needs a name and a version tag"},
		"no registry in the name":    {func(r *Recipe) { r.Name = "web" }, "reading image name"},
		"nothing in it":              {func(r *Recipe) { r.Files = nil }, "needs files or Debian packages"},
		"relative path":              {func(r *Recipe) { r.Files[0].To = "web" }, "absolute, clean path"},
		"path that climbs":           {func(r *Recipe) { r.Files[0].To = "/a/../../web" }, "absolute, clean path"},
		"two sources":                {func(r *Recipe) { r.Files[0].Content = "x" }, "exactly one of"},
		"mode that is not octal":     {func(r *Recipe) { r.Files[0].Mode = "rwx" }, "is not octal"},
		"port too high":              {func(r *Recipe) { r.Config.Expose = []string{"70000"} }, "use a port such as"},
		"unknown protocol":           {func(r *Recipe) { r.Config.Expose = []string{"80/icmp"} }, "use a port such as"},
		"path given twice":           {func(r *Recipe) { r.Files[0].To = r.Files[1].To }, "is given twice"},
		"file that is not there":     {func(r *Recipe) { r.Files[0].From = "/none" }, "no such file"},
		"a folder instead of a file": {func(r *Recipe) { r.Files[0].From = "/" }, "is not a regular file"},
		"option instead of package":  {func(r *Recipe) { r.Debian = &Debian{Suite: "bookworm", Packages: []string{"-o"}} }, "is not a package name"},
		"suite that is a path":       {func(r *Recipe) { r.Debian = &Debian{Suite: "../x"} }, "name a suite"},
		"unknown base":               {func(r *Recipe) { r.Debian = &Debian{Suite: "bookworm", Base: "huge"} }, "use minbase or none"},
		"remove everything":          {func(r *Recipe) { r.Debian = &Debian{Suite: "bookworm", Remove: []string{"/"}} }, "use an absolute path"},
	} {
		t.Run(reason, func(t *testing.T) {
			r := testRecipe(t)
			c.change(r)
			_, err := (&Packer{CacheDir: t.TempDir()}).Pack(t.Context(), r)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web.image.yaml")
	writeTestFile(t, path, "kind: ImageRecipe\nname: r.io/web\ntag: v1\nfiles: [{from: ../web, to: /web}]\n")
	r, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(dir), "web"); r.Files[0].From != want {
		t.Errorf("host path %s, want %s: paths are relative to the recipe", r.Files[0].From, want)
	}
	for reason, c := range map[string]struct{ text, want string }{
		"a field that does not exist": {"kind: ImageRecipe\nnaem: x\n", "naem"},
		"another kind":                {"kind: Pod\n", "kind: ImageRecipe"},
	} {
		t.Run(reason, func(t *testing.T) {
			writeTestFile(t, path, c.text)
			if _, err := Load(path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestParseFileFlag(t *testing.T) {
	for reason, c := range map[string]struct {
		flag string
		want File
		err  string
	}{
		"with mode":           {"bin/web=/web:0755", File{From: "bin/web", To: "/web", Mode: "0755"}, ""},
		"without mode":        {"bin/web=/web", File{From: "bin/web", To: "/web"}, ""},
		"no destination":      {"bin/web", File{}, "write host-path=/path/in/image"},
		"wrong mode":          {"bin/web=/web:x", File{From: "bin/web", To: "/web", Mode: "x"}, "is not octal"},
		"relative in image":   {"bin/web=web", File{From: "bin/web", To: "web"}, "absolute"},
		"nothing on the left": {"=/web", File{}, "write host-path"},
	} {
		t.Run(reason, func(t *testing.T) {
			got, err := ParseFileFlag(c.flag)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
		})
	}
}

func TestArchive(t *testing.T) {
	r := testRecipe(t)
	img := pack(t, r)
	ref, err := r.Reference()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sub", "web.tar")
	if err := WriteArchive(path, ref, img); err != nil {
		t.Fatal(err)
	}
	t.Run("read by ourselves", func(t *testing.T) {
		gotRef, got, err := ReadArchive(path)
		if err != nil {
			t.Fatal(err)
		}
		if gotRef.Name() != ref.Name() || digest(t, got) != digest(t, img) {
			t.Errorf("read %s@%s, want %s@%s", gotRef, digest(t, got), ref, digest(t, img))
		}
		if err := validate.Image(got); err != nil {
			t.Error(err)
		}
	})
	t.Run("read as docker archive", func(t *testing.T) {
		got, err := tarball.ImageFromPath(path, &ref)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(listing(t, img), listing(t, got)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a docker archive is read too", func(t *testing.T) {
		docker := filepath.Join(t.TempDir(), "docker.tar")
		if err := tarball.WriteToFile(docker, ref, img); err != nil {
			t.Fatal(err)
		}
		gotRef, got, err := ReadArchive(docker)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(listing(t, img), listing(t, got)); diff != "" || gotRef.Name() != ref.Name() {
			t.Error(gotRef, diff)
		}
	})
	t.Run("anything else is refused", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "x.tar")
		writeTestFile(t, other, "not a tar file")
		if _, _, err := ReadArchive(other); err == nil || !strings.Contains(err.Error(), other) {
			t.Errorf("got error %v, want one that names the file", err)
		}
	})
}

func TestPushArchives(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	r := testRecipe(t)
	img := pack(t, r)
	ref, err := r.Reference()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := WriteArchive(filepath.Join(dir, "a", "web.tar"), ref, img); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"registry.yunfan.internal/demo/web:v1 pushed (", "registry.yunfan.internal/demo/web:v1 is up to date\n"} {
		var progress bytes.Buffer
		if err := PushArchives(t.Context(), dir, address, &progress); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(progress.String(), want) {
			t.Errorf("progress %q, want %q", progress.String(), want)
		}
	}
	got, err := Pull(t.Context(), ref, address)
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, got) != digest(t, img) {
		t.Errorf("pulled %s, want %s", digest(t, got), digest(t, img))
	}

	t.Run("one bad archive does not stop the others", func(t *testing.T) {
		writeTestFile(t, filepath.Join(dir, "0.tar"), "broken")
		r.Tag = "v2"
		second, err := name.NewTag(r.Name + ":v2")
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteArchive(filepath.Join(dir, "web2.tar"), second, pack(t, r)); err != nil {
			t.Fatal(err)
		}
		if err := PushArchives(t.Context(), dir, address, io.Discard); err == nil || !strings.Contains(err.Error(), "0.tar") {
			t.Errorf("got error %v, want one that names 0.tar", err)
		}
		if _, err := Pull(t.Context(), second, address); err != nil {
			t.Error(err)
		}
	})
}

func TestPushToNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := testRecipe(t)
	ref, err := r.Reference()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"unix:" + filepath.Join(t.TempDir(), "none.sock"), "not an address"} {
		if err := Push(ctx, pack(t, r), ref, address); err == nil {
			t.Errorf("pushing to %s succeeded", address)
		}
	}
}
