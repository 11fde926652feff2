package score

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/internal/image"
)

// machine is the packed database image unpacked into a folder.
type machine struct {
	root string // root file system
	web  string // score-record program
	port int
	env  []string
}

// newMachine packs the recipe with a fresh entrypoint. Debian's layers come from the cache of this machine, or are made.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the packed root file system belongs to root")
	}
	bin := t.TempDir()
	for _, program := range []string{"db-service", "score-record"} {
		noteSources(t, program)
		build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", program, err, out)
		}
	}
	recipe, err := image.Load("db-service.image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	recipe.Files[0].From = filepath.Join(bin, "db-service")
	cache, err := image.DefaultCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	packer := &image.Packer{CacheDir: cache, Progress: t.Output()}
	img, err := packer.Pack(t.Context(), recipe)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{root: t.TempDir(), web: filepath.Join(bin, "score-record"), port: freePort(t)}
	files := mutate.Extract(img)
	defer files.Close()
	untar := exec.CommandContext(t.Context(), "tar", "-xp", "--numeric-owner", "-C", m.root)
	untar.Stdin = files
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("unpacking: %v\n%s", err, out)
	}
	if err := os.Chmod(m.root, 0o755); err != nil { // the server's account must get in
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.root, "dev/null"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	m.env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MYSQL_BIND_ADDRESS=127.0.0.1", "MYSQL_PORT=" + strconv.Itoa(m.port),
		"MYSQL_USER=score", `MYSQL_PASSWORD=it's \ "fine" 密码`, "MYSQL_ROOT_PASSWORD=root's own", "MYSQL_BUFFER_POOL=16M"}
	return m
}

// noteSources reads what a program is built from, so that "go test" does not answer from its cache after a change.
func noteSources(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process is a started program whose output can be read while it runs.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	mu   sync.Mutex
	out  bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// kill ends it as a crash would, and waits.
func (p *process) kill() {
	p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

func start(t *testing.T, env []string, program string, attr *syscall.SysProcAttr) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(context.Background(), program), done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr, p.cmd.WaitDelay = env, p, p, attr, time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", program, p.output())
		}
	})
	return p
}

// database starts the image's entrypoint as process 1 of a process namespace: when it dies, all it started dies too.
func (m *machine) database(t *testing.T, env ...string) *process {
	t.Helper()
	return start(t, append(m.env, env...), "/usr/local/bin/db-service", &syscall.SysProcAttr{
		Chroot: m.root, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	})
}

// webServer starts the real program with the database's settings.
func (m *machine) webServer(t *testing.T) (*process, string) {
	t.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
	p := start(t, append(m.env, "SCORE_LISTEN="+address, "SCORE_VERSION=v1", "POD_NAME=score-record-0", "YUNFAN_CLUSTER=beijing", "SCORE_DRAIN_DELAY=0s",
		"SCORE_DRILLS=1", "MYSQL_SERVICE_HOST=127.0.0.1", "MYSQL_SERVICE_PORT="+strconv.Itoa(m.port)), m.web, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
	return p, "http://" + address
}

func get(url string) (int, string, error) {
	client := &http.Client{Timeout: 20 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(body), err
}

func status(url string) func() (int, error) {
	return func() (int, error) {
		code, _, err := get(url)
		return code, err
	}
}

// TestEX01_DatabaseAndWeb runs db-service and score-record as the images do.
func TestEX01_DatabaseAndWeb(t *testing.T) {
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(30 * time.Second)
	m := newMachine(t)
	web, url := m.webServer(t)

	t.Log("without a root password it refuses to make a database")
	refused := m.database(t, "MYSQL_ROOT_PASSWORD=")
	g.Eventually(refused.done).Should(BeClosed())
	g.Expect(refused.err).To(HaveOccurred())
	g.Expect(refused.output()).To(ContainSubstring("set it from a Secret"))
	g.Eventually(status(url + "/_ping")).Should(Equal(http.StatusOK))
	g.Expect(status(url + "/demo")()).To(Equal(http.StatusServiceUnavailable))

	t.Log("killed while it makes the database, it starts over")
	home := filepath.Join(m.root, "var/lib/mysql")
	for _, progress := range []string{"unfinished", "unfinished/ibdata1", "unfinished/mysql/global_priv.MAD"} {
		db := m.database(t)
		g.Eventually(func() error {
			_, err := os.Stat(filepath.Join(home, progress))
			return err
		}).WithPolling(2 * time.Millisecond).Should(Succeed())
		db.kill()
		g.Expect(filepath.Join(home, "data")).NotTo(BeADirectory())
	}
	db := m.database(t)
	g.Eventually(status(url + "/demo")).Should(Equal(http.StatusOK))

	t.Log("the page and the API show the rows")
	_, page, err := get(url + "/")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(page).To(And(ContainSubstring("<td>张伟</td><td>数学</td><td>95.5</td>"), ContainSubstring("Noah O&#39;Neill"), ContainSubstring("beijing")))
	_, api, err := get(url + "/api/scores")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(api).To(ContainSubstring(`"student":"陈静","subject":"英语","score":93`))

	t.Log("a second server on the same volume is refused")
	second := m.database(t)
	g.Eventually(second.done).Should(BeClosed())
	g.Expect(second.output()).To(ContainSubstring("another database uses this volume"))

	t.Log("killed while it runs, it comes back with its data")
	db.kill()
	g.Eventually(status(url + "/demo")).Should(Equal(http.StatusServiceUnavailable))
	g.Expect(status(url + "/_ping")()).To(Equal(http.StatusOK))
	m.database(t)
	g.Eventually(status(url + "/demo")).Should(Equal(http.StatusOK))

	t.Run("TPL-06 the pre-stop step drains and leaves its trace", func(t *testing.T) {
		m.checkPreStop(NewWithT(t), web, url)
	})
	g.Expect(web.output()+db.output()).NotTo(Or(ContainSubstring("密码"), ContainSubstring("root's own")), "no password in a log")
}

func (m *machine) checkPreStop(g *WithT, web *process, url string) {
	slow := make(chan error, 1)
	go func() {
		code, body, err := get(url + "/slow?duration=1s")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("status %d: %s", code, body)
		}
		slow <- err
	}()
	g.Eventually(func() (string, error) {
		_, metrics, err := get(url + "/metrics")
		return metrics, err
	}).Should(ContainSubstring("http_requests_in_flight 1"))
	out, err := exec.CommandContext(context.Background(), m.web, "prestop").CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(out))
	g.Expect(slow).To(Receive(Not(HaveOccurred())), "the request in flight was finished before the step returned")
	g.Expect(status(url + "/demo")()).To(Equal(http.StatusServiceUnavailable))
	g.Expect(web.cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
	g.Eventually(web.done).Should(BeClosed())
	var exit *exec.ExitError
	g.Expect(errors.As(web.err, &exit)).To(BeFalse(), "it ends by itself")
	log := web.output()
	g.Expect(strings.Index(log, "pre-stop: done")).To(BeNumerically("<", strings.Index(log, `"stopped"`)))
}
