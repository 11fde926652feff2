package configuration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

const wait = 20 * time.Second

func startController(t *testing.T) {
	t.Helper()
	testkit.StartManager(t, hub, func(mgr manager.Manager) error { return New(mgr).SetupWithManager(mgr) })
}

func newConfiguration(namespace string, files map[string]string) *v1alpha1.Configuration {
	return &v1alpha1.Configuration{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tomcat-conf"},
		Spec:       v1alpha1.ConfigurationSpec{Type: v1alpha1.ConfigurationConfigMap, Files: files},
	}
}

// update changes an object until no other writer is in the way.
func update(t *testing.T, c *v1alpha1.Configuration, change func()) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		change()
		return hub.Client.Update(t.Context(), c)
	}, wait).Should(Succeed())
}

// settled waits until the newest spec is stored, and gives the version.
func settled(t *testing.T, c *v1alpha1.Configuration) string {
	t.Helper()
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		g.Expect(c.Status.ObservedGeneration).To(Equal(c.Generation))
		g.Expect(meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue(), "%v", c.Status.Conditions)
		for _, value := range c.Spec.Files {
			g.Expect(c.Spec.Type == v1alpha1.ConfigurationConfigMap || value == "").To(BeTrue(), "not blanked yet")
		}
	}, wait).Should(Succeed())
	return c.Status.Version
}

func versionKey(c *v1alpha1.Configuration, version string) client.ObjectKey {
	return client.ObjectKey{Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, version)}
}

func TestCFG02_EachChangeIsAnImmutableVersion(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	const server = "<Server port=\"8005\">\r\n\t<!-- 端口 -->\n</Server>\n"
	c := newConfiguration(testkit.Namespace(t, hub.Client), map[string]string{"server.xml": server, "empty": ""})
	testkit.Create(t, hub.Client, c)
	first := settled(t, c)

	stored := &corev1.ConfigMap{}
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, first), stored)).To(Succeed())
	g.Expect(stored.Data).To(Equal(map[string]string{"server.xml": server, "empty": ""}), "byte-identical")
	g.Expect(*stored.Immutable).To(BeTrue())
	stored.Data["server.xml"] = "changed"
	g.Expect(apierrors.IsInvalid(hub.Client.Update(t.Context(), stored))).To(BeTrue(), "nobody changes a version")

	update(t, c, func() { c.Spec.Files["server.xml"] = "v2" })
	second := settled(t, c)
	g.Expect(second).NotTo(Equal(first))
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, first), stored)).To(Succeed(), "the older version is kept")

	update(t, c, func() { c.Spec.Files["server.xml"] = server })
	g.Expect(settled(t, c)).To(Equal(first), "the same content is the same version")
	var names []string
	for _, v := range c.Status.Versions {
		names = append(names, v.Name)
	}
	g.Expect(names).To(Equal([]string{first, second}), "what is taken up again is the newest")
}

// write stores values as the platform's API does, and has the configuration name them.
func write(t *testing.T, c *v1alpha1.Configuration, values map[string][]byte) {
	t.Helper()
	stored := c.WriteSecret(corev1.SecretTypeOpaque, values)
	if err := hub.Client.Create(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	if c.UID == "" {
		testkit.Create(t, hub.Client, c)
		return
	}
	version := c.Spec.Stored
	update(t, c, func() {
		c.Spec.Stored = version
		c.Spec.Files = map[string]string{}
		for name := range values {
			c.Spec.Files[name] = ""
		}
	})
}

func TestSEC09_ValuesOfSecrets(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	c := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: testkit.Namespace(t, hub.Client), Name: "database"}}
	password, user := []byte("correct horse \xff"), []byte("root")
	write(t, c, map[string][]byte{"password": password, "user": user})
	first := settled(t, c)
	g.Expect(first).To(Equal(c.Spec.Stored), "what was written is the version")
	stored := &corev1.Secret{}
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, first), stored)).To(Succeed())
	g.Expect(stored.Data).To(Equal(map[string][]byte{"password": password, "user": user}))
	g.Expect(metav1.IsControlledBy(stored, c)).To(BeTrue(), "it goes with the configuration")

	write(t, c, map[string][]byte{"password": []byte("new"), "user": user})
	g.Eventually(func() string { return settled(t, c) }, wait).ShouldNot(Equal(first))
	second := c.Status.Version
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, first), stored)).To(Succeed(), "the older version is kept")

	update(t, c, func() { delete(c.Spec.Files, "user") })
	g.Eventually(func() string { return settled(t, c) }, wait).ShouldNot(Equal(second))
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, c.Status.Version), stored)).To(Succeed())
	g.Expect(stored.Data).To(Equal(map[string][]byte{"password": []byte("new")}), "a name that is taken out is gone")

	shown, err := json.Marshal(c)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(shown)).NotTo(ContainSubstring("correct"))
}

