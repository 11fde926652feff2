package application

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/placement"
	"yunfan.io/yunfan/internal/reconcile"
)

// Plan is what an application's spec comes to in the world as it is.
type Plan struct {
	// Revision is complete and named. It may exist already.
	Revision *v1alpha1.ApplicationRevision
	// Deliveries are those that should be, in the order of placement, with metadata and spec.
	Deliveries []v1alpha1.Delivery
	// Assignments explain them, in the same order.
	Assignments []placement.Assignment
	// NodePorts are those the services will have.
	NodePorts []v1alpha1.NodePortSpec
	// Approval are the partitions that the revision reaches only after somebody has approved it.
	Approval []string
}

// NewPlan reads what the application depends on, validates it and gives the plan. It writes nothing. An error of kind
// reconcile.Stalled says what is wrong with the application; one of kind reconcile.Waiting what is not there yet.
func NewPlan(ctx context.Context, reader client.Reader, app *v1alpha1.Application) (*Plan, error) {
	w, err := load(ctx, reader, app)
	if err != nil {
		return nil, err
	}
	return w.plan()
}

// plan is the one validation and the one way from a spec to deliveries: controller, webhook and preview use it.
func (w *world) plan() (*Plan, error) {
	if err := validate(&w.app.Spec); err != nil {
		return nil, err
	}
	choices, err := w.choose()
	if err != nil {
		return nil, err
	}
	revision, err := w.revision(choices)
	if err != nil {
		return nil, err
	}
	p := &Plan{Revision: revision}
	p.Assignments = placement.Place(&w.app.Spec, w.candidates(choices))
	for i := range p.Assignments {
		p.Deliveries = append(p.Deliveries, w.delivery(&p.Assignments[i], revision.Name))
		p.NodePorts = append(p.NodePorts, nodePortsOf(w.app.Namespace, revision, p.Assignments[i].Partition, p.Assignments[i].Cluster)...)
	}
	for _, check := range []error{w.checkNodePorts(p.NodePorts), w.checkNames(p), w.checkQuota(choices, p)} {
		if check != nil {
			return nil, check
		}
	}
	p.Approval = w.needApproval(p)
	return p, nil
}

// choose resolves the placement.
func (w *world) choose() ([]placement.Choice, error) {
	choices, err := placement.Choose(w.app.Spec.Placement.Partitions, w.partitions, w.clusters,
		func(partition string) bool { return w.deliveries[partition] != nil })
	var notFound *placement.NotFoundError
	switch {
	case errors.As(err, &notFound):
		return nil, &reconcile.Stalled{Reason: v1alpha1.ReasonPartitionNotFound, Err: err}
	case err != nil:
		return nil, &reconcile.Stalled{Reason: v1alpha1.ReasonInvalid, Err: err}
	}
	return choices, nil
}

// candidates add to the choices what placement has to know.
func (w *world) candidates(choices []placement.Choice) []placement.Candidate {
	explanations := map[string][]string{}
	for i := range w.app.Status.Placements {
		explanations[w.app.Status.Placements[i].Partition] = w.app.Status.Placements[i].Explanation
	}
	candidates := make([]placement.Candidate, len(choices))
	for i, choice := range choices {
		p := choice.Partition
		c := placement.Candidate{
			Partition: p.Name, Cluster: p.Spec.Cluster, Weight: choice.Weight, Room: roomOf(p),
			Ready:       isReady(p.Status.Conditions) && p.DeletionTimestamp == nil,
			Pod:         podsOf(w.app.Spec.Components, choice.Overrides, p.Spec.Limits),
			Explanation: explanations[p.Name],
		}
		if d := w.deliveries[p.Name]; d != nil && d.DeletionTimestamp == nil {
			c.Replicas = stableTrack(d).Replicas
		}
		candidates[i] = c
	}
	return candidates
}

// delivery is what a partition should get.
func (w *world) delivery(a *placement.Assignment, revision string) v1alpha1.Delivery {
	d := v1alpha1.Delivery{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.app.Namespace, Name: v1alpha1.DeliveryName(w.app.Name, a.Partition),
			Labels: map[string]string{
				v1alpha1.LabelApplication: w.app.Name, v1alpha1.LabelPartition: a.Partition, v1alpha1.LabelCluster: a.Cluster,
			},
			Finalizers:      []string{v1alpha1.FinalizerDelivery}, // saves the delivery controller a write
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.app, v1alpha1.GroupVersion.WithKind("Application"))},
		},
		Spec: v1alpha1.DeliverySpec{
			Application: w.app.Name, Partition: a.Partition, Cluster: a.Cluster, Stopped: w.app.Spec.Stopped,
			Tracks:        []v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: revision, Replicas: a.Replicas}},
			RollingUpdate: w.app.Spec.Strategy.RollingUpdate,
		},
	}
	if there := w.there(&d); there != nil { // names stay, and so does what it gets of the traffic
		d.Spec.Tracks[0].Suffix, d.Spec.Traffic = stableTrack(there).Suffix, there.Spec.Traffic
	}
	return d
}

