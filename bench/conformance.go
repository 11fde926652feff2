//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// suiteTime bounds a run of the conformance suite: what fails does so after a minute each.
const suiteTime = time.Hour

// conformanceReport is what the suite writes at its end.
type conformanceReport struct {
	Version  string `json:"gatewayAPIVersion"`
	Profiles []struct {
		Name     string       `json:"name"`
		Core     suiteResult  `json:"core"`
		Extended *suiteResult `json:"extended"`
	} `json:"profiles"`
}

type suiteResult struct {
	Result     string `json:"result"`
	Statistics struct{ Passed, Skipped, Failed int }
	Failed     []string `json:"failedTests"`
}

// conformance runs the suite of the Gateway API, which is no part of the product and built when it is asked for, against
// the gateway of a member as it is.
func (b *bench) conformance(ctx context.Context) error {
	for _, line := range []string{
		"make conformance",
		"bin/yunfan image push bin/conformance/echo-basic.tar --to unix:" + filepath.Join(b.dir, "registry", "push.sock"),
	} {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("running %s: %w: %s", line, err, out)
		}
	}
	gateway, err := b.gatewayOf(ctx, journey.Shanghai)
	if err != nil {
		return err
	}
	ports, err := b.openStandardPorts(ctx, journey.Shanghai)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(gateway.Address)
	if err != nil {
		return fmt.Errorf("reading the gateway's address: %w", err)
	}
	begun := time.Now()
	report, err := b.suite(ctx, net.JoinHostPort(host, ports["http"]), net.JoinHostPort(host, ports["https"]))
	if err != nil {
		return err
	}
	for _, profile := range report.Profiles {
		tell := func(level string, r *suiteResult) {
			figure(profile.Name+" "+level, "%s: %d passed, %d failed, %d skipped", r.Result, r.Statistics.Passed, r.Statistics.Failed, r.Statistics.Skipped)
			for _, name := range r.Failed {
				fmt.Printf("    failed: %s\n", name)
			}
		}
		tell("core", &profile.Core)
		if profile.Extended != nil {
			tell("extended", profile.Extended)
		}
	}
	figure("suite "+report.Version+" took", "%.0f s", time.Since(begun).Seconds())
	return nil
}

// suite runs the suite with the gateway's ports 80 and 443 at these addresses. That some of its tests fail is a result.
func (b *bench) suite(ctx context.Context, http, https string) (*conformanceReport, error) {
	ctx, cancel := context.WithTimeout(ctx, suiteTime)
	defer cancel()
	file, log := filepath.Join(b.dir, "conformance.yaml"), filepath.Join(b.dir, "conformance.log")
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("making a log: %w", err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "bin/conformance/suite", "-test.run=TestConformance", "-test.timeout="+suiteTime.String())
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(b.dir, "kubeconfig", journey.Shanghai+".kubeconfig"), "CONFORMANCE_HTTP="+http, "CONFORMANCE_HTTPS="+https,
		"CONFORMANCE_REPORT="+file, "CONFORMANCE_VERSION=traefik")
	if err = cmd.Run(); err != nil {
		fmt.Println("  (some tests failed:", err.Error()+")")
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text, _ := os.ReadFile(log) // as much as there is
		return nil, fmt.Errorf("the suite made no report: %s", text[max(0, len(text)-4096):])
	}
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	report := &conformanceReport{}
	if err := yaml.Unmarshal(data, report); err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	return report, nil
}

// gatewayOf waits for the gateway of a member.
func (b *bench) gatewayOf(ctx context.Context, name string) (*v1alpha1.GatewayReplica, error) {
	for {
		cluster := &v1alpha1.Cluster{}
		if err := b.Clusters[journey.Hub].Get(ctx, client.ObjectKey{Name: name}, cluster); err != nil {
			return nil, fmt.Errorf("asking for the gateway of %s: %w", name, err)
		}
		if meta.IsStatusConditionTrue(cluster.Status.Conditions, v1alpha1.ConditionGatewayReady) && len(cluster.Status.Gateways) > 0 {
			return &cluster.Status.Gateways[0], nil
		}
		if err := wait(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// openStandardPorts opens the ports of Gateways that are not the platform's, and gives their node ports by name.
func (b *bench) openStandardPorts(ctx context.Context, member string) (map[string]string, error) {
	pods := map[string]string{"app.kubernetes.io/name": "yunfan-gateway"}
	of := metav1.ObjectMeta{Namespace: v1alpha1.GatewayNamespace, Name: "conformance"}
	service := &corev1.Service{ObjectMeta: of, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: pods, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
		Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "https", Port: 443}},
	}}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: of, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: pods}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{
			{Port: new(intstr.FromInt32(80))}, {Port: new(intstr.FromInt32(443))},
		}}},
	}}
	for _, o := range []client.Object{policy, service} {
		if err := b.Clusters[member].Create(ctx, o); err != nil {
			return nil, fmt.Errorf("opening the gateway's ports: %w", err)
		}
	}
	out := map[string]string{}
	for _, p := range service.Spec.Ports {
		out[p.Name] = strconv.Itoa(int(p.NodePort))
	}
	return out, nil
}