func TestSEC09_ValuesThatAreNotThere(t *testing.T) {
	startController(t)
	namespace := testkit.Namespace(t, hub.Client)
	other := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "a-b"}}
	write(t, other, map[string][]byte{"x": []byte("1")})
	settled(t, other)
	cases := map[string]struct {
		reason, name, stored string
		files                map[string]string
		want                 string
	}{
		"Never":   {"It was made with kubectl and nobody wrote values", "never", "", map[string]string{"x": ""}, "its values are not written yet"},
		"Lost":    {"Somebody deleted the Secret", "lost", "abc", map[string]string{"x": ""}, "the stored values are gone"},
		"Foreign": {"The name of another one's version is put together", "a", "b-" + other.Spec.Stored, map[string]string{"x": ""}, "spec.stored"},
		"Missing": {"A name without a value was added", "a-b", other.Spec.Stored, map[string]string{"x": "", "y": ""}, "the value of y is not written yet"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			c := &v1alpha1.Configuration{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: tc.name},
				Spec:       v1alpha1.ConfigurationSpec{Type: v1alpha1.ConfigurationSecret, Stored: tc.stored, Files: tc.files},
			}
			if tc.name == other.Name {
				c = other
				update(t, c, func() { c.Spec.Files = tc.files })
			} else if err := hub.Client.Create(t.Context(), c); err != nil {
				g.Expect(err.Error()).To(ContainSubstring(tc.want), tc.reason)
				return
			}
			g.Eventually(func(g Gomega) {
				g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
				ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
				g.Expect(ready).NotTo(BeNil())
				g.Expect(ready.Reason).To(Equal(v1alpha1.ReasonInvalid))
				g.Expect(ready.Message).To(ContainSubstring(tc.want), tc.reason)
			}, wait).Should(Succeed())
		})
	}
}

func TestTooLarge(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	c := newConfiguration(testkit.Namespace(t, hub.Client),
		map[string]string{"a": strings.Repeat("x", 600<<10), "b": strings.Repeat("x", 600<<10)})
	testkit.Create(t, hub.Client, c)
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(ready).NotTo(BeNil())
		g.Expect(ready.Reason).To(Equal(v1alpha1.ReasonInvalid))
		g.Expect(ready.Message).To(ContainSubstring("1201 KiB together, and at most 1024 KiB fit into one ConfigMap: split"))
	}, wait).Should(Succeed())
	g.Expect(c.Status.Version).To(BeEmpty())
}

func newRevision(namespace, application, name string, pins ...v1alpha1.ConfigurationPin) *v1alpha1.ApplicationRevision {
	return &v1alpha1.ApplicationRevision{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.ApplicationRevisionSpec{Application: application, Number: 1, Configurations: pins},
	}
}

func TestOldVersionsArePruned(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	namespace := testkit.Namespace(t, hub.Client)
	c := newConfiguration(namespace, map[string]string{"n": "0"})
	testkit.Create(t, hub.Client, c)
	first := settled(t, c)
	testkit.Create(t, hub.Client,
		newRevision(namespace, "score", "score-1", v1alpha1.ConfigurationPin{Name: c.Name, Type: c.Spec.Type, Version: first}),
		// A version that a crash left behind: stored, but never named in the status.
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: c.Name + "-lost", OwnerReferences: ownerOf(c),
			Labels: map[string]string{v1alpha1.LabelConfiguration: c.Name}}})

	var second string
	for i := 1; i <= 25; i++ {
		update(t, c, func() { c.Spec.Files["n"] = fmt.Sprint(i) })
		version := settled(t, c)
		if i == 1 {
			second = version
		}
	}
	g.Expect(c.Status.Versions).To(HaveLen(21), "20 and the one in use")
	g.Expect(c.Status.Versions[20].Name).To(Equal(first))
	var left corev1.ConfigMapList
	g.Expect(hub.Client.List(t.Context(), &left, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelConfiguration: c.Name})).To(Succeed())
	g.Expect(left.Items).To(HaveLen(21))
	g.Expect(slices.ContainsFunc(left.Items, func(m corev1.ConfigMap) bool { return m.Name == v1alpha1.VersionObjectName(c.Name, second) })).To(BeFalse())
}

func TestDeletionWaitsWhileInUse(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	namespace := testkit.Namespace(t, hub.Client)
	c := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tomcat-conf"}}
	write(t, c, map[string][]byte{"a": []byte("1")})
	version := settled(t, c)
	delivery := &v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: v1alpha1.DeliveryName("score", "prod-bj")},
		Spec: v1alpha1.DeliverySpec{Application: "score", Partition: "prod-bj", Cluster: "beijing",
			Tracks: []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: "score-1"}}},
	}
	testkit.Create(t, hub.Client, delivery,
		newRevision(namespace, "score", "score-1", v1alpha1.ConfigurationPin{Name: c.Name, Type: c.Spec.Type, Version: version}))

	g.Expect(hub.Client.Delete(t.Context(), c)).To(Succeed())
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(ready.Reason).To(Equal(v1alpha1.ReasonInUse))
		g.Expect(ready.Message).To(ContainSubstring("in use by application score"))
	}, wait).Should(Succeed())
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, version), &corev1.Secret{})).To(Succeed())

	g.Expect(hub.Client.Delete(t.Context(), delivery)).To(Succeed())
	g.Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c))
	}, wait).Should(BeTrue(), "seen at once, not at the next regular check")
	g.Expect(apierrors.IsNotFound(hub.Client.Get(t.Context(), versionKey(c, version), &corev1.Secret{}))).To(BeTrue())
}

func TestNameOfAVersionTaken(t *testing.T) {
	g := NewWithT(t)
	namespace := testkit.Namespace(t, hub.Client)
	files := map[string]string{"a": "1"}
	c := newConfiguration(namespace, files)
	foreign := v1alpha1.VersionObjectName(c.Name, hashOf(files))
	testkit.Create(t, hub.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: foreign}})
	startController(t)
	testkit.Create(t, hub.Client, c)
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(ready).NotTo(BeNil())
		g.Expect(ready.Message).To(ContainSubstring("ConfigMap " + foreign + " has the name of the new version"))
	}, wait).Should(Succeed())
}

func TestHashOf(t *testing.T) {
	a := hashOf(map[string]string{"a": "1", "b": "2"})
	if b := hashOf(map[string]string{"b": "2", "a": "1"}); a != b {
		t.Errorf("the same files have versions %s and %s", a, b)
	}
	if b := hashOf(map[string]string{"a": "1b", "": "2"}); a == b {
		t.Error("other files have the same version")
	}
}
