package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/testkit"
)

const (
	childRecords = "YUNFAN_TEST_AUDIT_RECORDS"
	childFolder  = "YUNFAN_TEST_AUDIT_FOLDER"
)

func TestMain(m *testing.M) {
	if location := os.Getenv(childRecords); location != "" {
		if err := child(location, os.Getenv(childFolder)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if location := os.Getenv(serverRecords); location != "" {
		if err := childServer(location); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child writes as a server does until it is killed: a row's intent, then the write itself, which is a file, then the
// result.
func child(location, folder string) error {
	ctx := context.Background()
	db, err := record.Open(ctx, location)
	if err != nil {
		return err
	}
	w, err := audit.NewWriter(ctx, db, "killed", logr.Discard())
	if err != nil {
		return err
	}
	failed := make(chan error)
	for user := range 8 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d-%d", os.Getpid(), user, i)
				row, err := w.Begin(ctx, audit.Intent{Time: time.Now().UnixMilli(), User: fmt.Sprint(user), Action: "create", Resource: "files", Name: name})
				if err == nil {
					err = os.WriteFile(filepath.Join(folder, name), nil, 0o600)
				}
				if err != nil {
					failed <- err
					return
				}
				w.End(row, audit.Outcome{Time: time.Now().UnixMilli(), Result: audit.ResultSucceeded, Code: 201, After: name})
			}
		}()
	}
	return <-failed
}

func TestAUD01_Killed(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for name, start := range map[string]func(t *testing.T) string{
		"SQLite":     func(t *testing.T) string { return filepath.Join(t.TempDir(), "records.db") },
		"PostgreSQL": func(t *testing.T) string { return testkit.StartPostgreSQL(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			location, folder := start(t), t.TempDir()
			const kills = 6
			for range kills {
				before := files(t, folder)
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), childRecords+"="+location, childFolder+"="+folder)
				var said strings.Builder
				cmd.Stderr = &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				deadline := time.Now().Add(patience)
				for len(files(t, folder)) == len(before) && time.Now().Before(deadline) { // it writes
					<-time.After(10 * time.Millisecond)
				}
				<-time.After(time.Duration(random.IntN(400)) * time.Millisecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				if said.Len() > 0 {
					t.Fatalf("the child said %s", said.String())
				}
			}
			afterKills(t, location, files(t, folder))
		})
	}
}

// afterKills starts a successor and finds the chains whole, every write with its row, and every row with a result.
func afterKills(t *testing.T, location string, written map[string]bool) {
	t.Helper()
	ctx := t.Context()
	db, err := record.Open(ctx, location)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w, err := audit.NewWriter(ctx, db, "killed", logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	results, counts := map[string]string{}, map[string]int{}
	if err := db.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			var name, result string
			err := scan(&name, &result)
			results[name] = result
			counts[result]++
			return err
		}, `SELECT name, result FROM audit_rows`)
	}); err != nil {
		t.Fatal(err)
	}
	for name := range written {
		if results[name] == "" {
			t.Errorf("the write %s has no row", name)
		}
	}
	for name, result := range results {
		if result == audit.ResultSucceeded && !written[name] || result == audit.ResultPending {
			t.Errorf("the row of %s says %s, and it was written: %t", name, result, written[name])
		}
	}
	report, err := audit.Verify(ctx, db, nil)
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("got %+v, %v", report, err)
	}
	t.Logf("%d writes, rows %v, %d chains", len(written), counts, report.Writers)
	if len(written) == 0 || counts[audit.ResultUnknown] == 0 {
		t.Error("nobody was killed in the middle: this shows nothing")
	}
}

func files(t *testing.T, folder string) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, entry := range entries {
		names[entry.Name()] = true
	}
	return names
}

func TestAUD01_DatabaseStops(t *testing.T) {
	server := testkit.StartPostgreSQL(t)
	p := startPlatform(t, testkit.StartMember(t), server.URL)
	create := func(name string) (int, string) {
		code, text, _ := p.call(t, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"`+name+`"}}`, "Content-Type", "application/json")
		return code, text
	}
	if code, text := create("before"); code != 201 {
		t.Fatalf("got %d %s", code, text)
	}
	server.Stop(t)
	var group sync.WaitGroup
	for i := range 5 {
		group.Go(func() {
			if code, text := create(fmt.Sprint("without-", i)); code != 503 || !strings.Contains(text, "audit cannot be written") || strings.Contains(text, server.Password) {
				t.Errorf("without records got %d %s, want a 503 that says why", code, text)
			}
		})
	}
	group.Wait()
	if code, text, _ := p.call(t, "GET", "/api/v1/namespaces/default/configmaps/without-1", ""); code != 404 {
		t.Errorf("reading goes on, and nothing was written: got %d %s", code, text)
	}
	server.Start(t)
	again := func() int { code, _ := create("after"); return code }
	for deadline := time.Now().Add(patience); again() == 503; {
		if time.Now().After(deadline) {
			t.Fatal("writes are refused though the database is there again")
		}
	}
	p.row(t, map[string][]string{"name": {"after"}, "result": {audit.ResultSucceeded}})
	p.row(t, map[string][]string{"name": {"before"}})
}
