// Package cluster joins member clusters to the platform: it reads their kubeconfigs, makes sure that each cluster is
// joined once only, tells how they are, and lets them go.
package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	finalizer = "yunfan.io/cluster"
	// secretNamespace is the platform's own; kubeconfigs are read from nowhere else.
	secretNamespace = "yunfan-system"
	secretKey       = "kubeconfig"

	// seenInterval is how often lastSeenTime and the sums are renewed when nothing else changes.
	seenInterval = 30 * time.Second
	// summaryDelay gathers changes of nodes and pods before the sums are made again.
	summaryDelay = time.Second
	workers      = 8
)

// Cleaner removes from a member what a capability put there, when a cluster is removed together with its workloads. It
// gives what is still left, for people; empty when all is gone.
type Cleaner interface {
	CleanMember(ctx context.Context, m *member.Member) (left string, err error)
}

// Controller reconciles Clusters.
type Controller struct {
	members  *member.Set
	cleaners []Cleaner

	client client.Client
	cache  client.Reader // has the metadata of Secrets, which the client may be told to read past it
	reader client.Reader // past the cache: Secrets, which it should not keep, and the decision who has joined
	queue  workqueue.TypedRateLimitingInterface[ctrl.Request]

	mu      sync.Mutex
	secrets map[string]string // version of the Secret that the connection of each cluster was made from
	// apiServers of each cluster, read now and then
	apiServers map[string]servers
	authorised map[string]time.Time // when each cluster was asked, see authorise
}

// New makes the controller. It connects and admits clusters in members.
func New(members *member.Set, cleaners ...Cleaner) *Controller {
	return &Controller{members: members, cleaners: cleaners, secrets: map[string]string{}, apiServers: map[string]servers{}, authorised: map[string]time.Time{}}
}

// SetupWithManager registers the controller with the hub's manager.
func (c *Controller) SetupWithManager(mgr manager.Manager) error {
	c.client, c.cache, c.reader = mgr.GetClient(), mgr.GetCache(), mgr.GetAPIReader()
	c.members.Register(c)
	inPlatformNamespace := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetNamespace() == secretNamespace })
	if err := (&follower{c, mgr.Elected()}).setupWithManager(mgr, inPlatformNamespace); err != nil {
		return fmt.Errorf("following the leader: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("cluster").
		For(&v1alpha1.Cluster{}, builder.WithPredicates(predicate.Or[client.Object](
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&v1alpha1.Cluster{}, handler.EnqueueRequestsFromMapFunc(c.withSameUID), builder.WithPredicates(identityChanged)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(c.withSecret), builder.WithPredicates(inPlatformNamespace)).
		WatchesRawSource(source.Channel(c.members.Subscribe(), &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[ctrl.Request]) error {
			c.queue = q
			return nil
		})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(c)
}

// Reconcile brings one Cluster to what it should be.
func (c *Controller) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	cluster := &v1alpha1.Cluster{}
	if err := c.client.Get(ctx, r.NamespacedName, cluster); err != nil {
		if apierrors.IsNotFound(err) {
			c.disconnect(r.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !cluster.DeletionTimestamp.IsZero() {
		return c.remove(ctx, cluster)
	}
	result, err := reconcile.Run(ctx, c.client, cluster, v1alpha1.ConditionReady, v1alpha1.ReasonReady,
		c.hold, c.connect, c.seen, c.identify, c.admit, c.summarise, c.addresses, c.authorise)
	if _, admitted := c.members.Member(r.Name); admitted && err == nil && result.IsZero() {
		result.RequeueAfter = seenInterval
	}
	return result, err
}

// hold keeps the object until its workloads have been dealt with.
func (c *Controller) hold(ctx context.Context, cluster *v1alpha1.Cluster) error {
	return reconcile.AddFinalizer(ctx, c.client, cluster, finalizer)
}

func (c *Controller) disconnect(name string) {
	c.members.Disconnect(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.secrets, name)
	delete(c.apiServers, name)
	delete(c.authorised, name)
}

// withSecret finds the clusters whose kubeconfig is in a Secret.
func (c *Controller) withSecret(ctx context.Context, secret client.Object) []ctrl.Request {
	return c.clusters(ctx, func(cluster *v1alpha1.Cluster) bool {
		ref := cluster.Spec.Connection.KubeconfigSecretRef
		return ref != nil && ref.Name == secret.GetName()
	})
}

// withSameUID finds the clusters that claim to be the same as one whose claim has changed or gone.
func (c *Controller) withSameUID(ctx context.Context, o client.Object) []ctrl.Request {
	uid := o.(*v1alpha1.Cluster).Status.UID
	return c.clusters(ctx, func(cluster *v1alpha1.Cluster) bool {
		return uid != "" && cluster.Status.UID == uid && cluster.Name != o.GetName()
	})
}

var identityChanged = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.(*v1alpha1.Cluster).Status.UID != e.ObjectNew.(*v1alpha1.Cluster).Status.UID
	},
}

func (c *Controller) clusters(ctx context.Context, wanted func(*v1alpha1.Cluster) bool) []ctrl.Request {
	var list v1alpha1.ClusterList
	if err := c.client.List(ctx, &list); err != nil {
		return nil // The cache is always there once the controller runs.
	}
	var requests []ctrl.Request
	for i := range list.Items {
		if wanted(&list.Items[i]) {
			requests = append(requests, ctrl.Request{NamespacedName: types.NamespacedName{Name: list.Items[i].Name}})
		}
	}
	return requests
}
