//go:build e2e

package cluster_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func TestCLU02StatusEqualsTheCluster(t *testing.T) {
	j := journey.Begin(t)
	for name, nodes := range map[string]int32{journey.Beijing: 2, journey.Shanghai: 1} {
		var cluster v1alpha1.Cluster
		j.Expect(j.Hub().Get(j.Context(), client.ObjectKey{Name: name}, &cluster)).To(Succeed())
		j.Expect(cluster.Status.Nodes).To(Equal(v1alpha1.NodeCount{Total: nodes, Ready: nodes}))
		version, err := j.Clusters[name].Set.Discovery().ServerVersion()
		j.Expect(err).NotTo(HaveOccurred())
		j.Expect(cluster.Status.KubernetesVersion).To(Equal(version.GitVersion))
		j.Expect(time.Since(cluster.Status.LastSeenTime.Time)).To(BeNumerically("<", time.Minute))
	}
	j.Expect(j.Kubectl(journey.Hub, "get", "clusters")).To(And(ContainSubstring("NODES"), ContainSubstring("VERSION"), ContainSubstring("beijing")))
}

func TestCLU06Capacity(t *testing.T) {
	j := journey.Begin(t)
	var nodes corev1.NodeList
	j.Expect(j.Clusters[journey.Beijing].List(j.Context(), &nodes)).To(Succeed())
	var cpu, memory resource.Quantity
	for _, n := range nodes.Items {
		cpu.Add(*n.Status.Allocatable.Cpu())
		memory.Add(*n.Status.Allocatable.Memory())
	}
	var cluster v1alpha1.Cluster
	j.Expect(j.Hub().Get(j.Context(), client.ObjectKey{Name: journey.Beijing}, &cluster)).To(Succeed())
	j.Expect(cluster.Status.Allocatable.Cpu().Cmp(cpu)).To(BeZero(), "%s, nodes have %s", cluster.Status.Allocatable.Cpu(), &cpu)
	j.Expect(cluster.Status.Allocatable.Memory().Cmp(memory)).To(BeZero())
	j.Expect(cluster.Status.Requested.Pods().Value()).To(BeNumerically(">", 0))
}

// join creates a Cluster with a kubeconfig, and removes both by force at the end.
func join(j *journey.Journey, kubeconfig string, change ...func(*v1alpha1.ClusterSpec)) *v1alpha1.Cluster {
	j.Helper()
	name := "c-" + rand.String(5)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "yunfan-system", Name: name + "-kubeconfig"},
		Data:       map[string][]byte{"kubeconfig": []byte(kubeconfig)},
	}
	cluster := &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: secret.Name}}},
	}
	for _, c := range change {
		c(&cluster.Spec)
	}
	j.Create(secret, cluster)
	j.T.Cleanup(func() { j.Forget(cluster, secret) })
	return cluster
}

