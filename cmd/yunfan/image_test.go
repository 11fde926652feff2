package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/yunfan/internal/image"
)

// runImage runs "yunfan image" and gives what it prints.
func runImage(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newImageCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(t.Output())
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestIMG08_PackAndCheckByFlags(t *testing.T) {
	dir := t.TempDir()
	archive, program, recipe := filepath.Join(dir, "web.tar"), filepath.Join(dir, "web"), filepath.Join(dir, "web.image.yaml")
	for path, text := range map[string]string{
		program: "program",
		recipe:  "kind: ImageRecipe\nname: r.io/demo/web\ntag: v1\nfiles: [{from: web, to: /web}]\nconfig: {entrypoint: [/web], env: {A: b}}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for reason, c := range map[string]struct {
		args  []string
		ref   string
		check string
	}{
		"flags alone": {
			[]string{"--name", "r.io/demo/web", "--tag", "v2", "--maintainer", "me", "--file", program + "=/web:0755",
				"--entrypoint", "/web", "--env", "PORT=80", "--expose", "80", "--label", "a=b"},
			"r.io/demo/web:v2", archive + ": ok\n",
		},
		"flags over a recipe": {
			[]string{recipe, "--tag", "v3", "--maintainer", "me", "--label", image.LabelListens + "=nothing"},
			"r.io/demo/web:v3", archive + ": ok\n",
		},
		"a recipe that breaks rules": {
			[]string{recipe, "--tag", "latest"},
			"r.io/demo/web:latest", "maintainer:|version-tag:|expose:",
		},
	} {
		t.Run(reason, func(t *testing.T) {
			out, err := runImage(t, append([]string{"pack", "--output", archive}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(out, c.ref+"@sha256:") {
				t.Errorf("printed %q, want the reference %s with its digest", out, c.ref)
			}
			report, err := runImage(t, "check", archive)
			if (err == nil) != strings.HasSuffix(c.check, ": ok\n") {
				t.Errorf("check ended with %v", err)
			}
			for want := range strings.SplitSeq(c.check, "|") {
				if !strings.Contains(report, want) {
					t.Errorf("%q is missing in the report %q", want, report)
				}
			}
		})
	}
}

func TestImageErrors(t *testing.T) {
	for reason, c := range map[string]struct {
		args []string
		want string
	}{
		"nowhere to put it":   {[]string{"pack", "--name", "r.io/a", "--tag", "v1"}, "at least one of the flags in the group [output push]"},
		"a pair without sign": {[]string{"pack", "-o", "x.tar", "--env", "PORT"}, `--env "PORT": write KEY=VALUE`},
		"no recipe":           {[]string{"pack", "/none.yaml", "-o", "x.tar"}, "no such file"},
		"push to nowhere":     {[]string{"push", "."}, `"to" not set`},
		"push of nothing":     {[]string{"push", "/none", "--to", "127.0.0.1:1"}, "looking for image archives"},
		"check of nonsense":   {[]string{"check", "Not An Image"}, "is neither a file nor an image"},
	} {
		t.Run(reason, func(t *testing.T) {
			_, err := runImage(t, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestArchivePaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.tar", "a.tar", "c.txt", filepath.Join("sub", "d.tar")} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := archivePaths([]string{filepath.Join(dir, "c.txt"), dir})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "c.txt"), filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar"), filepath.Join(dir, "sub", "d.tar")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
