package partition

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const quotaName = "yunfan"

// identity are the labels by which the platform knows what it made for a partition.
func identity(p *v1alpha1.Partition) map[string]string {
	return map[string]string{v1alpha1.LabelTenant: p.Namespace, v1alpha1.LabelPartition: p.Name}
}

func owned(p *v1alpha1.Partition, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: p.MemberNamespace(), Name: name, Labels: identity(p)}
}

// objects gives what the partition is made of in its cluster, in the order in which it is applied, and what of it must
// not be there.
func objects(p *v1alpha1.Partition, adopted bool) (wanted, unwanted []client.Object) {
	wanted = append(wanted, namespace(p, adopted))
	sort := func(o client.Object, want bool) {
		if want {
			wanted = append(wanted, o)
		} else {
			unwanted = append(unwanted, o)
		}
	}
	sort(&corev1.ResourceQuota{
		ObjectMeta: owned(p, quotaName), Spec: corev1.ResourceQuotaSpec{Hard: p.Spec.Quota},
	}, len(p.Spec.Quota) > 0)
	sort(&corev1.LimitRange{
		ObjectMeta: owned(p, quotaName), Spec: corev1.LimitRangeSpec{Limits: p.Spec.Limits},
	}, len(p.Spec.Limits) > 0)
	unwanted = append(unwanted, formerRights(p)...)
	return append(wanted, rights(p)...), unwanted
}

func namespace(p *v1alpha1.Partition, adopted bool) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: p.MemberNamespace(), Labels: map[string]string{}, Annotations: map[string]string{},
	}}
	for key, value := range p.Labels {
		if !strings.Contains(key, "/") { // those with a prefix mean something to somebody: ours, Kubernetes', a policy engine's
			ns.Labels[key] = value
		}
	}
	maps.Copy(ns.Labels, identity(p))
	level := strings.ToLower(string(p.Spec.PodSecurity))
	if level == "" {
		level = "baseline"
	}
	for _, mode := range []string{"enforce", "warn"} {
		ns.Labels["pod-security.kubernetes.io/"+mode] = level
	}
	if len(p.Spec.Nodes.Selector) > 0 {
		ns.Annotations[v1alpha1.AnnotationNodeSelector] = selectorText(p.Spec.Nodes.Selector)
	}
	if adopted {
		ns.Annotations[v1alpha1.AnnotationAdopted] = "true"
	}
	return ns
}

// selectorText is the form that the admission policy reads. Label keys and values have neither commas nor equal signs.
func selectorText(selector map[string]string) string {
	pairs := make([]string, 0, len(selector))
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		pairs = append(pairs, key+"="+selector[key])
	}
	return strings.Join(pairs, ",")
}

// reserved says why a namespace cannot be a partition's; empty if it can.
func reserved(name string) string {
	switch {
	case name == "default", strings.HasPrefix(name, "kube-"), strings.HasPrefix(name, "yunfan"):
		return fmt.Sprintf("namespace %s belongs to the system: set spec.namespace to another", name)
	case len(name) > 63:
		return fmt.Sprintf("the namespace's name %s has more than 63 characters: set spec.namespace to a shorter one", name)
	}
	return ""
}
