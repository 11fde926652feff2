package delivery

import (
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestTracks(t *testing.T) {
	w := newWorld(t).serve(t)
	t.Run("REL-04 promotion", func(t *testing.T) { promotion(t, w) })
	t.Run("REL-05 going back", func(t *testing.T) { goingBack(t, w) })
	t.Run("REL-02 order of dependencies", func(t *testing.T) { candidateWaits(t, w) })
	t.Run("REL-01 stopped when no pod is left", func(t *testing.T) { stoppedWithoutPods(t, w) })
	t.Run("same suffix", func(t *testing.T) { sameSuffix(t, w) })
}

// two makes a Delivery whose stable track runs and lets a candidate run beside it.
func two(t *testing.T, w *world, p *v1alpha1.Partition, image string) (*v1alpha1.Delivery, *v1alpha1.ApplicationRevision) {
	t.Helper()
	db := web("db", func(c *v1alpha1.Component) { c.Workload = v1alpha1.WorkloadStatefulSet })
	first := revision(t, p, "shop", "aaaaaaaaaa", web("front"), db)
	d := deliver(t, p, first, 3)
	eventually(t, d, "applied", applied)
	second := revision(t, p, "shop", "bbbbbbbbbb", web("front", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image = image }), db)
	move(t, d, func(s *v1alpha1.DeliverySpec) {
		s.Tracks = append(s.Tracks, v1alpha1.Track{Role: v1alpha1.TrackCandidate, Revision: second.Name, Suffix: "bbbbbbbb", Replicas: map[string]int32{"front": 1}})
	})
	object(t, w, p, "front-bbbbbbbb", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 1 })
	return d, second
}

// promotion: the candidate's objects are not touched, the component's service moves over to them, what is lent follows in
// place, and the old ones go.
func promotion(t *testing.T, w *world) {
	g := NewWithT(t)
	p := w.partition(t)
	d, second := two(t, w, p, "web:v2")
	candidate := object(t, w, p, "front-bbbbbbbb", &appsv1.Deployment{}, nil)
	object(t, w, p, "front-bbbbbbbb", &corev1.Service{}, func(s *corev1.Service) bool {
		return s.Spec.Selector[v1alpha1.LabelWorkload] == "front-bbbbbbbb" && len(s.Spec.Selector) == 1
	})
	object(t, w, p, "db-bbbbbbbb", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.Selector[v1alpha1.LabelWorkload] == "db" })
	got := eventually(t, d, "applied", applied)
	g.Expect(names(got.Status.Tracks)).To(Equal([]string{"Stable shop-aaaaaaaaaa db front", "Candidate shop-bbbbbbbbbb front"}))
	g.Expect(*object(t, w, p, "front", &appsv1.Deployment{}, nil).Spec.Replicas).To(Equal(int32(3)))

	move(t, d, func(s *v1alpha1.DeliverySpec) {
		s.Tracks = []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: second.Name, Suffix: "bbbbbbbb", Replicas: map[string]int32{"front": 1, "db": 3}}}
	})
	gone(t, w, p, "front", &appsv1.Deployment{})
	object(t, w, p, "front", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.Selector[v1alpha1.LabelWorkload] == "front-bbbbbbbb" })
	object(t, w, p, "db", &appsv1.StatefulSet{}, func(o *appsv1.StatefulSet) bool { return o.Labels[v1alpha1.LabelRevision] == second.Name })
	got = eventually(t, d, "applied", applied)
	g.Expect(names(got.Status.Tracks)).To(Equal([]string{"Stable shop-bbbbbbbbbb db front"}))
	after := object(t, w, p, "front-bbbbbbbb", &appsv1.Deployment{}, nil)
	g.Expect(after.UID).To(Equal(candidate.UID))
	g.Expect(after.Generation).To(Equal(candidate.Generation), "the promotion has changed the candidate's workload")
	for _, e := range got.Status.Inventory {
		g.Expect(e.Kind+" "+e.Name).NotTo(Equal("Deployment front"), "what is gone is still listed")
	}

	// A change in place keeps the names.
	third := revision(t, p, "shop", "cccccccccc", web("front", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image = "web:v3" }))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0].Revision = third.Name })
	object(t, w, p, "front-bbbbbbbb", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool {
		return o.UID == candidate.UID && o.Spec.Template.Spec.Containers[0].Image == "web:v3"
	})
	gone(t, w, p, "db", &appsv1.StatefulSet{})
	gone(t, w, p, "db-bbbbbbbb", &corev1.Service{})
}

// goingBack: pods carry their revision while two run, and what the candidate had goes without a trace.
func goingBack(t *testing.T, w *world) {
	g := NewWithT(t)
	p := w.partition(t)
	d, _ := two(t, w, p, "web:v2")
	stable, candidate := pod(t, w, p, "front"), pod(t, w, p, "front-bbbbbbbb")
	marked := func(pod *corev1.Pod, want string) {
		t.Helper()
		object(t, w, p, pod.Name, &corev1.Pod{}, func(o *corev1.Pod) bool { return o.Labels[v1alpha1.LabelRevision] == want })
	}
	marked(stable, "shop-aaaaaaaaaa")
	marked(candidate, "shop-bbbbbbbbbb")
	before := object(t, w, p, "front", &appsv1.Deployment{}, nil).Generation
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks = s.Tracks[:1] })
	gone(t, w, p, "front-bbbbbbbb", &appsv1.Deployment{})
	gone(t, w, p, "front-bbbbbbbb", &corev1.Service{})
	gone(t, w, p, "db-bbbbbbbb", &corev1.Service{})
	marked(stable, "")
	got := eventually(t, d, "applied", applied)
	g.Expect(slices.ContainsFunc(got.Status.Inventory, func(e v1alpha1.InventoryEntry) bool { return e.Name == "front-bbbbbbbb" })).To(BeFalse())
	g.Expect(object(t, w, p, "front", &appsv1.Deployment{}, nil).Generation).To(Equal(before), "the stable track was touched")
}

