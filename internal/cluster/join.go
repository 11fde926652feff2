package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// connect makes a connection from the kubeconfig. Credentials that were withdrawn are not used any longer.
func (c *Controller) connect(ctx context.Context, cluster *v1alpha1.Cluster) error {
	problem := func(format string, args ...any) error {
		err := reconcile.Stall(v1alpha1.ReasonCredentialsInvalid, format, args...)
		c.members.Suspend(cluster.Name, v1alpha1.ReasonCredentialsInvalid, err.Error())
		return err
	}
	ref := cluster.Spec.Connection.KubeconfigSecretRef
	if ref == nil { // The CRD refuses it; objects may be older than the rule.
		return problem("spec.connection.kubeconfigSecretRef is missing: name the Secret in namespace %s that holds the kubeconfig", secretNamespace)
	}
	key := client.ObjectKey{Namespace: secretNamespace, Name: ref.Name}
	version, err := c.secretVersion(ctx, key)
	if err != nil {
		return err
	}
	if _, connected := c.members.Connection(cluster.Name); connected && c.used(cluster.Name, version) {
		return nil
	}
	secret := &corev1.Secret{}
	if err := c.reader.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		return problem("Secret %s does not exist: create it with the kubeconfig under the key %q", key, secretKey)
	} else if err != nil {
		return fmt.Errorf("reading Secret %s: %w", key, err)
	}
	data := secret.Data[secretKey]
	if len(data) == 0 {
		return problem("Secret %s has nothing under the key %q: put the kubeconfig there", key, secretKey)
	}
	config, err := parseKubeconfig(data)
	if err != nil {
		return problem("the kubeconfig in Secret %s cannot be used: %w", key, err)
	}
	if _, err := c.members.Connect(cluster.Name, fingerprint(config), config); err != nil {
		return problem("the kubeconfig in Secret %s cannot be used: %w", key, err)
	}
	c.use(cluster.Name, version)
	return nil
}

// secretVersion gives what changes whenever the Secret does, from the cache of metadata; empty if there is none.
func (c *Controller) secretVersion(ctx context.Context, key client.ObjectKey) (string, error) {
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := c.cache.Get(ctx, key, meta); client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("looking for Secret %s: %w", key, err)
	}
	return fmt.Sprintf("%s/%s/%s", key.Name, meta.UID, meta.ResourceVersion), nil
}

func (c *Controller) used(cluster, version string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secrets[cluster] == version
}

func (c *Controller) use(cluster, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets[cluster] = version
}

// seen records when the cluster was last seen and ends here if it does not answer. The prober's event comes when it
// does, so nothing is tried again until then.
func (c *Controller) seen(_ context.Context, cluster *v1alpha1.Cluster) error {
	m, ok := c.members.Connection(cluster.Name)
	if !ok {
		return reconcile.Wait(v1alpha1.ReasonReconciling, 0, "connecting")
	}
	state := m.State()
	last := cluster.Status.LastSeenTime
	if !state.LastSeen.IsZero() && (last == nil || !state.Answering || state.LastSeen.Sub(last.Time) >= seenInterval) {
		cluster.Status.LastSeenTime = &metav1.Time{Time: state.LastSeen.Truncate(time.Second)}
	}
	switch {
	case state.Answering:
		return nil
	case state.Reason == "":
		return reconcile.Wait(v1alpha1.ReasonReconciling, 0, "waiting for the first answer of the cluster")
	}
	if current, ok := c.members.Member(cluster.Name); ok && current != m {
		c.members.Suspend(cluster.Name, state.Reason, state.Message)
	}
	return reconcile.Wait(state.Reason, 0, "%s", state.Message)
}

// identify makes sure that the cluster is the one that was joined, and joined once only. Each claimant first writes its
// claim and then looks at the others', so of two at least one sees the other; the older object wins.
func (c *Controller) identify(ctx context.Context, cluster *v1alpha1.Cluster) error {
	m, _ := c.members.Connection(cluster.Name)
	uid := m.State().UID
	if known := cluster.Status.UID; known != "" && known != uid {
		err := reconcile.Stall(v1alpha1.ReasonIdentityChanged, "another cluster answers (kube-system has uid %s, it was %s): "+
			"correct the kubeconfig, or remove this object with the annotation %s=true and join the new cluster",
			uid, known, v1alpha1.AnnotationForceRemoval)
		c.disconnect(cluster.Name)
		return err
	}
	if cluster.Status.UID == "" {
		claim := cluster.DeepCopy()
		claim.Status.UID = uid
		if err := reconcile.PatchStatus(ctx, c.client, cluster.DeepCopy(), claim); err != nil {
			return fmt.Errorf("claiming the cluster: %w", err)
		}
		cluster.Status.UID = uid
	}
	reader := client.Reader(c.client)
	if _, admitted := c.members.Member(cluster.Name); !admitted {
		reader = c.reader // The decision must not be made on an old view; afterwards events tell of other claims.
	}
	var all v1alpha1.ClusterList
	if err := reader.List(ctx, &all); err != nil {
		return fmt.Errorf("looking who else has joined this cluster: %w", err)
	}
	slices.SortFunc(all.Items, func(a, b v1alpha1.Cluster) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for i := range all.Items {
		if other := &all.Items[i]; other.Status.UID == uid && older(other, cluster) {
			c.disconnect(cluster.Name)
			return reconcile.Stall(v1alpha1.ReasonAlreadyJoined,
				"this cluster is already joined as %s: use that one, or delete it first", other.Name)
		}
	}
	return nil
}

// older says whether a comes before b: by age, then by name, for ages have whole seconds only.
func older(a, b *v1alpha1.Cluster) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// admit lets the controllers work with the cluster.
func (c *Controller) admit(_ context.Context, cluster *v1alpha1.Cluster) error {
	m, _ := c.members.Connection(cluster.Name)
	cluster.Status.KubernetesVersion = m.State().Version
	c.members.Admit(cluster.Name)
	return nil
}
