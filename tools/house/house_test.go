package house_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxFile      = 500
	maxTestFile  = 1000
	maxFunction  = 100
	maxReconcile = 75
)

// root is the repository, as seen from this folder.
const root = "../.."

// forbidden are package names that say nothing about what is inside.
var forbidden = []string{"base", "common", "helper", "helpers", "misc", "shared", "util", "utils"}

// TestGo checks every hand-written Go file of every module.
func TestGo(t *testing.T) {
	commented := map[string]bool{} // by folder and package
	for _, path := range files(t, ".go") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(file) {
			continue
		}
		checkSize(t, path, bytes.Count(text, []byte("\n")))
		checkFunctions(t, set, path, file)
		if name := file.Name.Name; slices.Contains(forbidden, name) {
			t.Errorf("%s: package %s: name it after what it holds", path, name)
		}
		if !strings.HasSuffix(path, "_test.go") {
			folder := filepath.Dir(path)
			commented[folder] = commented[folder] || file.Doc != nil
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(commented)) {
		if !commented[folder] {
			t.Errorf("%s: no package comment: say in a sentence what the package is for", folder)
		}
	}
}

func checkSize(t *testing.T, path string, lines int) {
	t.Helper()
	limit := maxFile
	if strings.HasSuffix(path, "_test.go") {
		limit = maxTestFile
	}
	if lines > limit {
		t.Errorf("%s: %d lines, at most %d: split it by what its parts are about", path, lines, limit)
	}
}

func checkFunctions(t *testing.T, set *token.FileSet, path string, file *ast.File) {
	t.Helper()
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		limit := maxFunction
		if f.Name.Name == "Reconcile" {
			limit = maxReconcile
		}
		if lines := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; lines > limit {
			t.Errorf("%s: %s has %d lines, at most %d", path, f.Name.Name, lines, limit)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks checks that every page a page points to is there.
func TestLinks(t *testing.T) {
	for _, path := range files(t, ".md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllSubmatch(text, -1) {
			target, err := url.Parse(string(match[1]))
			if err != nil || target.Scheme != "" || target.Path == "" {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), target.Path)); err != nil {
				t.Errorf("%s: link to %s, which is not there", path, target.Path)
			}
		}
	}
}

// TestKindsHaveAPage checks that every kind has its page, and that the index and both READMEs point to it.
func TestKindsHaveAPage(t *testing.T) {
	crds, err := filepath.Glob(filepath.Join(root, "api/crds/*.yaml"))
	if err != nil || len(crds) == 0 {
		t.Fatalf("no CRDs found (%v): run make generate", err)
	}
	kind := regexp.MustCompile(`(?m)^ +kind: (\w+)$`)
	for _, crd := range crds {
		text, err := os.ReadFile(crd)
		if err != nil {
			t.Fatal(err)
		}
		page := fmt.Sprintf("docs/%s.md", strings.ToLower(string(kind.FindSubmatch(text)[1])))
		if _, err := os.Stat(filepath.Join(root, page)); err != nil {
			t.Errorf("%s is missing: write it after the skeleton of docs/application.md", page)
			continue
		}
		for _, index := range []string{"docs/README.md", "README.md", "README.zh-CN.md"} {
			text, err := os.ReadFile(filepath.Join(root, index))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(text, []byte(filepath.Base(page))) {
				t.Errorf("%s does not point to %s", index, page)
			}
		}
	}
}

// files lists the repository's files whose names end in ext, leaving out what is built.
func files(t *testing.T, ext string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "bin", "node_modules", "testdata"}, entry.Name()) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ext {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
