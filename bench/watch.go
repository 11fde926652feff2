//go:build e2e

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"yunfan.io/yunfan/e2e/journey"
)

// patience bounds every wait of the benchmark.
const patience = 5 * time.Minute

// observer knows, by watching, what a namespace of a member holds.
type observer struct {
	mu       sync.Mutex
	changed  chan struct{}     // closed and made anew at each change
	values   map[string]string // of the variable VALUE, by Deployment
	services map[string]bool
	pods     map[string]bool // whether they are ready
}

func observe(ctx context.Context, c *journey.Cluster, namespace string) (*observer, error) {
	o := &observer{changed: make(chan struct{}), values: map[string]string{}, services: map[string]bool{}, pods: map[string]bool{}}
	factory := informers.NewSharedInformerFactoryWithOptions(c.Set, 0, informers.WithNamespace(namespace))
	for _, informer := range []cache.SharedIndexInformer{
		factory.Apps().V1().Deployments().Informer(), factory.Core().V1().Services().Informer(), factory.Core().V1().Pods().Informer(),
	} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { o.note(obj, false) },
			UpdateFunc: func(_, obj any) { o.note(obj, false) },
			DeleteFunc: func(obj any) { o.note(obj, true) },
		}); err != nil {
			return nil, fmt.Errorf("watching %s in %s: %w", namespace, c.Name, err)
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return o, ctx.Err()
}

func (o *observer) note(obj any, gone bool) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch obj := obj.(type) {
	case *appsv1.Deployment:
		o.values[obj.Name] = value(obj)
		if gone {
			delete(o.values, obj.Name)
		}
	case *corev1.Service:
		o.services[obj.Name] = true
		if gone {
			delete(o.services, obj.Name)
		}
	case *corev1.Pod:
		o.pods[obj.Name] = podReady(obj)
		if gone {
			delete(o.pods, obj.Name)
		}
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

func value(d *appsv1.Deployment) string {
	for _, container := range d.Spec.Template.Spec.Containers {
		for _, e := range container.Env {
			if e.Name == variable {
				return e.Value
			}
		}
	}
	return ""
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// holds waits until the namespace has Deployment and Service of each name, with the value.
func (o *observer) holds(ctx context.Context, want string, names ...string) error {
	return o.until(ctx, fmt.Sprintf("%d objects with %s=%s", 2*len(names), variable, want), func() bool {
		for _, name := range names {
			if o.values[name] != want || !o.services[name] {
				return false
			}
		}
		return true
	})
}

// ready waits until so many pods are ready.
func (o *observer) ready(ctx context.Context, count int) error {
	return o.until(ctx, fmt.Sprintf("%d ready pods", count), func() bool {
		ready := 0
		for _, r := range o.pods {
			if r {
				ready++
			}
		}
		return ready == count
	})
}

func (o *observer) until(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		o.mu.Lock()
		ok, changed := done(), o.changed
		o.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}
