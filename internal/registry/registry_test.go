package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	. "github.com/onsi/gomega"
)

const (
	envDir    = "YUNFAN_TEST_REGISTRY_DIR"
	envListen = "YUNFAN_TEST_REGISTRY_LISTEN"
)

// TestMain lets the test program be a registry of its own, to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		err := Run(context.Background(), Options{Dir: dir, Listen: os.Getenv(envListen), PushListen: "unix:" + filepath.Join(dir, "push.sock")}, slog.Default())
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// logBuffer keeps a log that is read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type instance struct {
	dir    string
	listen string
	log    *logBuffer
	stop   context.CancelFunc
	done   chan error
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "registry") //nolint:usetesting // t.TempDir has the test's name in its path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startRegistry(t *testing.T) *instance {
	t.Helper()
	r := &instance{dir: shortDir(t), listen: freeAddress(t), log: &logBuffer{}, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	options := Options{Dir: r.dir, Listen: r.listen, PushListen: "unix:" + filepath.Join(r.dir, "push.sock")}
	go func() { r.done <- Run(ctx, options, slog.New(slog.NewTextHandler(r.log, nil))) }()
	t.Cleanup(cancel)
	NewWithT(t).Eventually(r.ready).Should(Succeed(), r.log.String())
	return r
}

func (r *instance) ready() error {
	response, err := http.Get("http://" + r.listen + "/readyz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

// pusher talks to the push socket.
func (r *instance) pusher() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "push.sock"))
	}}}
}

func (r *instance) push(t *testing.T, repository string) v1.Image {
	t.Helper()
	img, err := random.Image(64<<10, 3)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag("localhost/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(r.pusher().Transport)); err != nil {
		t.Fatal(err)
	}
	return img
}

func (r *instance) ref(t *testing.T, repository string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.listen+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestPullsAreReadOnly(t *testing.T) {
	g := NewWithT(t)
	r := startRegistry(t)
	img := r.push(t, "library/nginx:1.22")
	want, err := img.Digest()
	g.Expect(err).NotTo(HaveOccurred())

	for i := range 8 { // several nodes at once
		t.Run(fmt.Sprint("pull ", i), func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			got, err := remote.Image(r.ref(t, "library/nginx:1.22"))
			g.Expect(err).NotTo(HaveOccurred())
			layers, err := got.Layers()
			g.Expect(err).NotTo(HaveOccurred())
			for _, l := range layers {
				data, err := l.Compressed()
				g.Expect(err).NotTo(HaveOccurred())
				_, err = io.Copy(io.Discard, data) // checks the digest
				g.Expect(err).NotTo(HaveOccurred())
			}
		})
	}
	mirror, err := http.Get("http://" + r.listen + "/v2/library/nginx/manifests/1.22?ns=docker.io")
	g.Expect(err).NotTo(HaveOccurred())
	mirror.Body.Close()
	g.Expect(mirror.Header.Get("Docker-Content-Digest")).To(Equal(want.String()), "containerd names the registry it mirrors in ns")

	evil, err := random.Image(1024, 1)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(remote.Write(r.ref(t, "library/nginx:1.22"), evil)).
		To(MatchError(ContainSubstring("this address of the registry is read-only: push through unix:")))
	g.Expect(remote.Delete(r.ref(t, "library/nginx@"+want.String()))).To(MatchError(ContainSubstring("read-only")))
	kept, err := remote.Head(r.ref(t, "library/nginx:1.22"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(kept.Digest).To(Equal(want))
	g.Expect(r.log.String()).To(ContainSubstring("path=/v2/library/nginx/manifests/1.22"))
	g.Expect(r.log.String()).NotTo(ContainSubstring("level=ERROR"), "asking for blobs that are not there is no error")
}

func TestDelete(t *testing.T) {
	g := NewWithT(t)
	r := startRegistry(t)
	digest, err := r.push(t, "examples/echo:v1").Digest()
	g.Expect(err).NotTo(HaveOccurred())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://localhost/v2/examples/echo/manifests/"+digest.String(), nil)
	g.Expect(err).NotTo(HaveOccurred())
	response, err := r.pusher().Do(request)
	g.Expect(err).NotTo(HaveOccurred())
	response.Body.Close()
	g.Expect(response.StatusCode).To(Equal(http.StatusAccepted))
	_, err = remote.Head(r.ref(t, "examples/echo:v1"))
	g.Expect(err).To(MatchError(ContainSubstring("404")))
}

// upload sends one step of a blob upload and returns where the next one goes, with the headers of the answer.
func (r *instance) upload(t *testing.T, method, location string, body []byte) (string, http.Header) {
	t.Helper()
	g := NewWithT(t)
	request, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+location, bytes.NewReader(body))
	g.Expect(err).NotTo(HaveOccurred())
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := r.pusher().Do(request)
	g.Expect(err).NotTo(HaveOccurred())
	response.Body.Close()
	g.Expect(response.StatusCode).To(BeNumerically("<", 300), "%s %s", method, location)
	return response.Header.Get("Location"), response.Header
}

func (r *instance) startProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), envDir+"="+r.dir, envListen+"="+r.listen)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() }) // it may have ended already
	NewWithT(t).Eventually(r.ready).WithTimeout(10 * time.Second).Should(Succeed())
	return cmd
}

