package delivery

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

func TestRefused(t *testing.T) {
	w := newWorld(t).serve(t)
	t.Run("foreign object", func(t *testing.T) { foreign(t, w) })
	t.Run("another application's object", func(t *testing.T) { sameNames(t, w) })
	t.Run("labels edited", func(t *testing.T) { labelsEdited(t, w) })
	t.Run("quota", func(t *testing.T) { quota(t, w) })
	t.Run("rights that come late", func(t *testing.T) { lateRights(t, w) })
	t.Run("immutable field", func(t *testing.T) { immutable(t, w) })
	t.Run("pod security", func(t *testing.T) { podSecurity(t, w) })
}

func appliedFalse(reason, text string) func(*v1alpha1.Delivery) bool {
	return func(d *v1alpha1.Delivery) bool {
		for _, c := range d.Status.Conditions {
			if c.Type == v1alpha1.ConditionApplied {
				return c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, text)
			}
		}
		return false
	}
}

// touch changes a partition's spec, as somebody does who changes its rules.
func touch(t *testing.T, p *v1alpha1.Partition) {
	t.Helper()
	p.Spec.Environment = "Test"
	if err := hub.Client.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// foreign: what Yunfan did not make is not touched, the other components go on, and it is tried again when the
// partition changes.
func foreign(t *testing.T, w *world) {
	p := w.partition(t)
	labels := map[string]string{"app": "x"}
	theirs := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "front", Namespace: p.MemberNamespace()}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "theirs:v1"}}}},
	}}
	testkit.Create(t, w.member.Client, theirs)
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front"), web("back")), 1)
	eventually(t, d, "refused", appliedFalse(v1alpha1.ReasonRefused, "front: Deployment front exists in the namespace and was not made by Yunfan: rename"))
	object(t, w, p, "back", &appsv1.Deployment{}, nil)
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool {
		return o.Spec.Template.Spec.Containers[0].Image == "theirs:v1" && o.Labels[v1alpha1.LabelApplication] == ""
	})
	if err := w.member.Client.Delete(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	touch(t, p)
	eventually(t, d, "applied", applied)
}

// sameNames: two applications of a partition cannot have a component of one name; the first keeps it.
func sameNames(t *testing.T, w *world) {
	p := w.partition(t)
	first := deliver(t, p, revision(t, p, "first", "aaaaaaaaaa", web("front")), 1)
	eventually(t, first, "applied", applied)
	object(t, w, p, "front", &appsv1.Deployment{}, nil)
	second := deliver(t, p, revision(t, p, "second", "aaaaaaaaaa", web("front")), 1)
	eventually(t, second, "refused", appliedFalse(v1alpha1.ReasonRefused, "belongs to application first"))
	if err := hub.Client.Delete(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	NewWithT(t).Eventually(func() error { return hub.Client.Get(t.Context(), keyOfDelivery(second), second) }, "20s").Should(MatchError(ContainSubstring("not found")))
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool {
		return o.Labels[v1alpha1.LabelApplication] == "first" && o.DeletionTimestamp == nil
	})
}

// labelsEdited: an object whose labels somebody has taken off or changed is still ours: it is mended, and deleted with
// the Delivery.
func labelsEdited(t *testing.T, w *world) {
	p := w.partition(t)
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front"), web("back")), 1)
	eventually(t, d, "applied", applied)
	edit := func(o client.Object, label, value string) {
		key := client.ObjectKey{Namespace: p.MemberNamespace(), Name: "front"}
		if err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			if err := w.member.Client.Get(t.Context(), key, o); err != nil {
				return err
			}
			labels := o.GetLabels()
			delete(labels, v1alpha1.LabelTenant)
			if labels[label] = value; value == "" {
				delete(labels, label)
			}
			return w.member.Client.Update(t.Context(), o, client.FieldOwner("kubectl-edit"))
		}); err != nil {
			t.Fatal(err)
		}
	}
	edit(&appsv1.Deployment{}, v1alpha1.LabelApplication, "")
	edit(&corev1.Service{}, v1alpha1.LabelPartition, "")
	mended := func(o client.Object) bool {
		return o.GetLabels()[v1alpha1.LabelApplication] == "shop" && o.GetLabels()[v1alpha1.LabelPartition] == p.Name && o.GetLabels()[v1alpha1.LabelTenant] == p.Namespace
	}
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return mended(o) })
	object(t, w, p, "front", &corev1.Service{}, func(o *corev1.Service) bool { return mended(o) })
	edit(&appsv1.Deployment{}, v1alpha1.LabelApplication, "other")
	object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return mended(o) })

	w.set.Disconnect(w.cluster)
	edit(&appsv1.Deployment{}, v1alpha1.LabelApplication, "")
	if err := hub.Client.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	w.join(t, w.config())
	gone(t, w, p, "front", &appsv1.Deployment{})
	gone(t, w, p, "back", &appsv1.Deployment{})
}

