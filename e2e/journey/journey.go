//go:build e2e

package journey

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// patience is how long pods on a busy machine may take to do what they should.
	patience = 3 * time.Minute
	pause    = 200 * time.Millisecond
	// requestTimeout bounds one HTTP request to a pod.
	requestTimeout = 5 * time.Second
	// maxBody bounds what is read of an answer, in bytes.
	maxBody = 1 << 20
)

// Journey is one test with a tenant of its own, which is removed, with everything it delivered, when the test ends.
type Journey struct {
	*testing.T
	gomega.Gomega
	*World
	Tenant string
	ctx    context.Context
}

// Begin starts a journey.
func Begin(t *testing.T) *Journey {
	t.Helper()
	if world == nil {
		t.Fatal("no clusters: TestMain must call journey.Main")
	}
	j := &Journey{T: t, Gomega: patient(t), World: world, Tenant: "t-" + rand.String(6), ctx: t.Context()}
	tenant := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: j.Tenant}}
	t.Cleanup(j.end)
	j.Create(tenant)
	j.Eventually(j.Condition(tenant, v1alpha1.ConditionReady)).Should(gomega.HavePrefix("True"))
	return j
}

func patient(t *testing.T) gomega.Gomega {
	t.Helper()
	g := gomega.NewWithT(t)
	g.SetDefaultEventuallyTimeout(patience)
	g.SetDefaultEventuallyPollingInterval(pause)
	return g
}

// Context of the test. It ends just before the cleanups.
func (j *Journey) Context() context.Context { return j.ctx }

// Hub is the hub's cluster.
func (j *Journey) Hub() *Cluster { return j.Clusters[Hub] }

// Key of a thing of the tenant, by name.
func (j *Journey) Key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: j.Tenant, Name: name}
}