// candidateWaits: a candidate waits for its own dependencies, and for those that the stable track lends.
func candidateWaits(t *testing.T, w *world) {
	p := w.partition(t)
	db := web("db", func(c *v1alpha1.Component) { c.Workload = v1alpha1.WorkloadStatefulSet })
	needs := func(image string, on ...string) v1alpha1.Component {
		return web("front", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image, c.DependsOn = image, on })
	}
	first := revision(t, p, "shop", "aaaaaaaaaa", db, needs("web:v1"))
	d := deliver(t, p, first, 0)
	set := object(t, w, p, "db", &appsv1.StatefulSet{}, nil)
	set.Status.ObservedGeneration = set.Generation
	if err := w.member.Client.Status().Update(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "applied", applied)
	second := revision(t, p, "shop", "bbbbbbbbbb", db, web("api"), needs("web:v2", "db", "api"))
	move(t, d, func(s *v1alpha1.DeliverySpec) {
		s.Tracks = append(s.Tracks, v1alpha1.Track{Role: v1alpha1.TrackCandidate, Revision: second.Name, Suffix: "bb", Replicas: map[string]int32{"front": 1, "api": 1}})
	})
	eventually(t, d, "the candidate's api has no pods", func(d *v1alpha1.Delivery) bool {
		applied := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionApplied)
		return applied.Reason == v1alpha1.ReasonWaitingForDependency && applied.Message == "candidate of front: waits until ready here: api"
	})
	object(t, w, p, "api", &corev1.Service{}, func(s *corev1.Service) bool { return s.Spec.Selector[v1alpha1.LabelWorkload] == "api-bb" })
	NewWithT(t).Expect(w.member.Client.Get(t.Context(), keyIn(p, "front-bb"), &appsv1.Deployment{})).To(MatchError(ContainSubstring("not found")))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[1].Replicas["api"] = 0 })
	api := object(t, w, p, "api-bb", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 0 })
	makeReady(t, w, api)
	object(t, w, p, "front-bb", &appsv1.Deployment{}, nil)
}

// stoppedWithoutPods: that it is stopped is said when the last pod has gone, and a change meanwhile is applied.
func stoppedWithoutPods(t *testing.T, w *world) {
	p := w.partition(t)
	first := revision(t, p, "shop", "aaaaaaaaaa", web("front"))
	d := deliver(t, p, first, 1)
	eventually(t, d, "applied", applied)
	front := pod(t, w, p, "front")
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Stopped = true })
	deployment := object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 0 })
	makeReady(t, w, deployment)
	eventually(t, d, "a pod has not ended", func(d *v1alpha1.Delivery) bool {
		c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionHealthy)
		return c.Status == metav1.ConditionFalse && c.Message == "front: stopped: pods that have not ended yet: 1"
	})
	if err := w.member.Client.Delete(t.Context(), front); err != nil {
		t.Fatal(err)
	}
	eventually(t, d, "all have", is(v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonStopped))
	second := revision(t, p, "shop", "bbbbbbbbbb", web("front", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image = "web:v2" }))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0].Revision = second.Name })
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool {
		return *o.Spec.Replicas == 0 && o.Spec.Template.Spec.Containers[0].Image == "web:v2"
	})
}

// sameSuffix: what would overwrite what runs is refused.
func sameSuffix(t *testing.T, w *world) {
	p := w.partition(t)
	first := revision(t, p, "shop", "aaaaaaaaaa", web("front"))
	second := revision(t, p, "shop", "bbbbbbbbbb", web("front"))
	d := deliver(t, p, first, 1)
	eventually(t, d, "applied", applied)
	move(t, d, func(s *v1alpha1.DeliverySpec) {
		s.Tracks = append(s.Tracks, v1alpha1.Track{Role: v1alpha1.TrackCandidate, Revision: second.Name})
	})
	eventually(t, d, "refused", is(v1alpha1.ConditionApplied, metav1.ConditionFalse, v1alpha1.ReasonInvalid))
}

// pod plays the part of the member's controllers: one pod of a workload, which runs.
func pod(t *testing.T, w *world, p *v1alpha1.Partition, workload string) *corev1.Pod {
	t.Helper()
	of := object(t, w, p, workload, &appsv1.Deployment{}, nil)
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.MemberNamespace(), Name: workload + "-pod", Labels: of.Spec.Template.Labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:v1"}}, ServiceAccountName: "default", AutomountServiceAccountToken: new(false)}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: o.Namespace}}
	if err := w.member.Client.Create(t.Context(), account); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	testkit.Create(t, w.member.Client, o)
	return o
}

func names(tracks []v1alpha1.TrackStatus) []string {
	var out []string
	for _, track := range tracks {
		text := string(track.Role) + " " + track.Revision
		for _, c := range track.Components {
			text += " " + c.Name
		}
		out = append(out, text)
	}
	return out
}
