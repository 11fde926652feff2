// Package manifest says, without looking at any cluster, which objects a partition holds of an application: a revision,
// a partition and a track in, a list of objects per component out. Selectors are decided here and nowhere else.
package manifest

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Input is everything that the objects depend on.
type Input struct {
	// Partition they are for; its namespace on the hub names the tenant.
	Partition *v1alpha1.Partition
	// Revision that runs.
	Revision *v1alpha1.ApplicationRevision
	// Track has the numbers of replicas, and the suffix of names.
	Track v1alpha1.Track
	// Beside is what runs already where the track is a candidate; nil for the stable one.
	Beside *Beside
	// RollingUpdate bounds how Deployments exchange their pods; nil for the defaults.
	RollingUpdate *v1alpha1.RollingUpdateStrategy
	// Stopped takes away the pods and leaves the rest.
	Stopped bool
	// Configurations are the hub's ConfigMaps and Secrets that hold the pinned versions, by the configuration's name.
	Configurations map[string]client.Object
}

// Beside is the stable track beside a candidate.
type Beside struct {
	Track    v1alpha1.Track                `json:"track"`
	Revision *v1alpha1.ApplicationRevision `json:"revision"`
}

// component of the stable revision; nil if it has none of the name.
func (b *Beside) component(name string) *v1alpha1.Component {
	for i := range b.Revision.Spec.Components {
		if c := &b.Revision.Spec.Components[i]; c.Name == name {
			return c
		}
	}
	return nil
}

// Manifests are the objects of one track of an application in one partition.
type Manifests struct {
	// Shared are the configurations, which components and applications of the partition may have in common.
	Shared []client.Object
	// Components in the order of the revision.
	Components []Component
}

// Component is the objects of one component.
type Component struct {
	// Name of the component.
	Name string
	// DependsOn names the components that have to be ready before this one.
	DependsOn []string
	// Workload is the object that holds the pods; nil if there are none.
	Workload client.Object
	// Lent says that the stable track's pods serve this one, too: they cannot be there twice.
	Lent bool
	// Objects are all of them, the workload included.
	Objects []client.Object
}

// Render makes the manifests. An error says what in the revision contradicts itself.
func Render(in Input) (*Manifests, error) {
	r := renderer{Input: in, pins: map[string]v1alpha1.ConfigurationPin{}}
	for _, pin := range in.Revision.Spec.Configurations {
		r.pins[pin.Name] = pin
	}
	out := &Manifests{}
	var err error
	if out.Shared, err = r.configurations(); err != nil {
		return nil, err
	}
	for i := range in.Revision.Spec.Components {
		c, err := r.component(in.Revision.Spec.Components[i].DeepCopy())
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", in.Revision.Spec.Components[i].Name, err)
		}
		out.Components = append(out.Components, *c)
	}
	return out, Unique(out)
}

// All lists every object, those that others need first.
func (m *Manifests) All() []client.Object {
	all := append([]client.Object{}, m.Shared...)
	for _, c := range m.Components {
		all = append(all, c.Objects...)
	}
	return all
}

type renderer struct {
	Input
	pins map[string]v1alpha1.ConfigurationPin
}

func (r *renderer) component(c *v1alpha1.Component) (*Component, error) {
	override := r.override(c.Name)
	out := &Component{Name: c.Name, DependsOn: c.DependsOn, Lent: r.lent(c)}
	if c.Workload != v1alpha1.WorkloadExternal && !out.Lent {
		workload, err := r.workload(c, override)
		if err != nil {
			return nil, err
		}
		if workload != nil {
			out.Workload = workload
			out.Objects = append(out.Objects, workload)
		}
	}
	services, err := r.services(c, override)
	if err != nil {
		return nil, err
	}
	out.Objects = append(out.Objects, services...)
	return out, nil
}

// lent says whether a candidate's component is the stable track's. One that the stable revision does not have comes with
// the candidate, but jobs: they run when it is promoted.
func (r *renderer) lent(c *v1alpha1.Component) bool {
	if r.Beside == nil {
		return false
	}
	if beside, _ := c.RunsBesideItself(); beside {
		return false
	}
	return r.Beside.component(c.Name) != nil || c.Workload == v1alpha1.WorkloadJob || c.Workload == v1alpha1.WorkloadCronJob
}

// override is what the partition changes in a component; empty if nothing.
func (r *renderer) override(component string) v1alpha1.Override {
	for _, partition := range r.Revision.Spec.Overrides {
		if partition.Partition != r.Partition.Name {
			continue
		}
		for _, o := range partition.Overrides {
			if o.Component == component {
				return o
			}
		}
	}
	return v1alpha1.Override{}
}

// labels of everything made for a component.
func (r *renderer) labels(component string) map[string]string {
	return map[string]string{
		v1alpha1.LabelTenant:      r.Partition.Namespace,
		v1alpha1.LabelPartition:   r.Partition.Name,
		v1alpha1.LabelApplication: r.Revision.Spec.Application,
		v1alpha1.LabelComponent:   component,
	}
}

func (r *renderer) meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: r.Partition.MemberNamespace(), Labels: labels}
}

// jobName is different for every revision, because a Job cannot be changed.
func (r *renderer) jobName(component string) string {
	const length = 8
	hash := strings.TrimPrefix(r.Revision.Name, r.Revision.Spec.Application+"-")
	if len(hash) > length {
		hash = hash[:length]
	}
	return component + "-" + hash
}

// Unique refuses two objects of the same kind and name, of one track or of two: one would overwrite the other. What
// tracks share is the same in both.
func Unique(tracks ...*Manifests) error {
	owners := map[string]string{}
	for _, m := range tracks {
		for _, c := range m.Components {
			for _, o := range c.Objects {
				key := o.GetObjectKind().GroupVersionKind().Kind + " " + o.GetName()
				if other, taken := owners[key]; taken {
					return fmt.Errorf("components %s and %s would both make the %s: rename one of them", other, c.Name, key)
				}
				owners[key] = c.Name
			}
		}
	}
	return nil
}