// Create creates objects on the hub; those with a namespace belong to the tenant.
func (j *Journey) Create(objects ...client.Object) {
	j.Helper()
	for _, o := range objects {
		if err := j.Hub().Create(j.ctx, o); err != nil {
			j.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

// Get reads an object of the hub again.
func (j *Journey) Get(o client.Object) error {
	return j.Hub().Get(j.ctx, client.ObjectKeyFromObject(o), o)
}

// Update changes an object of the hub, again if somebody else was faster.
func (j *Journey) Update(o client.Object, change func()) {
	j.Helper()
	j.Eventually(func() error {
		if err := j.Get(o); err != nil {
			return err
		}
		change()
		return j.Hub().Update(j.ctx, o)
	}).WithTimeout(10*time.Second).Should(gomega.Succeed(), "updating %T %s", o, o.GetName())
}

// Nodes are the addresses of a member's nodes.
func (j *Journey) Nodes(cluster string) []string {
	j.Helper()
	var nodes corev1.NodeList
	if err := j.Clusters[cluster].List(j.ctx, &nodes); err != nil {
		j.Fatalf("listing nodes of %s: %v", cluster, err)
	}
	var addresses []string
	for _, node := range nodes.Items {
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				addresses = append(addresses, a.Address)
			}
		}
	}
	return addresses
}

// HTTP gets a page through a node port of a member's first node, from a connection of its own.
func (j *Journey) HTTP(cluster string, nodePort int32, path string) (string, error) {
	j.Helper()
	c := http.Client{Timeout: requestTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	url := "http://" + net.JoinHostPort(j.Nodes(cluster)[0], strconv.Itoa(int(nodePort))) + path
	request, err := http.NewRequestWithContext(j.ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := c.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}

// Kubectl runs kubectl as the administrator of a cluster and gives what it writes; a failure fails the test.
func (j *Journey) Kubectl(cluster string, args ...string) string {
	j.Helper()
	return j.output(j.World.Kubectl(j.ctx, cluster, args...))
}

// Yunfan runs a command of the CLI as users do and gives what it writes; a failure fails the test.
func (j *Journey) Yunfan(args ...string) string {
	j.Helper()
	return j.output(j.Command(j.ctx, "yunfan", args...))
}

// Drill makes the engine do something to a cluster, node or process: stop, start, isolate, freeze, heal, kill. What it
// breaks is to be mended by the same test: see Heal.
func (j *Journey) Drill(args ...string) string {
	j.Helper()
	return j.output(j.Command(j.ctx, "engine/yunfan-engine", args...))
}

// KubectlInput is Kubectl with text to read.
func (j *Journey) KubectlInput(cluster, text string, args ...string) string {
	j.Helper()
	cmd := j.World.Kubectl(j.ctx, cluster, args...)
	cmd.Stdin = strings.NewReader(text)
	return j.output(cmd)
}

// Bin is the folder of the built programs and images.
func (j *Journey) Bin() string { return j.bin }

// Gateway is the host's address as the clusters see it; the registry listens there.
func (j *Journey) Gateway() string {
	j.Helper()
	var status struct {
		Gateway string `json:"gateway"`
	}
	if err := json.Unmarshal([]byte(j.Drill("status", "-o", "json")), &status); err != nil {
		j.Fatal(err)
	}
	return status.Gateway
}

// KubectlWith is Kubectl for a cluster that is not one of the instance's usual three.
func (j *Journey) KubectlWith(kubeconfig string, args ...string) string {
	j.Helper()
	return j.output(exec.CommandContext(j.ctx, filepath.Join(j.bin, "engine", "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...))
}

// Heal undoes, at the end of the test at the latest, what a drill broke.
func (j *Journey) Heal(verb, target string) (heal func()) {
	done := false
	heal = func() {
		if done {
			return
		}
		done = true
		j.DrillLater(verb, target)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), readyTimeout)
		defer cancel()
		if err := j.waitForClusters(ctx); err != nil {
			j.Error(err)
		}
	}
	j.T.Cleanup(heal)
	return heal
}

// DrillLater is Drill for cleanups: after the test's context has ended, and without ending the other cleanups.
func (j *Journey) DrillLater(args ...string) {
	j.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), downTimeout)
	defer cancel()
	if out, err := j.Command(ctx, "engine/yunfan-engine", args...).CombinedOutput(); err != nil {
		j.Errorf("%v: %v\n%s", args, err, out)
	}
}

// Forget removes a Cluster, whatever state it is in, and its Secret: for cleanups.
func (j *Journey) Forget(cluster *v1alpha1.Cluster, secret *corev1.Secret) {
	j.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), readyTimeout)
	defer cancel()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"true"}}}`, v1alpha1.AnnotationForceRemoval)
	for _, err := range []error{
		j.Hub().Patch(ctx, cluster, client.RawPatch(types.MergePatchType, patch)),
		j.Hub().Delete(ctx, cluster),
		j.Hub().Delete(ctx, secret),
	} {
		if ignoreNotFound(err) != nil {
			j.Errorf("removing cluster %s: %v", cluster.Name, err)
		}
	}
}

func (j *Journey) output(cmd *exec.Cmd) string {
	j.Helper()
	var diagnostics strings.Builder
	cmd.Stderr = &diagnostics
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	out, err := cmd.Output()
	if err != nil {
		j.Fatalf("running %s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, diagnostics.String())
	}
	return string(out)
}

// Try is Kubectl for what may fail, within a short time; the error is part of what it gives.
func (j *Journey) Try(cluster string, args ...string) string {
	ctx, cancel := context.WithTimeout(j.ctx, 2*requestTimeout)
	defer cancel()
	out, err := j.World.Kubectl(ctx, cluster, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

// WriteYAML writes an object to a file, for kubectl and the CLI.
func (j *Journey) WriteYAML(file string, o client.Object) {
	j.Helper()
	text, err := yaml.Marshal(o)
	if err != nil {
		j.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		j.Fatal(err)
	}
}

// Kind is the type of an object of ours, for files.
func Kind(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}

// Named is the name of an object of a tenant.
func Named(tenant, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: tenant, Name: name}
}
