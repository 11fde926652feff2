//go:build e2e

package partition_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func TestRES01SameNameInTwoPartitions(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	address := func(namespace string) string {
		return j.Kubectl(journey.Beijing, "-n", namespace, "get", "service", "myweb", "--ignore-not-found", "-o", "jsonpath={.spec.clusterIP}")
	}
	for _, name := range []string{"blue", "green"} {
		j.Partition(name, journey.Beijing)
		// The service is named after the component, here the same in both.
		j.Ready(j.Application(name, journey.In(name), journey.Echo("myweb", journey.Readiness("/healthz"))))
	}
	blue, green := address(j.Tenant+"-blue"), address(j.Tenant+"-green")
	j.Expect(blue).NotTo(BeEmpty())
	j.Expect(blue).NotTo(Equal(green))
	pod := j.Pods(journey.Beijing, j.Tenant+"-blue", "")[0].Name
	for namespace, want := range map[string]string{j.Tenant + "-blue": blue, j.Tenant + "-green": green} {
		j.Expect(j.Kubectl(journey.Beijing, "-n", j.Tenant+"-blue", "exec", pod, "--", "/bin/nslookup", "myweb."+namespace+".svc")).To(Equal(want + "\n"))
	}
	j.Kubectl(journey.Hub, "-n", j.Tenant, "delete", "application", "green")
	j.Eventually(func() string { return address(j.Tenant + "-green") }).Should(BeEmpty())
	j.Expect(address(j.Tenant + "-blue")).To(Equal(blue))
}

func TestRES06Quota(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	sample := corev1.ResourceList{}
	for name, value := range map[corev1.ResourceName]string{
		"requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "2", "limits.memory": "2Gi", "pods": "4", "configmaps": "10",
		"persistentvolumeclaims": "4", "replicationcontrollers": "20", "secrets": "10", "services": "10", "services.loadbalancers": "2",
	} {
		sample[name] = resource.MustParse(value)
	}
	p := j.Partition("small", journey.Beijing, func(s *v1alpha1.PartitionSpec) {
		s.Quota = sample
		s.Limits = []corev1.LimitRangeItem{{
			Type:           corev1.LimitTypeContainer,
			Default:        corev1.ResourceList{"cpu": resource.MustParse("200m"), "memory": resource.MustParse("64Mi")},
			DefaultRequest: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("32Mi")},
		}}
	})
	var quota corev1.ResourceQuota
	j.Expect(j.Clusters[journey.Beijing].Get(j.Context(), client.ObjectKey{Namespace: p.MemberNamespace(), Name: "yunfan"}, &quota)).To(Succeed())
	j.Expect(quota.Spec.Hard).To(HaveLen(len(sample)))

	for resource, component := range map[string]v1alpha1.Component{
		"pods":          journey.Echo("many", journey.Replicas(5)),
		"limits.memory": journey.Echo("big", journey.Resources("100m", "3Gi")),
		"requests.cpu":  journey.Echo("busy", journey.Resources("600m", "32Mi"), journey.Replicas(2)),
	} {
		j.Refused(component.Name, journey.In("small"), component, "small", resource)
		j.Expect(j.Pods(journey.Beijing, p.MemberNamespace(), component.Name)).To(BeEmpty(), "nothing is applied")
	}

	a := j.Application("fits", journey.In("small"), journey.Echo("fits", journey.Replicas(4)))
	j.Ready(a)
	j.Eventually(func() string {
		if err := j.Get(p); err != nil {
			return err.Error()
		}
		return p.Status.Used.Pods().String() + " of " + p.Status.Hard.Pods().String()
	}).Should(Equal("4 of 4"))
	defaulted := j.Pods(journey.Beijing, p.MemberNamespace(), "fits")[0].Spec.Containers[0].Resources
	j.Expect(defaulted.Requests.Cpu().String()+" "+defaulted.Limits.Memory().String()).To(Equal("100m 64Mi"), "RES-08 defaults of the LimitRange")
}

