package partition

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/partition/isolation"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// maxPrefixes bounds the ranges that a rule leaves out, for each kind of address.
	maxPrefixes = 64
	// addressInterval is how often is looked whether the addresses of the cluster are known.
	addressInterval = time.Second
)

// appliedPolicy is a NetworkPolicy that was applied, and the essence of what the member made of it.
type appliedPolicy struct{ wanted, applied string }

// isolate makes the partition's NetworkPolicies what they should be, and removes those of ours that it no longer has.
// New ones come first, so that nothing is open in between.
func (r *reconciler) isolate(ctx context.Context, p *v1alpha1.Partition) error {
	made, err := r.made(ctx, p)
	if err != nil {
		return err
	}
	around, err := r.surroundings(ctx, p)
	if err != nil {
		return err
	}
	specs, err := isolation.Policies(made, around)
	if err != nil {
		return err
	}
	var live networkingv1.NetworkPolicyList
	if err := r.member.Cache.List(ctx, &live, client.InNamespace(p.MemberNamespace()), client.MatchingLabels(identity(p))); err != nil {
		return fmt.Errorf("listing network policies: %w", err)
	}
	before, after := map[string]appliedPolicy{}, map[string]appliedPolicy{}
	rec := r.record(client.ObjectKeyFromObject(p))
	if rec != nil && rec.policies != nil {
		before = rec.policies
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		policy := &networkingv1.NetworkPolicy{ObjectMeta: owned(p, name), Spec: specs[name]}
		if after[name], err = r.applyPolicy(ctx, policy, before[name]); err != nil {
			return err
		}
	}
	for i := range live.Items {
		policy := &live.Items[i]
		if _, wanted := specs[policy.Name]; wanted {
			continue
		}
		if err := r.member.Client.Delete(ctx, policy.DeepCopy()); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting network policy %s: %w", policy.Name, err)
		}
	}
	if rec != nil {
		rec.policies = after
	}
	if isolation.Publishable(made) && len(around.Pods) == 0 && slices.ContainsFunc(around.Services, func(s corev1.Service) bool { return isolation.Published(&s) }) {
		return reconcile.Remark("services of this partition are not open to outside, because the nodes of cluster %s do not tell their pods' addresses: "+
			"set spec.podCIDRs of the cluster", r.member.Name)
	}
	return nil
}

// applyPolicy applies a policy unless the member has it already. One of somebody else's is left alone.
func (r *reconciler) applyPolicy(ctx context.Context, policy *networkingv1.NetworkPolicy, before appliedPolicy) (appliedPolicy, error) {
	now := appliedPolicy{wanted: text([]client.Object{policy})}
	have, err := cachedEssence(ctx, r.member.Cache, policy)
	if err != nil {
		return now, err
	}
	if before.wanted == now.wanted && before.applied == have {
		return before, nil
	}
	if have == "" { // The cache holds ours only.
		foreign := &networkingv1.NetworkPolicy{}
		err := r.member.Client.Get(ctx, client.ObjectKeyFromObject(policy), foreign)
		if client.IgnoreNotFound(err) != nil {
			return now, fmt.Errorf("looking for network policy %s: %w", policy.Name, err)
		}
		if err == nil && foreign.Labels[v1alpha1.LabelPartition] == "" {
			return now, reconcile.Stall(v1alpha1.ReasonInvalid, "namespace %s has a network policy %s that is not Yunfan's: use another name", policy.Namespace, policy.Name)
		}
	}
	now.applied, err = apply(ctx, r.member.Client, policy)
	if apierrors.IsInvalid(err) {
		return now, reconcile.Stall(v1alpha1.ReasonInvalid, "the cluster refuses the network policy: %w", err)
	}
	return now, err
}