func TestUploadGoesOnAfterKill(t *testing.T) {
	g := NewWithT(t)
	r := &instance{dir: shortDir(t), listen: freeAddress(t)}
	first := r.startProcess(t)
	r.push(t, "library/kept:1")
	blob := bytes.Repeat([]byte("yunfan"), 1<<18)
	half := len(blob) / 2
	location, _ := r.upload(t, http.MethodPost, "/v2/library/big/blobs/uploads/", nil)
	location, _ = r.upload(t, http.MethodPatch, location, blob[:half])

	g.Expect(first.Process.Kill()).To(Succeed())
	g.Expect(first.Wait()).To(HaveOccurred())
	r.startProcess(t)

	location, status := r.upload(t, http.MethodGet, location, nil)
	g.Expect(status.Get("Range")).To(Equal(fmt.Sprintf("0-%d", half-1)), "nothing sent is lost")
	location, _ = r.upload(t, http.MethodPatch, location, blob[half:])
	sum := sha256.Sum256(blob)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	r.upload(t, http.MethodPut, location+"&digest="+url.QueryEscape(digest), nil)
	response, err := http.Get("http://" + r.listen + "/v2/library/big/blobs/" + digest)
	g.Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	g.Expect(io.ReadAll(response.Body)).To(Equal(blob))
	_, err = remote.Head(r.ref(t, "library/kept:1"))
	g.Expect(err).NotTo(HaveOccurred(), "what was stored before the kill is still there")
}

func TestStopFinishesPulls(t *testing.T) {
	g := NewWithT(t)
	r := startRegistry(t)
	blob := bytes.Repeat([]byte("x"), 16<<20) // more than fits in the connection's buffers
	sum := sha256.Sum256(blob)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	location, _ := r.upload(t, http.MethodPost, "/v2/library/big/blobs/uploads/", nil)
	r.upload(t, http.MethodPut, location+"&digest="+url.QueryEscape(digest), blob)
	response, err := http.Get("http://" + r.listen + "/v2/library/big/blobs/" + digest)
	g.Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()

	r.stop()
	g.Eventually(r.ready).ShouldNot(Succeed(), "no new requests are taken")
	g.Expect(io.Copy(io.Discard, response.Body)).To(BeEquivalentTo(len(blob)))
	g.Eventually(r.done).WithTimeout(drainTimeout).Should(Receive(Not(HaveOccurred())))
}

func TestPushAddress(t *testing.T) {
	dir := shortDir(t)
	for reason, c := range map[string]struct{ address, want string }{
		"every interface is open to pods":        {"0.0.0.0:0", "is open to others: use unix:PATH or 127.0.0.1:PORT"},
		"no host means every interface":          {":5001", "is open to others"},
		"another address of this machine":        {"198.18.0.1:0", "is open to others"},
		"a name may resolve to anything":         {"localhost:0", "is open to others"},
		"loopback":                               {"127.0.0.1:0", ""},
		"a socket":                               {"unix:" + filepath.Join(dir, "a.sock"), ""},
		"a path longer than the kernel takes":    {"unix:" + filepath.Join(dir, strings.Repeat("long", 40)), "at most 107 bytes"},
		"a folder that is not there":             {"unix:" + filepath.Join(dir, "none", "a.sock"), "choose another"},
		"no address at all is not every address": {"", "is open to others"},
	} {
		t.Run(reason, func(t *testing.T) {
			g := NewWithT(t)
			l, err := listenPush(t.Context(), c.address)
			if c.want != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.want)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(l.Close()).To(Succeed())
		})
	}
}

func TestPushSocketIsPrivateAndReplaced(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(shortDir(t), "push.sock")
	first, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = listenPush(t.Context(), "unix:"+path)
	g.Expect(err).To(MatchError(ContainSubstring("a registry already serves")))

	first.(*net.UnixListener).SetUnlinkOnClose(false) // as after SIGKILL
	g.Expect(first.Close()).To(Succeed())
	second, err := listenPush(t.Context(), "unix:"+path)
	g.Expect(err).NotTo(HaveOccurred())
	defer second.Close()
	info, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
}

func TestStalledClientIsCutOff(t *testing.T) {
	g := NewWithT(t)
	ended := make(chan error, 1)
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: unstall(50*time.Millisecond, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}))}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	go server.Serve(l) // closed below
	defer server.Close()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	g.Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	fmt.Fprint(conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
	g.Eventually(ended).WithTimeout(5 * time.Second).Should(Receive(MatchError(os.ErrDeadlineExceeded)))
}

func TestRunRefusesWhatItCannotUse(t *testing.T) {
	g := NewWithT(t)
	file := filepath.Join(t.TempDir(), "file")
	g.Expect(os.WriteFile(file, nil, 0o600)).To(Succeed())
	for reason, c := range map[string]struct {
		o    Options
		want string
	}{
		"no directory":       {Options{}, "give --dir"},
		"a file":             {Options{Dir: file}, "making the image directory"},
		"an address is gone": {Options{Dir: shortDir(t), Listen: "192.0.2.1:5000"}, "choose another --listen"},
	} {
		t.Run(reason, func(t *testing.T) {
			err := Run(t.Context(), c.o, slog.New(slog.DiscardHandler))
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
}
