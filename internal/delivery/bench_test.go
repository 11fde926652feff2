package delivery

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// TestRequests delivers 100 applications at once and counts what that costs the member: one request for each object
// when it is applied first, and none when nothing has changed.
func TestRequests(t *testing.T) {
	const applications, objects = 100, 2
	w := newWorld(t).serve(t)
	p := w.partition(t)
	warm := deliver(t, p, revision(t, p, "warm", "aaaaaaaaaa", web("warm")), 0)
	eventually(t, warm, "applied", applied)

	var revisions []*v1alpha1.ApplicationRevision
	var deliveries []*v1alpha1.Delivery
	for i := range applications {
		name := fmt.Sprintf("app%d", i)
		r := revision(t, p, name, "aaaaaaaaaa", web(name))
		revisions, deliveries = append(revisions, r), append(deliveries, newDelivery(p, r, 0))
	}
	w.requests.Store(0)
	began := time.Now()
	createAll(t, deliveries)
	waitAll(t, p, deliveries)
	took, requests := time.Since(began), w.requests.Load()
	t.Logf("first apply of %d objects: %v, %d requests to the member", applications*objects, took.Round(time.Millisecond), requests)
	if requests > applications*objects {
		t.Errorf("first apply: %d requests for %d objects, want at most one each", requests, applications*objects)
	}

	for i, d := range deliveries {
		move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(revisions[i], 3) })
	}
	waitAll(t, p, deliveries)
	if changed := w.requests.Load() - requests; changed > applications {
		t.Errorf("scaling: %d requests for %d changed objects, want at most one each", changed, applications)
	}

	// A status that changes, as when pods come up, costs nothing.
	before := w.requests.Load()
	for _, d := range deliveries {
		o := object(t, w, p, d.Spec.Application, &appsv1.Deployment{}, nil)
		o.Status.ObservedGeneration, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.ReadyReplicas, o.Status.AvailableReplicas = o.Generation, 3, 3, 3, 3
		o.Status.Conditions = []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue},
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"},
		}
		if err := w.member.Client.Status().Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range deliveries {
		eventually(t, d, "healthy", is(v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonReady))
	}
	if none := w.requests.Load() - before; none != 0 {
		t.Errorf("nothing to apply: %d requests, want none", none)
	}
	t.Logf("plain kubectl apply of the same objects: %v", kubectl(t, w, applications))
}

func createAll(t *testing.T, deliveries []*v1alpha1.Delivery) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	for _, d := range deliveries {
		group.Go(func() error { return hub.Client.Create(t.Context(), d) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func waitAll(t *testing.T, p *v1alpha1.Partition, deliveries []*v1alpha1.Delivery) {
	t.Helper()
	NewWithT(t).Eventually(func() int {
		list := &v1alpha1.DeliveryList{}
		if err := hub.Client.List(context.Background(), list, client.InNamespace(p.Namespace)); err != nil {
			return -1
		}
		n := 0
		for i := range list.Items {
			if d := &list.Items[i]; d.Spec.Application != "warm" && d.Status.ObservedGeneration == d.Generation && applied(d) {
				n++
			}
		}
		return n
	}, "60s", "20ms").Should(Equal(len(deliveries)))
}

// kubectl says how long plain kubectl takes for the same objects, in a namespace of its own.
func kubectl(t *testing.T, w *world, applications int) time.Duration {
	t.Helper()
	program, err := filepath.Abs("../../bin/engine/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	p := w.partition(t)
	var manifests strings.Builder
	for i := range applications {
		fmt.Fprintf(&manifests, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app%[1]d, namespace: %[2]s}
spec: {replicas: 0, selector: {matchLabels: {app: app%[1]d}}, template: {metadata: {labels: {app: app%[1]d}}, spec: {containers: [{name: web, image: "web:v1"}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: app%[1]d, namespace: %[2]s}
spec: {ports: [{name: http, port: 80}], selector: {app: app%[1]d}}
---`, i, p.MemberNamespace())
	}
	dir := t.TempDir()
	kubeconfig, file := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "manifests.yaml")
	for name, text := range map[string]string{kubeconfig: string(w.member.Kubeconfig(t, "")), file: manifests.String()} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if out, err := exec.CommandContext(t.Context(), program, "--kubeconfig", kubeconfig, "apply", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("kubectl: %v\n%s", err, out)
	}
	return time.Since(began).Round(time.Millisecond)
}
