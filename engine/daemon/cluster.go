package daemon

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"yunfan.io/engine/addons"
)

var nodes = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

const askTimeout = 2 * time.Second

// cluster is the daemon's view of a cluster through its API.
type cluster struct {
	kubeconfig string
	stop       context.CancelFunc // ends equip

	mu      sync.Mutex
	read    time.Time // when the kubeconfig was written that client and rest use: it changes with its certificate
	client  *dynamic.DynamicClient
	rest    *rest.RESTClient
	objects []*unstructured.Unstructured // addons, once applied
	addons  error                        // why they are not
	ready   bool                         // has been once
}

func (c *cluster) wasReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// connect makes clients on first use, and when the kubeconfig has changed: it is written when the control plane is prepared.
func (c *cluster) connect() (*dynamic.DynamicClient, *rest.RESTClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	if c.client != nil && info.ModTime().Equal(c.read) {
		return c.client, c.rest, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	// Bounds every call, so that a cluster that never answers costs no more than this.
	config.Timeout = 10 * time.Second
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting: %w", err)
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	raw, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting: %w", err)
	}
	c.client, c.rest, c.read = client, raw, info.ModTime()
	return client, raw, nil
}

// available asks the API server whether it is ready.
func (c *cluster) available(ctx context.Context) error {
	_, raw, err := c.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := raw.Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return fmt.Errorf("asking the API server: %w", err)
	}
	return nil
}

// observe fills in the state of nodes and returns what the cluster still waits for, empty if nothing.
func (c *cluster) observe(ctx context.Context, want []NodeStatus) string {
	for i := range want {
		want[i].State = Starting
	}
	if err := c.available(ctx); err != nil {
		return "waiting for the API server: " + err.Error()
	}
	client, _, err := c.connect()
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	list, err := client.Resource(nodes).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "listing nodes: " + err.Error()
	}
	var missing []string
	for i := range want {
		want[i].State, want[i].Message = nodeState(list.Items, want[i])
		if want[i].State != Ready {
			missing = append(missing, want[i].Name)
		}
	}
	if len(missing) > 0 {
		return "waiting for node " + strings.Join(missing, ", ")
	}
	return c.observeAddons(ctx, client, want)
}

func (c *cluster) observeAddons(ctx context.Context, client dynamic.Interface, want []NodeStatus) string {
	c.mu.Lock()
	objects, err := c.objects, c.addons
	c.mu.Unlock()
	if err != nil {
		return "waiting for addons: " + err.Error()
	}
	if objects == nil {
		return "waiting for addons to be applied"
	}
	since := map[string]time.Time{}
	for _, n := range want {
		since[n.Name] = n.since
	}
	missing, err := addons.Unavailable(ctx, client, objects, since)
	if err != nil {
		return err.Error()
	}
	if len(missing) > 0 {
		return "waiting for deployment " + strings.Join(missing, ", ")
	}
	c.mu.Lock()
	c.ready = true
	c.mu.Unlock()
	return ""
}

// nodeState reads the Ready condition. One from before the node's unit was started says nothing.
func nodeState(items []unstructured.Unstructured, want NodeStatus) (state, message string) {
	for _, n := range items {
		if n.GetName() != want.Name {
			continue
		}
		conditions, _, _ := unstructured.NestedSlice(n.Object, "status", "conditions")
		for _, entry := range conditions {
			condition, ok := entry.(map[string]any)
			if !ok || condition["type"] != "Ready" {
				continue
			}
			beat, err := time.Parse(time.RFC3339, fmt.Sprint(condition["lastHeartbeatTime"]))
			switch {
			case condition["status"] != "True":
				return NotReady, fmt.Sprint(condition["message"])
			case err != nil || beat.Before(want.since):
				return Starting, "no heartbeat since it was started"
			}
			return Ready, ""
		}
		return Starting, "no condition reported yet"
	}
	return Starting, "not registered yet"
}

// equip applies the addons, trying until it succeeds or the context ends.
func (c *cluster) equip(ctx context.Context, objects []*unstructured.Unstructured) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := c.available(ctx)
		if err == nil {
			var client dynamic.Interface
			if client, _, err = c.connect(); err == nil {
				err = addons.Apply(ctx, client, objects)
			}
		} else {
			pause = 100 * time.Millisecond
		}
		c.mu.Lock()
		c.addons = err
		if err == nil {
			c.objects = objects
		}
		c.mu.Unlock()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// forget removes a node object, so that its pods move elsewhere at once.
func (c *cluster) forget(ctx context.Context, node string) error {
	client, _, err := c.connect()
	if err != nil {
		return err
	}
	if err := client.Resource(nodes).Delete(ctx, node, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting node %s from its cluster: %w", node, err)
	}
	return nil
}
