//go:build e2e

package journey

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// The clusters of every instance. Beijing has two nodes, Shanghai one.
const (
	Hub      = "hub"
	Beijing  = "beijing"
	Shanghai = "shanghai"
)

// readyTimeout is how long the hub may take, once it is up, to say that its members are ready.
const readyTimeout = time.Minute

// World is an instance with clients for its clusters.
type World struct {
	*Instance
	Clusters map[string]*Cluster // hub and members, by name
}

// Cluster is one of the instance's clusters, with its administrator's identity.
type Cluster struct {
	client.Client

	Name   string
	Config *rest.Config
	Set    *kubernetes.Clientset // for logs and other subresources
}

// Open makes clients for an instance and waits until the hub says that both members are ready.
func Open(ctx context.Context, i *Instance) (*World, error) {
	w := &World{Instance: i, Clusters: map[string]*Cluster{}}
	for _, name := range []string{Hub, Beijing, Shanghai} {
		c, err := newCluster(i, name)
		if err != nil {
			return nil, fmt.Errorf("making clients for cluster %s: %w", name, err)
		}
		w.Clusters[name] = c
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return w, w.waitForClusters(ctx)
}

func newCluster(i *Instance, name string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", i.kubeconfig(name))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: s})
	if err != nil {
		return nil, err
	}
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Cluster{Name: name, Config: config, Client: c, Set: set}, nil
}

func (w *World) waitForClusters(ctx context.Context) error {
	var last string
	err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		for _, name := range []string{Beijing, Shanghai} {
			var cluster v1alpha1.Cluster
			err := w.Clusters[Hub].Get(ctx, client.ObjectKey{Name: name}, &cluster)
			if err != nil || !meta.IsStatusConditionTrue(cluster.Status.Conditions, v1alpha1.ConditionReady) {
				last = fmt.Sprintf("cluster %s: %v, %+v", name, err, cluster.Status.Conditions)
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the clusters to be ready: %w; last seen: %s", err, last)
	}
	return nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
