package install

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// tell writes the replicas and the condition of the gateway to the Cluster's status. Others write there, too: whatever
// they wrote in between makes this a conflict, after which it is done again.
func (r *reconciler) tell(ctx context.Context, cluster *v1alpha1.Cluster, failure error) error {
	before := cluster.DeepCopy()
	if cluster.Spec.Gateway.Mode != v1alpha1.GatewayManaged {
		cluster.Status.Gateways = nil
		meta.RemoveStatusCondition(&cluster.Status.Conditions, v1alpha1.ConditionGatewayReady)
	} else {
		nodes, pods, err := r.member.NodesAndPods(ctx)
		if err != nil {
			return err
		}
		cluster.Status.Gateways = replicas(nodes, pods, cluster.Spec.Gateway.Port())
		status, reason, message := condition(cluster.Status.Gateways, len(nodes), failure)
		reconcile.SetCondition(cluster, v1alpha1.ConditionGatewayReady, status, reason, message)
	}
	if equality.Semantic.DeepEqual(before.Status, cluster.Status) {
		return nil
	}
	err := r.hub.Status().Patch(ctx, cluster, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("telling how the gateway is: %w", err)
	}
	return nil
}

// condition says whether the gateway of every node answers.
func condition(gateways []v1alpha1.GatewayReplica, nodes int, failure error) (status metav1.ConditionStatus, reason, message string) {
	var missing []string
	for _, g := range gateways {
		if !g.Ready {
			missing = append(missing, g.Node)
		}
	}
	switch {
	case failure != nil && meta.IsNoMatchError(failure):
		return metav1.ConditionFalse, v1alpha1.ReasonReconciling, "the kinds of the Gateway API are being set up"
	case failure != nil && apierrors.IsInvalid(failure) && strings.Contains(failure.Error(), "provided port is already allocated"):
		return metav1.ConditionFalse, v1alpha1.ReasonNodePortTaken, failure.Error() + ": set spec.gateway.nodePort to another"
	case failure != nil:
		return metav1.ConditionFalse, v1alpha1.ReasonFailed, failure.Error()
	case len(gateways) < nodes:
		return metav1.ConditionFalse, v1alpha1.ReasonReconciling, fmt.Sprintf("it is on %d of %d nodes", len(gateways), nodes)
	case len(missing) > 0:
		return metav1.ConditionFalse, v1alpha1.ReasonNotReady, "it does not answer on " + strings.Join(missing, ", ")
	}
	return metav1.ConditionTrue, v1alpha1.ReasonReady, ""
}

// replicas are the pods of the gateway, one for each node, in the order of the nodes. While one takes over from another,
// it is the one that is ready.
func replicas(nodes []corev1.Node, pods []corev1.Pod, port int32) []v1alpha1.GatewayReplica {
	of := map[string]*corev1.Pod{}
	for i := range pods {
		p := &pods[i]
		if p.Namespace != v1alpha1.GatewayNamespace || p.Spec.NodeName == "" || p.Labels["app.kubernetes.io/name"] != podLabels["app.kubernetes.io/name"] {
			continue
		}
		if other := of[p.Spec.NodeName]; other == nil || better(p, other) < 0 {
			of[p.Spec.NodeName] = p
		}
	}
	var out []v1alpha1.GatewayReplica
	for i := range nodes {
		p := of[nodes[i].Name]
		if p == nil {
			continue
		}
		g := v1alpha1.GatewayReplica{Node: nodes[i].Name, Pod: p.Name, Ready: serves(p)}
		if ip := address(&nodes[i]); ip != "" {
			g.Address = net.JoinHostPort(ip, strconv.Itoa(int(port)))
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b v1alpha1.GatewayReplica) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// better orders the pods of one node: those that serve first, then newer ones.
func better(a, b *corev1.Pod) int {
	switch {
	case serves(a) != serves(b):
		if serves(a) {
			return -1
		}
		return 1
	case !a.CreationTimestamp.Equal(&b.CreationTimestamp):
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	}
	return cmp.Compare(a.Name, b.Name)
}

func serves(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func address(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

// except is everything of one kind of address but the ranges.
func except(everything string, ranges []string, six bool) networkingv1.NetworkPolicyPeer {
	block := &networkingv1.IPBlock{CIDR: everything}
	for _, text := range ranges {
		if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Addr().Is6() == six {
			block.Except = append(block.Except, text)
		}
	}
	return networkingv1.NetworkPolicyPeer{IPBlock: block}
}
