//go:build e2e

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// application has one component with a service, in both partitions.
func application(name, value, image string, replicas int32, policy v1alpha1.PlacementPolicy) *v1alpha1.Application {
	a := &v1alpha1.Application{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Application"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: tenant},
		Spec: v1alpha1.ApplicationSpec{
			Placement: v1alpha1.Placement{Policy: policy},
			Components: []v1alpha1.Component{{
				Name: name, Workload: v1alpha1.WorkloadDeployment, Replicas: &replicas,
				Service: &v1alpha1.Service{Type: corev1.ServiceTypeClusterIP, Ports: []v1alpha1.ServicePort{{Name: "http", Port: 8080, Protocol: corev1.ProtocolTCP}}},
				Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: new(int64(1)),
					Containers: []corev1.Container{{
						Name: "main", Image: image, Env: []corev1.EnvVar{{Name: variable, Value: value}},
						Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
					}},
				}},
			}},
		},
	}
	for _, member := range members {
		a.Spec.Placement.Partitions = append(a.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: member})
	}
	return a
}

func names(prefix string) []string {
	list := make([]string, many)
	for i := range list {
		list[i] = prefix + strconv.Itoa(i)
	}
	return list
}

// oneAtATime creates applications and then changes them, each when the one before has arrived.
func (b *bench) oneAtATime(ctx context.Context) error {
	hub := b.Clusters[journey.Hub]
	var created, changed []time.Duration
	for _, name := range names("single-") {
		a := application(name, "1", "none", 0, v1alpha1.PlacementDuplicated)
		took, err := timed(func() error { return hub.Create(ctx, a) }, func() error {
			return everywhere(b.ours, func(o *observer) error { return o.holds(ctx, "1", name) })
		})
		if err != nil {
			return err
		}
		created = append(created, took)
	}
	change := client.RawPatch(types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/components/0/template/spec/containers/0/env/0/value","value":"2"}]`))
	for _, name := range names("single-") {
		a := &v1alpha1.Application{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: tenant}}
		took, err := timed(func() error { return hub.Patch(ctx, a, change) }, func() error {
			return everywhere(b.ours, func(o *observer) error { return o.holds(ctx, "2", name) })
		})
		if err != nil {
			return err
		}
		changed = append(changed, took)
	}
	spread("created", created)
	spread("changed", changed)
	return b.clean(ctx)
}

// atOnce gives all applications to kubectl in one file, and beside it the same member objects straight to both members.
func (b *bench) atOnce(ctx context.Context) error {
	for _, round := range []struct{ title, value string }{{"created", "1"}, {"changed", "2"}} {
		var applications []client.Object
		for _, name := range names("many-") {
			applications = append(applications, application(name, round.value, "none", 0, v1alpha1.PlacementDuplicated))
		}
		file, err := b.write("applications.yaml", applications...)
		if err != nil {
			return err
		}
		ours, err := timed(func() error { return b.apply(ctx, journey.Hub, file) }, func() error {
			return everywhere(b.ours, func(o *observer) error { return o.holds(ctx, round.value, names("many-")...) })
		})
		if err != nil {
			return err
		}
		files, err := b.copies(ctx, "")
		if err != nil {
			return err
		}
		theirs, err := b.plainly(ctx, files, func(o *observer) error { return o.holds(ctx, round.value, names("many-")...) })
		if err != nil {
			return err
		}
		beside(round.title, ours, theirs)
	}
	return b.clean(ctx)
}

// plainly writes each member's file with plain kubectl, to both members at the same time.
func (b *bench) plainly(ctx context.Context, files map[string]string, there func(*observer) error) (time.Duration, error) {
	return timed(func() error {
		var group errgroup.Group
		for member, file := range files {
			group.Go(func() error { return b.apply(ctx, member, file) })
		}
		return group.Wait()
	}, func() error { return everywhere(b.theirs, there) })
}

// copies makes a file for each member with what it got from us, for the namespace of plain kubectl; with another image
// if one is named.
func (b *bench) copies(ctx context.Context, image string) (map[string]string, error) {
	files := map[string]string{}
	for _, member := range members {
		objects, err := b.copiesOf(ctx, member, image)
		if err != nil {
			return nil, err
		}
		if files[member], err = b.write(member+".yaml", objects...); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func (b *bench) copiesOf(ctx context.Context, member, image string) ([]client.Object, error) {
	in := client.InNamespace(tenant + "-" + member)
	var deployments appsv1.DeploymentList
	if err := b.Clusters[member].List(ctx, &deployments, in); err != nil {
		return nil, fmt.Errorf("listing deployments: %w", err)
	}
	var services corev1.ServiceList
	if err := b.Clusters[member].List(ctx, &services, in); err != nil {
		return nil, fmt.Errorf("listing services: %w", err)
	}
	var objects []client.Object
	for i := range deployments.Items {
		d := &deployments.Items[i]
		d.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
		d.ObjectMeta = metav1.ObjectMeta{Name: d.Name, Namespace: plain, Labels: d.Labels}
		if image != "" {
			d.Spec.Template.Spec.Containers[0].Image = image
		}
		objects = append(objects, d)
	}
	for i := range services.Items {
		s := &services.Items[i]
		s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
		s.ObjectMeta = metav1.ObjectMeta{Name: s.Name, Namespace: plain, Labels: s.Labels}
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		objects = append(objects, s)
	}
	return objects, nil
}

// clean removes everything from both sides and waits until it is gone.
func (b *bench) clean(ctx context.Context) error {
	if err := b.kubectl(ctx, journey.Hub, "-n", tenant, "delete", "applications", "--all", "--wait=true"); err != nil {
		return err
	}
	for _, member := range members {
		if err := b.kubectl(ctx, member, "-n", plain, "delete", "deployments,services", "--all", "--wait=true"); err != nil {
			return err
		}
	}
	none := func(o *observer) error {
		return o.until(ctx, "the members to be empty", func() bool {
			return len(o.values)+len(o.services)+len(o.pods) == 0
		})
	}
	if err := everywhere(b.ours, none); err != nil {
		return err
	}
	return everywhere(b.theirs, none)
}