func TestRES01NamespacesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	foreign := "foreign-" + j.Tenant
	j.Kubectl(journey.Beijing, "create", "namespace", foreign)
	t.Cleanup(func() { j.Try(journey.Beijing, "delete", "namespace", foreign) })
	partition := func(name, namespace string, adopt bool) *v1alpha1.Partition {
		return &v1alpha1.Partition{
			ObjectMeta: journey.Named(j.Tenant, name),
			Spec:       v1alpha1.PartitionSpec{Cluster: journey.Beijing, Namespace: namespace, Adopt: adopt},
		}
	}
	for _, namespace := range []string{"kube-system", "default", "yunfan-system"} {
		j.Expect(j.Hub().Create(j.Context(), partition("system", namespace, false))).To(MatchError(ContainSubstring("belong to the system")))
	}
	taken := partition("taken", foreign, false)
	j.Create(taken)
	j.Eventually(j.Condition(taken, v1alpha1.ConditionReady)).Should(HavePrefix("False " + v1alpha1.ReasonNamespaceTaken))
	j.Expect(j.Kubectl(journey.Beijing, "-n", foreign, "get", "resourcequota,limitrange,rolebinding", "-o", "name")).To(BeEmpty(), "it is not touched")
	j.Kubectl(journey.Hub, "-n", j.Tenant, "delete", "partition", "taken")
	j.Expect(j.Kubectl(journey.Beijing, "get", "namespace", foreign, "-o", "jsonpath={.status.phase}")).To(Equal("Active"))

	adopted := partition("adopted", foreign, true)
	j.Create(adopted)
	j.Eventually(j.Condition(adopted, v1alpha1.ConditionReady)).Should(HavePrefix("True"))
	j.Kubectl(journey.Hub, "-n", j.Tenant, "delete", "partition", "adopted")
	j.Expect(j.Kubectl(journey.Beijing, "get", "namespace", foreign, "-o", "jsonpath={.status.phase}")).To(Equal("Active"), "it stays")
}

func TestRES01DeletionWaitsForApplications(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing)
	a := j.Application("web", journey.In("bj"), journey.Echo("web"))
	j.Ready(a)
	j.Expect(j.Hub().Delete(j.Context(), p)).To(Succeed())
	j.Eventually(j.Condition(p, v1alpha1.ConditionReady)).Should(And(HavePrefix("False "+v1alpha1.ReasonDeliveriesExist), ContainSubstring("web")))
	j.Expect(j.Pods(journey.Beijing, p.MemberNamespace(), "web")).NotTo(BeEmpty())
	j.Expect(j.Hub().Delete(j.Context(), a)).To(Succeed())
	j.Eventually(func() error { return j.Get(p) }).Should(MatchError(ContainSubstring("not found")))
	j.Expect(j.Kubectl(journey.Beijing, "get", "namespace", p.MemberNamespace(), "--ignore-not-found", "-o", "name")).To(BeEmpty())
}

// Not parallel: the nodes of a cluster are taken from everybody else.
func TestRES01NodePoolOfOneTenant(t *testing.T) {
	j := journey.Begin(t)
	var nodes corev1.NodeList
	j.Expect(j.Clusters[journey.Beijing].List(j.Context(), &nodes)).To(Succeed())
	own, common := nodes.Items[1].Name, nodes.Items[0].Name
	j.Kubectl(journey.Beijing, "label", "node", own, "pool="+j.Tenant)
	t.Cleanup(func() { j.Try(journey.Beijing, "label", "node", own, "pool-") })
	j.Partition("pool", journey.Beijing, func(s *v1alpha1.PartitionSpec) {
		s.Nodes = v1alpha1.NodePool{Selector: map[string]string{"pool": j.Tenant}, Exclusive: true}
	})
	a := j.Application("web", journey.In("pool"), journey.Echo("web", journey.Replicas(3)))
	j.Ready(a)
	for _, pod := range j.Pods(journey.Beijing, j.Tenant+"-pool", "web") {
		j.Expect(pod.Spec.NodeName).To(Equal(own))
	}

	other := journey.Begin(t)
	other.Partition("rest", journey.Beijing)
	b := other.Application("web", journey.In("rest"), journey.Echo("web", journey.Replicas(3)))
	other.Ready(b)
	for _, pod := range other.Pods(journey.Beijing, other.Tenant+"-rest", "web") {
		other.Expect(pod.Spec.NodeName).To(Equal(common), "nobody else gets the tenant's node")
	}
	intruder := other.Application("intruder", journey.In("rest"), journey.Echo("intruder", func(c *v1alpha1.Component, _ *corev1.Container) {
		c.Template.Spec.Tolerations = []corev1.Toleration{{Key: v1alpha1.TaintTenant, Value: j.Tenant, Effect: corev1.TaintEffectNoSchedule}}
	}))
	other.Eventually(func() string {
		p := other.Placement(intruder, "rest")
		return p.Reason + " " + p.Message
	}).Should(And(HavePrefix(v1alpha1.ReasonRefused), ContainSubstring(v1alpha1.TaintTenant)))
	other.Expect(other.Pods(journey.Beijing, other.Tenant+"-rest", "intruder")).To(BeEmpty())
}