// checkNames refuses components whose objects would have the names of another application's in the same partition. Of
// two that were delivered at the same time the older keeps the name.
func (w *world) checkNames(p *Plan) error {
	mine := map[string]bool{}
	for i := range p.Revision.Spec.Components {
		mine[p.Revision.Spec.Components[i].Name] = true
	}
	wanted := map[string]bool{}
	for i := range p.Assignments {
		wanted[p.Assignments[i].Partition] = true
	}
	var problems []string
	for _, other := range w.others {
		if !wanted[other.Spec.Partition] || olderThan(w.deliveries[other.Spec.Partition], other) {
			continue
		}
		for _, name := range componentsIn(other) {
			if mine[name] {
				problems = append(problems, fmt.Sprintf("application %s already has a component %s in partition %s", other.Spec.Application, name, other.Spec.Partition))
			}
		}
	}
	if problems != nil {
		slices.Sort(problems)
		return reconcile.Stall(v1alpha1.ReasonInvalid, "%s: rename the component or choose another partition", strings.Join(problems, "; "))
	}
	return nil
}

// olderThan says whether ours was there before other; false if ours is not there.
func olderThan(ours, other *v1alpha1.Delivery) bool {
	if ours == nil {
		return false
	}
	if ours.CreationTimestamp.Equal(&other.CreationTimestamp) {
		return ours.Name < other.Name
	}
	return ours.CreationTimestamp.Before(&other.CreationTimestamp)
}

// componentsIn are the names of a delivery's components, from what it should have and what it has.
func componentsIn(d *v1alpha1.Delivery) []string {
	names := map[string]bool{}
	for _, track := range d.Spec.Tracks {
		for name := range track.Replicas {
			names[name] = true
		}
	}
	for _, entry := range d.Status.Inventory {
		if entry.Component != "" {
			names[entry.Component] = true
		}
	}
	return sortedKeys(names)
}

// pins gives the versions of the configurations the components use. They are those of the revision while version and
// components stay as they are, also when that revision is taken up again by a rollback; else the newest.
func (w *world) pins(choices []placement.Choice) ([]v1alpha1.ConfigurationPin, error) {
	names := sortedKeys(configurationsOf(w.app.Spec.Components))
	if len(names) == 0 {
		return nil, nil
	}
	same := w.sameComponents()
	var pins []v1alpha1.ConfigurationPin
	var problems []string
	for _, name := range names {
		c := w.configurations[name]
		switch {
		case c == nil, c.DeletionTimestamp != nil && same == nil:
			problems = append(problems, fmt.Sprintf("no configuration %s", name))
			continue
		case c.Status.Version == "" && !meta.IsStatusConditionFalse(c.Status.Conditions, v1alpha1.ConditionReady):
			return nil, reconcile.Wait(v1alpha1.ReasonReconciling, configurationCheck, "configuration %s is not stored yet", name)
		case c.Status.Version == "":
			problems = append(problems, fmt.Sprintf("configuration %s has no version: its status says why", name))
			continue
		}
		problems = append(problems, w.unpublished(c, choices)...)
		problems = append(problems, w.wrongCredentials(c)...)
		version := c.Status.Version
		if same != nil {
			version = pinned(same, name, version)
		}
		pins = append(pins, v1alpha1.ConfigurationPin{Name: name, Type: c.Spec.Type, Version: version})
	}
	if problems != nil {
		return nil, reconcile.Stall(v1alpha1.ReasonConfigurationNotFound, "%s", strings.Join(problems, "; "))
	}
	return pins, nil
}

// configurationCheck is how soon an application looks again for a configuration that is not stored yet, if no event
// tells it earlier.
const configurationCheck = 10 * time.Second

// wrongCredentials names the components that want to pull images with a configuration that holds something else.
func (w *world) wrongCredentials(c *v1alpha1.Configuration) (problems []string) {
	if c.Spec.SecretType == corev1.SecretTypeDockerConfigJson {
		return nil
	}
	for i := range w.app.Spec.Components {
		component := &w.app.Spec.Components[i]
		if component.Template != nil && slices.ContainsFunc(component.Template.Spec.ImagePullSecrets, func(s corev1.LocalObjectReference) bool { return s.Name == c.Name }) {
			problems = append(problems, fmt.Sprintf("component %s: imagePullSecrets names %s, which is no %s: write it with 'yunfan secret set --registry'", component.Name, c.Name, corev1.SecretTypeDockerConfigJson))
		}
	}
	return problems
}

// unpublished names the partitions in which a configuration may not be used. Where the application is delivered already
// it may stay.
func (w *world) unpublished(c *v1alpha1.Configuration, choices []placement.Choice) (problems []string) {
	for _, choice := range choices {
		name := choice.Partition.Name
		published := c.Spec.Publication == v1alpha1.PublicationAll || c.Spec.Publication == "" ||
			(c.Spec.Publication == v1alpha1.PublicationSelected && slices.Contains(c.Spec.Partitions, name))
		if !published && w.deliveries[name] == nil {
			problems = append(problems, fmt.Sprintf("configuration %s is not published to partition %s: publish it there or choose another", c.Name, name))
		}
	}
	return problems
}
