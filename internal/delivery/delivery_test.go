package delivery

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestDeliver(t *testing.T) {
	w := newWorld(t).serve(t)
	t.Run("DEP-06 applied, drift corrected, changed, pruned, removed", func(t *testing.T) {
		p := w.partition(t)
		first := revision(t, p, "shop", "aaaaaaaaaa", web("front"), web("back"))
		d := deliver(t, p, first, 2)
		eventually(t, d, "applied", applied)
		front := object(t, w, p, "front", &appsv1.Deployment{}, nil)
		object(t, w, p, "front", &corev1.Service{}, nil)

		*front.Spec.Replicas = 7
		if err := w.member.Client.Update(t.Context(), front); err != nil {
			t.Fatal(err)
		}
		object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return *o.Spec.Replicas == 2 })
		if err := w.member.Client.Delete(t.Context(), front); err != nil {
			t.Fatal(err)
		}
		object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return o.UID != front.UID })

		second := revision(t, p, "shop", "bbbbbbbbbb", web("front", func(c *v1alpha1.Component) { c.Template.Spec.Containers[0].Image = "web:v2" }))
		move(t, d, func(s *v1alpha1.DeliverySpec) { s.Tracks[0] = track(second, 2) })
		object(t, w, p, "front", &appsv1.Deployment{}, func(o *appsv1.Deployment) bool { return o.Spec.Template.Spec.Containers[0].Image == "web:v2" })
		gone(t, w, p, "back", &appsv1.Deployment{})
		gone(t, w, p, "back", &corev1.Service{})
		got := eventually(t, d, "pruned", func(d *v1alpha1.Delivery) bool { return applied(d) && len(d.Status.Inventory) == 2 })
		if got.Status.Tracks[0].Revision != second.Name {
			t.Errorf("revision %s in the status, want %s", got.Status.Tracks[0].Revision, second.Name)
		}

		if err := hub.Client.Delete(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		gone(t, w, p, "front", &appsv1.Deployment{})
		gone(t, w, p, "front", &corev1.Service{})
	})
}