func TestRES11ExternalServicesAndNodePorts(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	port := journey.Port()
	target := j.Application("target", journey.In("bj"), journey.Echo("target", journey.NodePort(port), journey.Readiness("/healthz")))
	j.Ready(target)
	var reserved v1alpha1.NodePort
	j.Expect(j.Hub().Get(j.Context(), client.ObjectKey{Name: v1alpha1.NodePortName(journey.Beijing, port)}, &reserved)).To(Succeed())
	j.Expect(reserved.Spec.Owner).To(Equal(v1alpha1.NodePortOwner{Tenant: j.Tenant, Application: "target", Partition: "bj", Component: "target", PortName: "http"}))

	// A host outside the cluster: here the address of a pod, which the cluster's own names do not lead to.
	address := j.Pods(journey.Beijing, j.Tenant+"-bj", "target")[0].Status.PodIP
	outside := v1alpha1.Component{
		Name: "externalservice1", Workload: v1alpha1.WorkloadExternal,
		External: &v1alpha1.External{Addresses: []string{address}},
		Service:  &v1alpha1.Service{Ports: []v1alpha1.ServicePort{{Name: "http", Port: 8080}}},
	}
	a := j.Application("caller", journey.In("bj"), outside, journey.Echo("caller", journey.DependsOn("externalservice1")))
	j.Ready(a)
	pod := j.Pods(journey.Beijing, j.Tenant+"-bj", "caller")[0].Name
	j.Eventually(func() string {
		return j.Try(journey.Beijing, "-n", j.Tenant+"-bj", "exec", pod, "--", "/bin/get", "http://externalservice1:8080/hostname")
	}).Should(ContainSubstring("target"))
	j.Expect(j.Hub().Delete(j.Context(), target)).To(Succeed())
	j.Eventually(func() error {
		return j.Hub().Get(j.Context(), client.ObjectKey{Name: v1alpha1.NodePortName(journey.Beijing, port)}, &reserved)
	}).Should(MatchError(ContainSubstring("not found")), "the port is free again")
}

func TestRES01IsolationIsWritten(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	p := j.Partition("bj", journey.Beijing, func(s *v1alpha1.PartitionSpec) { s.Isolation.Ingress = v1alpha1.IsolationPartition })
	j.Expect(j.Kubectl(journey.Beijing, "-n", p.MemberNamespace(), "get", "networkpolicy", "yunfan-ingress", "-o", "jsonpath={.spec.policyTypes}")).
		To(ContainSubstring("Ingress"))
	labels := metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}}
	j.Expect(j.Clusters[journey.Beijing].Get(j.Context(), client.ObjectKey{Name: p.MemberNamespace()}, &labels)).To(Succeed())
	j.Expect(labels.Labels).To(And(HaveKeyWithValue("pod-security.kubernetes.io/enforce", "baseline"), HaveKeyWithValue(v1alpha1.LabelTenant, j.Tenant)))
}
