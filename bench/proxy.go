//go:build e2e

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// through measures what going through the platform adds to a request to an API server: reads, and writes, which are
// audited. Both ways take turns, so that the machine's other work falls on both.
func (b *bench) through(ctx context.Context) error {
	admin, err := b.SignIn(ctx, "bench-through", func(s *v1alpha1.UserSpec) { s.PlatformAdministrator = true })
	if err != nil {
		return err
	}
	configuration := &v1alpha1.Configuration{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: "through"},
		Spec:       v1alpha1.ConfigurationSpec{Files: map[string]string{"a": "b"}},
	}
	if err := b.Clusters[journey.Hub].Create(ctx, configuration); err != nil {
		return fmt.Errorf("creating a configuration: %w", err)
	}
	service := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: plain, Name: "through"}}
	if err := b.Clusters[journey.Beijing].Create(ctx, service); err != nil {
		return fmt.Errorf("creating an object: %w", err)
	}
	const onHub = "/apis/yunfan.io/v1alpha1/namespaces/" + tenant + "/configurations/through"
	const onMember = "/api/v1/namespaces/" + plain + "/configmaps/through"
	for _, c := range []struct {
		name, method, path string
		direct, through    *rest.Config
	}{
		{"hub, read", http.MethodGet, onHub, b.Clusters[journey.Hub].Config, admin.Config},
		{"hub, audited write", http.MethodPatch, onHub, b.Clusters[journey.Hub].Config, admin.Config},
		{"member, read", http.MethodGet, onMember, b.Clusters[journey.Beijing].Config, admin.Member(journey.Beijing)},
		{"member, audited write", http.MethodPatch, onMember, b.Clusters[journey.Beijing].Config, admin.Member(journey.Beijing)},
	} {
		if err := compare(ctx, c.name, c.method, c.path, c.direct, c.through); err != nil {
			return err
		}
	}
	return nil
}

func compare(ctx context.Context, name, method, path string, direct, through *rest.Config) error {
	const times, warm = 500, 20
	ways := []*rest.Config{direct, through}
	var took [2][]time.Duration
	clients := make([]*http.Client, len(ways))
	for i, config := range ways {
		var err error
		if clients[i], err = rest.HTTPClientFor(config); err != nil {
			return err
		}
	}
	for n := range times + warm {
		for i, config := range ways {
			start := time.Now()
			if err := once(ctx, clients[i], method, config.Host+path, fmt.Sprintf("%d-%d", i, n)); err != nil {
				return fmt.Errorf("measuring %s: %w", name, err)
			}
			if n >= warm {
				took[i] = append(took[i], time.Since(start))
			}
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	figure(name, "direct P50 %.2f ms, P99 %.2f ms; through the platform P50 %.2f ms, P99 %.2f ms; added P50 %.2f ms",
		quantile(took[0], 0.5), quantile(took[0], 0.99), quantile(took[1], 0.5), quantile(took[1], 0.99), //nolint:mnd // the usual quantiles
		quantile(took[1], 0.5)-quantile(took[0], 0.5)) //nolint:mnd // the median
	return nil
}

// once reads an object or, with PATCH, changes an annotation of it.
func once(ctx context.Context, c *http.Client, method, url, value string) error {
	var body io.Reader
	if method == http.MethodPatch {
		body = bytes.NewBufferString(`{"metadata":{"annotations":{"bench":"` + value + `"}}}`)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/merge-patch+json")
	answer, err := c.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s %.200s", method, url, answer.Status, text)
	}
	return err
}
