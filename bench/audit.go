//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/record"
)

const (
	auditTime    = 20 * time.Second
	auditWriters = 64 // requests at once
	auditWrites  = 300
)

// audit measures how many rows a second a server can write, on the disk of the instance, and what a row adds to a write.
func (b *bench) audit(ctx context.Context) error {
	if err := b.auditRows(ctx); err != nil {
		return err
	}
	return b.auditLatency(ctx)
}

func (b *bench) auditRows(ctx context.Context) (err error) {
	folder, err := os.MkdirTemp(b.dir, "bench-audit")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(folder)
	db, err := record.Open(ctx, filepath.Join(folder, "records.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	w, err := audit.NewWriter(ctx, db, "bench", logr.Discard())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var rows atomic.Int64
	begun := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for user := range auditWriters {
		group.Go(func() error {
			for time.Since(begun) < auditTime {
				n := rows.Add(1)
				row, err := w.Begin(ctx, audit.Intent{
					Time: time.Now().UnixMilli(), User: fmt.Sprint("user", user), Origin: "yunfan", Address: "127.0.0.1", Action: "update", Tenant: tenant,
					Group: "yunfan.io", Resource: "applications", Namespace: tenant, Name: fmt.Sprint("application-", n%1000), Method: http.MethodPut, Path: "/apis/yunfan.io/v1alpha1",
				})
				if err != nil {
					return fmt.Errorf("writing a row: %w", err)
				}
				state := `{"spec":"` + strings.Repeat("x", 2<<10) + `"}`
				w.End(row, audit.Outcome{Time: time.Now().UnixMilli(), Result: audit.ResultSucceeded, Code: http.StatusOK, Before: state, After: state})
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	figure("rows a second, 64 at once, states of 2 KiB", "%.0f", float64(rows.Load())/time.Since(begun).Seconds())
	return nil
}

// auditLatency writes the same one after the other to the hub's API server, and through the server to it.
func (b *bench) auditLatency(ctx context.Context) error {
	hub := b.Clusters[journey.Hub]
	where, err := hub.Set.CoreV1().ConfigMaps("yunfan-system").Get(ctx, "yunfan-server", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("asking the hub where the server is: %w", err)
	}
	config := rest.CopyConfig(hub.Config)
	config.Host, config.CAFile, config.CAData = where.Data["url"], "", []byte(where.Data["ca"])
	through, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making a client of the server: %w", err)
	}
	for _, way := range []struct {
		name string
		set  *kubernetes.Clientset
	}{{"directly", hub.Set}, {"audited", through}} {
		var took []time.Duration
		for range auditWrites {
			begun := time.Now()
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-audit-"}}
			if _, err := way.set.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, object, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("writing %s: %w", way.name, err)
			}
			took = append(took, time.Since(begun))
		}
		slices.Sort(took)
		figure("one write "+way.name+", P50 and P99", "%.1f ms, %.1f ms", 1e3*took[len(took)/2].Seconds(), 1e3*took[len(took)*99/100].Seconds())
	}
	return nil
}
