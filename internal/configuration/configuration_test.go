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

func newConfiguration(namespace string, kind v1alpha1.ConfigurationType, files map[string]string) *v1alpha1.Configuration {
	return &v1alpha1.Configuration{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tomcat-conf"},
		Spec:       v1alpha1.ConfigurationSpec{Type: kind, Files: files},
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
	c := newConfiguration(testkit.Namespace(t, hub.Client), v1alpha1.ConfigurationConfigMap, map[string]string{"server.xml": server, "empty": ""})
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

func TestCFG02_SecretValuesAreWriteOnly(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	namespace := testkit.Namespace(t, hub.Client)
	const secret = "correct horse battery staple"
	c := newConfiguration(namespace, v1alpha1.ConfigurationSecret, map[string]string{"password": secret, "user": "root"})
	manifest, err := json.Marshal(map[string]any{"kind": "Configuration", "spec": c.Spec})
	g.Expect(err).NotTo(HaveOccurred())
	c.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: string(manifest), "note": "kept"}
	testkit.Create(t, hub.Client, c)
	first := settled(t, c)

	stored := &corev1.Secret{}
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, first), stored)).To(Succeed())
	g.Expect(string(stored.Data["password"])).To(Equal(secret))
	g.Expect(*stored.Immutable).To(BeTrue())
	g.Expect(c.Spec.Files).To(Equal(map[string]string{"password": "", "user": ""}))
	g.Expect(c.Annotations).To(HaveKeyWithValue("note", "kept"))
	shown, err := json.Marshal(c)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(shown)).NotTo(ContainSubstring(secret), "neither spec, annotations, managed fields nor status hold it")

	update(t, c, func() { c.Spec.Files["user"] = "admin" })
	g.Eventually(func() string { return settled(t, c) }, wait).ShouldNot(Equal(first))
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, c.Status.Version), stored)).To(Succeed())
	g.Expect(stored.Data).To(Equal(map[string][]byte{"password": []byte(secret), "user": []byte("admin")}), "an empty string keeps what is stored")

	second := c.Status.Version
	update(t, c, func() { c.Spec.Files["password"] = secret })
	g.Expect(settled(t, c)).To(Equal(second), "writing the same value again is no change")

	update(t, c, func() { delete(c.Spec.Files, "user") })
	g.Eventually(func() string { return settled(t, c) }, wait).ShouldNot(Equal(second))
	g.Expect(hub.Client.Get(t.Context(), versionKey(c, c.Status.Version), stored)).To(Succeed())
	g.Expect(stored.Data).To(Equal(map[string][]byte{"password": []byte(secret)}), "a name that is taken out is gone")

	var events corev1.EventList
	g.Expect(hub.Client.List(t.Context(), &events, client.InNamespace(namespace))).To(Succeed())
	for _, e := range events.Items {
		g.Expect(e.Message).NotTo(ContainSubstring(secret))
	}
}

func TestSecretWhoseStoredValuesWereDeleted(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	c := newConfiguration(testkit.Namespace(t, hub.Client), v1alpha1.ConfigurationSecret, map[string]string{"a": "1", "b": "2"})
	testkit.Create(t, hub.Client, c)
	first := settled(t, c)
	g.Expect(hub.Client.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, first)}})).To(Succeed())

	update(t, c, func() { c.Spec.Files["a"] = "new" })
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(ready.Reason).To(Equal(v1alpha1.ReasonInvalid))
		g.Expect(ready.Message).To(ContainSubstring("Write all values anew"))
	}, wait).Should(Succeed())
	g.Expect(c.Spec.Files["a"]).To(Equal("new"), "what is not stored is not blanked")

	update(t, c, func() { c.Spec.Files["b"] = "new" })
	g.Expect(settled(t, c)).NotTo(Equal(first))
}

func TestTooLarge(t *testing.T) {
	g := NewWithT(t)
	startController(t)
	c := newConfiguration(testkit.Namespace(t, hub.Client), v1alpha1.ConfigurationConfigMap,
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
	c := newConfiguration(namespace, v1alpha1.ConfigurationConfigMap, map[string]string{"n": "0"})
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
	c := newConfiguration(namespace, v1alpha1.ConfigurationSecret, map[string]string{"a": "1"})
	testkit.Create(t, hub.Client, c)
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
	c := newConfiguration(namespace, v1alpha1.ConfigurationConfigMap, files)
	foreign := v1alpha1.VersionObjectName(c.Name, versionOf(v1alpha1.ConfigurationConfigMap, files))
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

func TestVersionOf(t *testing.T) {
	a := versionOf(v1alpha1.ConfigurationConfigMap, map[string]string{"a": "1", "b": "2"})
	if b := versionOf(v1alpha1.ConfigurationConfigMap, map[string]string{"b": "2", "a": "1"}); a != b {
		t.Errorf("the same files have versions %s and %s", a, b)
	}
	if b := versionOf(v1alpha1.ConfigurationConfigMap, map[string]string{"a": "1b", "": "2"}); a == b {
		t.Error("other files have the same version")
	}
	values := map[string]string{"password": "1234"}
	first, second := versionOf(v1alpha1.ConfigurationSecret, values), versionOf(v1alpha1.ConfigurationSecret, values)
	if first == second {
		t.Error("a Secret's version must not tell its content")
	}
}

func TestWithoutValues(t *testing.T) {
	cases := map[string]struct{ reason, manifest, want string }{
		"values":     {"names stay, so that kubectl still sees which were taken out", `{"spec":{"files":{"a":"x","b":"y"}}}`, `{"spec":{"files":{"a":"","b":""}}}`},
		"malformed":  {"nothing is kept of what cannot be read", `{"spec":`, ``},
		"other type": {"files of a wrong type could hold anything", `{"spec":{"files":["x"],"type":"Secret"}}`, `{"spec":{"type":"Secret"}}`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := withoutValues(tc.manifest); got != tc.want {
				t.Errorf("%s: got %s, want %s", tc.reason, got, tc.want)
			}
		})
	}
}
