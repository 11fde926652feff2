package audit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/server"
	"yunfan.io/yunfan/internal/testkit"
)

const (
	serverRecords    = "YUNFAN_TEST_SERVER_RECORDS"
	serverKubeconfig = "YUNFAN_TEST_SERVER_KUBECONFIG"
	serverListen     = "YUNFAN_TEST_SERVER_LISTEN"
)

// childServer is the whole server, to be killed.
func childServer(records string) error {
	hub, err := clientcmd.BuildConfigFromFlags("", os.Getenv(serverKubeconfig))
	if err != nil {
		return err
	}
	return server.Run(context.Background(), server.Options{Hub: hub, Listen: os.Getenv(serverListen), Records: records})
}

// killable is a server in a process of its own.
type killable struct {
	records, kubeconfig, listen string
	process                     *exec.Cmd
}

func (k *killable) start(t *testing.T) {
	t.Helper()
	k.process = exec.Command(os.Args[0])
	k.process.Env = append(os.Environ(), serverRecords+"="+k.records, serverKubeconfig+"="+k.kubeconfig, serverListen+"="+k.listen)
	if err := k.process.Start(); err != nil {
		t.Fatal(err)
	}
}

func (k *killable) kill() {
	_ = k.process.Process.Kill()
	_ = k.process.Wait()
}

// write is one of the hub's own audit log.
type write struct {
	AuditID, Verb, Stage string
	ImpersonatedUser     *struct{ Username string }
	ObjectRef            struct{ Resource, Name string }
	ResponseStatus       struct{ Code int }
}

// TestAUD01_Truth compares rows with what the hub's API server itself says was written in users' names, while the
// server is killed again and again.
func TestAUD01_Truth(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	folder := t.TempDir()
	policy, log := filepath.Join(folder, "policy.yaml"), filepath.Join(folder, "audit.log")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata, verbs: [create, update, patch, delete]}, {level: None}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hub := testkit.StartMember(t, testkit.Flag("audit-policy-file", policy), testkit.Flag("audit-log-path", log), testkit.Flag("audit-log-mode", "blocking"))
	k := &killable{records: filepath.Join(folder, "records.db"), kubeconfig: filepath.Join(folder, "kubeconfig")}
	if err := os.WriteFile(k.kubeconfig, hub.Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k.listen = listener.Addr().String()
	listener.Close()
	k.start(t)
	t.Cleanup(func() { k.kill() })
	sent := writeAndKill(t, hub, k, random)
	k.kill()
	compare(t, k.records, hub, log, sent)
}

// writeAndKill sends writes from several users at once until there are enough, and kills the server four times.
func writeAndKill(t *testing.T, hub *testkit.Member, k *killable, random *rand.Rand) int64 {
	t.Helper()
	const wanted, kills, users = 1000, 4, 8
	var done, failed atomic.Int64
	through := hubThrough(t, hub, k.listen)
	var group sync.WaitGroup
	for u := range users {
		group.Go(func() {
			for i := 0; done.Load() < wanted && t.Context().Err() == nil; i++ {
				body := fmt.Sprintf(`{"metadata":{"name":"truth-%d-%d"}}`, u, i)
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+k.listen+"/api/v1/namespaces/default/configmaps", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("Content-Type", "application/json")
				answer, err := through.Do(request)
				if err != nil {
					failed.Add(1)
					<-time.After(50 * time.Millisecond) // it was killed
					continue
				}
				answer.Body.Close()
				if answer.StatusCode == http.StatusCreated {
					done.Add(1)
				}
			}
		})
	}
	g := NewWithT(t)
	for i := range kills {
		g.Eventually(done.Load).WithTimeout(patience).Should(BeNumerically(">=", wanted*(i+1)/(kills+1)))
		<-time.After(time.Duration(random.IntN(200)) * time.Millisecond)
		k.kill()
		k.start(t)
	}
	group.Wait()
	t.Logf("%d writes answered, %d requests lost their server", done.Load(), failed.Load())
	return done.Load()
}

// hubThrough is a client with the hub administrator's certificate that trusts the server.
func hubThrough(t *testing.T, hub *testkit.Member, listen string) *http.Client {
	t.Helper()
	config := rest.CopyConfig(hub.Config)
	config.Host = "https://" + listen
	NewWithT(t).Eventually(func() error {
		where := &corev1.ConfigMap{}
		if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: server.Namespace, Name: server.ConfigMapName}, where); err != nil {
			return err
		}
		config.CAData = []byte(where.Data[server.KeyCA])
		return nil
	}).WithTimeout(patience).Should(Succeed())
	through, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return through
}

// compare finds a row for every write in the hub's log.
func compare(t *testing.T, records string, hub *testkit.Member, log string, sent int64) {
	t.Helper()
	ctx := t.Context()
	db, err := record.Open(ctx, records)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := map[string]string{}
	if err := db.View(ctx, func(tx *record.Tx) error {
		return tx.Each(ctx, func(scan func(...any) error) error {
			var name, result string
			err := scan(&name, &result)
			if rows[name] != audit.ResultSucceeded {
				rows[name] = result
			}
			return err
		}, `SELECT name, result FROM audit_rows WHERE action = 'create'`)
	}); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	var truth int64
	for lines.Scan() {
		var w write
		if err := json.Unmarshal(lines.Bytes(), &w); err != nil {
			t.Fatal(err)
		}
		if w.ImpersonatedUser == nil || w.ResponseStatus.Code != http.StatusCreated || w.ObjectRef.Resource != "configmaps" {
			continue
		}
		truth++
		if rows[w.ObjectRef.Name] == "" {
			t.Errorf("the hub says that %s was written as %s, and there is no row", w.ObjectRef.Name, w.ImpersonatedUser.Username)
		}
	}
	if truth < sent {
		t.Errorf("the hub's log has %d writes, %d were answered: this shows nothing", truth, sent)
	}
	report, err := audit.Verify(ctx, db, &audit.Anchors{Hub: hub.Client, Database: db, Namespace: server.Namespace})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("got %+v, %v", report, err)
	}
	t.Logf("%d writes in the hub's own log, %d chains, %d links not anchored", truth, report.Writers, report.Unanchored)
}