func TestCLU01WhatCannotBeJoinedSaysWhy(t *testing.T) {
	outer := journey.Begin(t)
	good, err := os.ReadFile(outer.DataDir + "/kubeconfig/beijing.kubeconfig")
	outer.Expect(err).NotTo(HaveOccurred())
	field := func(text, name string) string {
		_, rest, _ := strings.Cut(text, name+": ")
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	other, err := os.ReadFile(outer.DataDir + "/kubeconfig/shanghai.kubeconfig")
	outer.Expect(err).NotTo(HaveOccurred())
	for name, tc := range map[string]struct {
		reason     string
		kubeconfig string
		want       string
	}{
		"malformed": {
			reason: "text that is no kubeconfig is refused", kubeconfig: "not: [a kubeconfig",
			want: v1alpha1.ReasonCredentialsInvalid,
		},
		"wrong CA": {
			reason:     "a server whose certificate another authority signed is not trusted",
			kubeconfig: strings.Replace(string(good), field(string(good), "certificate-authority-data"), field(string(other), "certificate-authority-data"), 1),
			want:       v1alpha1.ReasonCredentialsInvalid,
		},
		"program": {
			reason:     "a kubeconfig must not start programs on the hub",
			kubeconfig: strings.Replace(string(good), "client-certificate-data: ", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true}\n    x: ", 1),
			want:       v1alpha1.ReasonCredentialsInvalid,
		},
		"nobody there": {
			reason:     "an address that nobody answers at is unreachable",
			kubeconfig: strings.Replace(string(good), field(string(good), "server"), "https://127.0.0.1:1", 1),
			want:       v1alpha1.ReasonUnreachable,
		},
		"joined already": {
			reason: "one cluster has one name", kubeconfig: string(good),
			want: v1alpha1.ReasonAlreadyJoined,
		},
	} {
		t.Run(name, func(t *testing.T) {
			j := journey.Begin(t)
			cluster := join(j, tc.kubeconfig)
			j.Eventually(j.Condition(cluster, v1alpha1.ConditionReady)).WithTimeout(20*time.Second).Should(HavePrefix("False "+tc.want), tc.reason)
			message, err := j.Condition(cluster, v1alpha1.ConditionReady)()
			j.Expect(err).NotTo(HaveOccurred())
			key := field(string(good), "client-key-data")
			plain, err := base64.StdEncoding.DecodeString(key)
			j.Expect(err).NotTo(HaveOccurred())
			j.Expect(message).NotTo(Or(ContainSubstring(key[:40]), ContainSubstring(string(plain[60:100]))), "no key in a status")
		})
	}
}

func TestCLU01RemovalKeepsOrDeletesWorkloads(t *testing.T) {
	for _, policy := range []v1alpha1.RemovalPolicy{v1alpha1.RemovalKeep, v1alpha1.RemovalDelete} {
		t.Run(string(policy), func(t *testing.T) {
			j := journey.Begin(t)
			extra := "x-" + rand.String(4)
			j.Drill("cluster", "add", extra, "--nodes", "1")
			t.Cleanup(func() { j.DrillLater("cluster", "remove", extra) })
			kubeconfig, err := os.ReadFile(j.DataDir + "/kubeconfig/" + extra + ".kubeconfig")
			j.Expect(err).NotTo(HaveOccurred())
			cluster := join(j, string(kubeconfig), func(s *v1alpha1.ClusterSpec) { s.OnRemoval = policy })
			j.Eventually(j.Condition(cluster, v1alpha1.ConditionReady)).Should(HavePrefix("True"))
			j.Partition("extra", cluster.Name)
			a := j.Application("web", journey.In("extra"), journey.Echo("web", journey.Readiness("/healthz")))
			j.Ready(a)
			kubectl := func(args ...string) string {
				return j.KubectlWith(j.DataDir+"/kubeconfig/"+extra+".kubeconfig", args...)
			}
			pod := func() string { return kubectl("-n", j.Tenant+"-extra", "get", "pods", "-o", "name") }
			before := pod()
			j.Kubectl(journey.Hub, "delete", "cluster", cluster.Name, "--timeout=120s")
			if policy == v1alpha1.RemovalKeep {
				j.Expect(pod()).To(Equal(before), "the workload runs on undisturbed")
			} else {
				j.Eventually(func() string {
					return kubectl("get", "namespace", j.Tenant+"-extra", "--ignore-not-found", "-o", "name")
				}).Should(BeEmpty())
			}
			j.Eventually(func() string { return j.Placement(a, "extra").Reason }).Should(Equal(v1alpha1.ReasonClusterNotFound))
		})
	}
}

func TestCLU01DeadClusterIsRemovedByForce(t *testing.T) {
	j := journey.Begin(t)
	cluster := join(j, fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\n"+
		"users: [{name: u, user: {token: none}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n", "https://127.0.0.1:1"),
		func(s *v1alpha1.ClusterSpec) { s.OnRemoval = v1alpha1.RemovalDelete })
	j.Eventually(j.Condition(cluster, v1alpha1.ConditionReady)).Should(HavePrefix("False"))
	j.Create(&v1alpha1.Partition{ObjectMeta: journey.Named(j.Tenant, "lost"), Spec: v1alpha1.PartitionSpec{Cluster: cluster.Name}})
	j.Kubectl(journey.Hub, "delete", "cluster", cluster.Name, "--wait=false")
	j.Eventually(j.Condition(cluster, v1alpha1.ConditionReady)).Should(ContainSubstring(v1alpha1.AnnotationForceRemoval), "the message says how to go on")
	j.Kubectl(journey.Hub, "annotate", "cluster", cluster.Name, v1alpha1.AnnotationForceRemoval+"=true")
	j.Eventually(func() string {
		return j.Kubectl(journey.Hub, "get", "cluster", cluster.Name, "--ignore-not-found", "-o", "name")
	}).Should(BeEmpty())
}
