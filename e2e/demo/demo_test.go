//go:build e2e

// Package demo_test walks the main job: what 'yunfan up' leaves behind for somebody who sees Yunfan for the first time.
package demo_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func TestMain(m *testing.M) { journey.Main(m) }

var address = regexp.MustCompile(`http://[0-9.]+:300[0-9]{2}/`)

// TestDEP01ScoreExample deploys the score example of EX-01 as 'yunfan up' does, and uses it as its output says.
func TestDEP01ScoreExample(t *testing.T) {
	j := journey.Begin(t)
	t.Cleanup(func() { removeExample(j) })
	said := j.Yunfan("up", "--detach")
	pages := address.FindAllString(said, -1)
	slices.Sort(pages)
	pages = slices.Compact(pages)
	j.Expect(pages).To(HaveLen(2), "a page for each partition: %s", said)

	t.Run("TPL-10 both pages show rows of their databases", func(t *testing.T) {
		j := within(t, j)
		j.Expect(j.HTTP(journey.Beijing, 30001, "/")).To(And(ContainSubstring("prod-bj"), ContainSubstring("张伟")))
		j.Expect(j.HTTP(journey.Shanghai, 30002, "/")).To(And(ContainSubstring("prod-sh"), ContainSubstring("张伟")), "the override of the node port")
	})
	t.Run("CFG-02 the configuration is there byte by byte", func(t *testing.T) {
		j := within(t, j)
		stored := &v1alpha1.Configuration{}
		j.Expect(j.Hub().Get(j.Context(), client.ObjectKey{Namespace: "edu", Name: "tomcat-conf"}, stored)).To(Succeed())
		j.Expect(j.HTTP(journey.Beijing, 30001, "/config")).To(ContainSubstring("%x", sha256.Sum256([]byte(stored.Spec.Files["server.xml"]))))
	})
	t.Run("DEP-03 replicas by weight, and why", func(t *testing.T) {
		j := within(t, j)
		app := &v1alpha1.Application{}
		j.Expect(j.Hub().Get(j.Context(), client.ObjectKey{Namespace: "edu", Name: "score"}, app)).To(Succeed())
		j.Expect(strings.Join(app.Status.Placements[0].Explanation, "\n")).To(ContainSubstring("score-record 2 of 3"))
	})
	t.Run("DEP-05 status, scale and logs over both clusters", func(t *testing.T) {
		j := within(t, j)
		j.Yunfan("scale", "score", "score-record=5", "--tenant", "edu")
		j.Expect(j.Yunfan("status", "score", "--tenant", "edu")).To(And(ContainSubstring("prod-bj"), ContainSubstring("prod-sh"), ContainSubstring("Ready: True")))
		j.Expect(j.Yunfan("logs", "score", "--tenant", "edu", "--component", "score-record")).To(And(ContainSubstring("[prod-bj/"), ContainSubstring("[prod-sh/")))
	})
	t.Run("RES-11 ports in use, with their owners", func(t *testing.T) {
		j := within(t, j)
		var rows []map[string]any
		j.Expect(json.Unmarshal([]byte(j.Yunfan("ports", "--where", "application=score", "-o", "json")), &rows)).To(Succeed())
		j.Expect(rows).To(HaveLen(2))
		for _, row := range rows {
			j.Expect(row).To(And(HaveKeyWithValue("namespace", "edu-prod"), HaveKeyWithValue("service", "score-record"), HaveKey("address"), HaveKey("cluster")))
		}
	})
	t.Run("CLU-06 nodes of all clusters", func(t *testing.T) {
		j := within(t, j)
		j.Expect(j.Yunfan("nodes")).To(And(ContainSubstring("beijing-1"), ContainSubstring("beijing-2"), ContainSubstring("shanghai-1")))
	})
	t.Run("CLU-01 commands in a pod and its log through the platform", func(t *testing.T) { throughThePlatform(within(t, j), t.TempDir()) })
	t.Run("again", func(t *testing.T) {
		j := within(t, j)
		before := j.Pods(journey.Beijing, "edu-prod", "score-record")
		j.Yunfan("up", "--detach")
		after := j.Pods(journey.Beijing, "edu-prod", "score-record")
		j.Expect(after).To(HaveLen(len(before)), "what the user changed stays")
		j.Expect(after[0].UID).To(Equal(before[0].UID), "nothing was restarted")
	})
}

// within is the journey as seen by a part of its test.
func within(t *testing.T, j *journey.Journey) *journey.Journey {
	t.Helper()
	part := *j
	part.T, part.Gomega = t, NewWithT(t)
	return &part
}

func throughThePlatform(j *journey.Journey, dir string) {
	kubeconfig := filepath.Join(dir, "beijing")
	j.Expect(os.WriteFile(kubeconfig, []byte(j.Yunfan("kubeconfig", "--cluster", journey.Beijing)), 0o600)).To(Succeed())
	j.Expect(j.KubectlWith(kubeconfig, "exec", "-n", "edu-prod", "db-service-0", "--", "sh", "-c", "echo $((6*7))")).To(ContainSubstring("42"))
	j.Expect(j.KubectlWith(kubeconfig, "logs", "-n", "edu-prod", "db-service-0", "--tail=5")).NotTo(BeEmpty())
	j.Expect(j.KubectlWith(kubeconfig, "auth", "whoami")).To(ContainSubstring("yunfan:platform-admin"))
}

// removeExample leaves the clusters as they were: other journeys count what is there.
func removeExample(j *journey.Journey) {
	const patience = 2 * time.Minute
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	objects := []client.Object{
		&v1alpha1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "score"}},
		&v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "prod-bj"}},
		&v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "prod-sh"}},
		&v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "tomcat-conf"}},
		&v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "score-database"}},
		&v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: "edu", Name: "score-database-root"}},
		&v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: "edu"}},
	}
	for _, object := range objects {
		_ = j.Hub().Delete(ctx, object) // one that is not there needs no removing
		j.Eventually(func() error { return j.Hub().Get(ctx, client.ObjectKeyFromObject(object), object) }).WithContext(ctx).
			ShouldNot(Succeed(), "removing %T %s", object, object.GetName())
	}
}