// surroundings gathers what policies must know.
func (r *reconciler) surroundings(ctx context.Context, p *v1alpha1.Partition) (*isolation.Surroundings, error) {
	var clusters v1alpha1.ClusterList
	if err := r.client.List(ctx, &clusters, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing clusters: %w", err)
	}
	// Caches list in no order. In one order, policies are not written anew, and not parsed anew, for nothing.
	slices.SortFunc(clusters.Items, func(a, b v1alpha1.Cluster) int { return cmp.Compare(a.Name, b.Name) })
	out := r.network.of(r.member.Name, clusters.Items)
	if len(out.APIServers) == 0 {
		return nil, reconcile.Wait(v1alpha1.ReasonClusterNotReady, addressInterval,
			"the addresses of the API servers of cluster %s, which pods must not reach, are not known yet", r.member.Name)
	}
	if r.hub.IsValid() {
		out.Closed = append(slices.Clone(out.Closed), netip.PrefixFrom(r.hub, r.hub.BitLen()))
	}
	var services corev1.ServiceList
	if err := r.member.Cache.List(ctx, &services, client.InNamespace(p.MemberNamespace())); err != nil {
		return nil, fmt.Errorf("listing services: %w", err)
	}
	slices.SortFunc(services.Items, func(a, b corev1.Service) int { return cmp.Compare(a.Name, b.Name) })
	out.Services = services.Items
	return &out, nil
}

// network keeps what is the same for all partitions of a member until an address changes.
type network struct {
	mu          sync.Mutex
	fingerprint uint64
	parsed      isolation.Surroundings
}

var seed = maphash.MakeSeed()

func (n *network) of(own string, clusters []v1alpha1.Cluster) isolation.Surroundings {
	var hash maphash.Hash
	hash.SetSeed(seed)
	for i := range clusters {
		of := &clusters[i].Status.Network
		for _, texts := range [][]string{{clusters[i].Name}, of.APIServers, of.Nodes, of.Pods} {
			for _, text := range texts {
				_, _ = hash.WriteString(text) // never fails
				_ = hash.WriteByte(0)
			}
			_ = hash.WriteByte(1)
		}
		_, _ = fmt.Fprint(&hash, clusters[i].Spec.Gateway.Mode, clusters[i].Spec.Gateway.Port())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if sum := hash.Sum64(); sum != n.fingerprint {
		n.fingerprint, n.parsed = sum, parse(own, clusters)
	}
	return n.parsed
}

// parse sorts the addresses of all clusters. What cannot be parsed the cluster controller did not write.
func parse(own string, clusters []v1alpha1.Cluster) isolation.Surroundings {
	var out isolation.Surroundings
	unknown := false
	prefixes := func(to *[]netip.Prefix, texts []string) {
		for _, text := range texts {
			if p, err := netip.ParsePrefix(text); err == nil {
				*to = append(*to, p)
			}
		}
	}
	for i := range clusters {
		of := &clusters[i].Status.Network
		for _, text := range of.APIServers {
			server, err := netip.ParseAddrPort(text)
			if err != nil {
				continue
			}
			if clusters[i].Name == own {
				out.APIServers = append(out.APIServers, server)
			} else {
				out.Closed = append(out.Closed, netip.PrefixFrom(server.Addr(), server.Addr().BitLen()))
			}
		}
		if gateway := &clusters[i].Spec.Gateway; gateway.Mode == v1alpha1.GatewayManaged {
			out.Gateways = append(out.Gateways, gateway.Port())
		}
		prefixes(&out.Nodes, of.Nodes)
		prefixes(&out.Pods, of.Pods)
		unknown = unknown || clusters[i].Name == own && len(of.Pods) == 0
	}
	if unknown { // what is published would be open to all pods of the cluster
		out.Pods = nil
	}
	out.Closed = join(out.Closed)
	slices.Sort(out.Gateways)
	out.Gateways = slices.Compact(out.Gateways)
	out.Nodes, out.Pods = member.Aggregate(out.Nodes, maxPrefixes), member.Aggregate(out.Pods, maxPrefixes)
	return out
}

// join leaves out what is there twice.
func join(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}