// quota: of two services the quota holds one; the deployment is created all the same.
func quota(t *testing.T, w *world) {
	p := w.partition(t)
	hard := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "yunfan", Namespace: p.MemberNamespace()},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceServices: quantity("0")}}}
	testkit.Create(t, w.member.Client, hard)
	hard.Status.Hard, hard.Status.Used = hard.Spec.Hard, corev1.ResourceList{corev1.ResourceServices: quantity("0")}
	if err := w.member.Client.Status().Update(t.Context(), hard); err != nil {
		t.Fatal(err)
	}
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front")), 1)
	eventually(t, d, "refused", appliedFalse(v1alpha1.ReasonQuotaExceeded, "quota does not hold Service front: exceeded quota: yunfan, requested: services=1"))
	object(t, w, p, "front", &appsv1.Deployment{}, nil)
	if err := w.member.Client.Delete(t.Context(), hard); err != nil {
		t.Fatal(err)
	}
	touch(t, p)
	eventually(t, d, "applied", applied)
}

// lateRights: a partition's role may take effect a moment after the partition says it is ready.
func lateRights(t *testing.T, w *world) {
	p := w.partition(t)
	role := &rbacv1.Role{}
	if err := w.member.Client.Get(t.Context(), keyIn(p, v1alpha1.DeliveryServiceAccount), role); err != nil {
		t.Fatal(err)
	}
	rules := role.Rules
	role.Rules = nil
	update(t, w, role)
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front")), 1)
	eventually(t, d, "refused", appliedFalse(v1alpha1.ReasonRefused, "the partition's identity may not write"))
	role.Rules = rules
	update(t, w, role)
	eventually(t, d, "applied", applied)
}

// immutable: what Kubernetes does not let anybody change is said so.
func immutable(t *testing.T, w *world) {
	p := w.partition(t)
	set := func(size string) func(*v1alpha1.Component) {
		return func(c *v1alpha1.Component) {
			c.Workload = v1alpha1.WorkloadStatefulSet
			c.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: quantity(size)}},
			}}}
		}
	}
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("db", set("1Gi"))), 1)
	eventually(t, d, "applied", applied)
	r := revision(t, p, "shop", "bbbbbbbbbb", web("db", set("2Gi")))
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(r, 1) })
	got := eventually(t, d, "refused", appliedFalse(v1alpha1.ReasonRefused, "StatefulSet db"))
	if c := got.Status.Tracks[0].Components[0]; c.Revision == r.Name {
		t.Errorf("component counts as applied at %s", c.Revision)
	}
	move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0].Revision = "shop-aaaaaaaaaa" })
	eventually(t, d, "applied", applied)
}

// podSecurity: the member's own refusal of pods, as its controllers put it into the workload's conditions.
func podSecurity(t *testing.T, w *world) {
	p := w.partition(t)
	privileged := func(c *v1alpha1.Component) {
		c.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	}
	d := deliver(t, p, revision(t, p, "shop", "aaaaaaaaaa", web("front", privileged)), 1)
	front := object(t, w, p, "front", &appsv1.Deployment{}, nil)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "front-x", Namespace: p.MemberNamespace()}, Spec: front.Spec.Template.Spec}
	pod.Spec.ServiceAccountName = "default"
	refusal := w.member.Client.Create(t.Context(), pod)
	if refusal == nil || !strings.Contains(refusal.Error(), "PodSecurity") {
		t.Fatalf("the pod was not refused: %v", refusal)
	}
	front.Status = appsv1.DeploymentStatus{ObservedGeneration: front.Generation, Conditions: []appsv1.DeploymentCondition{
		{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: refusal.Error()},
	}}
	if err := w.member.Client.Status().Update(t.Context(), front); err != nil {
		t.Fatal(err)
	}
	got := eventually(t, d, "refused", is(v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonRefused))
	NewWithT(t).Expect(describe(got)).To(ContainSubstring(`the cluster refuses pods of front: violates PodSecurity "baseline:latest": privileged`))
}

// TestRefusalEnds: what was refused and is as it is meant to be all the same, because somebody else has put it right, is
// refused no longer.
func TestRefusalEnds(t *testing.T) {
	object := &unstructured.Unstructured{}
	object.SetUID("u")
	object.SetGeneration(1)
	object.SetResourceVersion("7")
	thing := &target{key: objectKey{Name: "front"}, hash: "h", object: object}
	rec := newRecord("delivery")
	rec.done(thing, object)
	rec.refuse(thing, "plan", &refusal{reason: v1alpha1.ReasonRefused})
	if current, _ := rec.current(thing, object); !current || rec.refusalFor(thing) != nil {
		t.Errorf("current: %v, refusal: %v", current, rec.refusalFor(thing))
	}
}
