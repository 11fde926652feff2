//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

const (
	tenant = "bench"
	plain  = "plain" // namespace of what plain kubectl writes, on both members
	// variable is changed to make a new version of an application.
	variable = "VALUE"
)

// members are the clusters everything is written to; their partitions have the same names.
var members = []string{journey.Beijing, journey.Shanghai}

// bench is the instance that is measured.
type bench struct {
	*journey.World
	dir string
	// ours and theirs observe the partitions' namespaces and those of plain kubectl, by member.
	ours, theirs map[string]*observer
}

// prepare makes a tenant with a partition in each member, and a namespace beside it for plain kubectl.
func (b *bench) prepare(ctx context.Context) error {
	b.ours, b.theirs = map[string]*observer{}, map[string]*observer{}
	hub := b.Clusters[journey.Hub]
	t := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: tenant}}
	if err := hub.Create(ctx, t); err != nil {
		return fmt.Errorf("creating the tenant: %w", err)
	}
	if err := b.ready(ctx, t, &t.Status.Conditions); err != nil {
		return err
	}
	for _, member := range members {
		p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Name: member, Namespace: tenant}, Spec: v1alpha1.PartitionSpec{Cluster: member}}
		if err := hub.Create(ctx, p); err != nil {
			return fmt.Errorf("creating a partition: %w", err)
		}
		if err := b.ready(ctx, p, &p.Status.Conditions); err != nil {
			return err
		}
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: plain}}
		if err := b.Clusters[member].Create(ctx, namespace); err != nil {
			return fmt.Errorf("creating a namespace: %w", err)
		}
		var err error
		if b.ours[member], err = observe(ctx, b.Clusters[member], p.MemberNamespace()); err != nil {
			return err
		}
		if b.theirs[member], err = observe(ctx, b.Clusters[member], plain); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until an object of the hub is.
func (b *bench) ready(ctx context.Context, o client.Object, conditions *[]metav1.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !meta.IsStatusConditionTrue(*conditions, v1alpha1.ConditionReady) {
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for %T %s: %w; %+v", o, o.GetName(), err, *conditions)
		}
		if err := b.Clusters[journey.Hub].Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return fmt.Errorf("reading %T %s: %w", o, o.GetName(), err)
		}
	}
	return nil
}

// everywhere waits for the same on both members.
func everywhere(observers map[string]*observer, f func(*observer) error) error {
	var group errgroup.Group
	for _, o := range observers {
		group.Go(func() error { return f(o) })
	}
	return group.Wait()
}

// timed gives how long it took from the start of an action, such as kubectl apply, until what is waited for is there.
func timed(action, waited func() error) (time.Duration, error) {
	start := time.Now()
	acted := make(chan error, 1)
	go func() { acted <- action() }()
	err := waited()
	took := time.Since(start)
	return took, errors.Join(err, <-acted)
}

// apply runs plain `kubectl apply` with a file of the objects.
func (b *bench) apply(ctx context.Context, cluster, file string) error {
	return b.kubectl(ctx, cluster, "apply", "-f", file)
}

func (b *bench) kubectl(ctx context.Context, cluster string, args ...string) error {
	if out, err := b.Kubectl(ctx, cluster, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("running kubectl %v: %w\n%s", args, err, tail(out))
	}
	return nil
}

// write puts objects into one file, as people would give them to kubectl.
func (b *bench) write(name string, objects ...client.Object) (string, error) {
	var text bytes.Buffer
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			return "", err
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			return "", err
		}
		delete(fields, "status")
		if data, err = json.Marshal(fields); err != nil {
			return "", err
		}
		fmt.Fprintf(&text, "---\n%s\n", data)
	}
	file := filepath.Join(b.dir, name)
	return file, os.WriteFile(file, text.Bytes(), 0o600)
}

func tail(out []byte) []byte {
	const limit = 2000
	return out[max(0, len(out)-limit):]
}
