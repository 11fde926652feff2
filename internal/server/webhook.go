package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"yunfan.io/yunfan/api/v1alpha1"
)

// hooks collects the admission webhooks that capabilities register with the manager, to be served on the API's address.
type hooks struct {
	mux   *http.ServeMux
	paths map[string]bool
}

func newHooks() *hooks { return &hooks{http.NewServeMux(), map[string]bool{}} }

// NeedLeaderElection says that every replica answers webhooks.
func (*hooks) NeedLeaderElection() bool { return false }

// Register takes a webhook.
func (h *hooks) Register(path string, hook http.Handler) {
	h.paths[path] = true
	h.mux.Handle(path, hook)
}

// Start has nothing to do: the API's server serves them.
func (*hooks) Start(ctx context.Context) error { <-ctx.Done(); return nil }

// StartedChecker has nothing to check.
func (*hooks) StartedChecker() healthz.Checker { return healthz.Ping }

// WebhookMux gives the mux of the webhooks.
func (h *hooks) WebhookMux() *http.ServeMux { return h.mux }

// registration tells the hub to ask our webhooks. They only refuse early what controllers would refuse later, so a hub
// that cannot reach us goes on without them.
type registration struct {
	client client.Client
	scheme *runtime.Scheme
	hooks  *hooks
	url    *url.URL
	ca     []byte
}

// Start applies the hub's webhook configurations. Only the leader does.
func (r *registration) Start(ctx context.Context) error {
	kinds := []struct {
		kind, prefix string
		operations   []any
	}{
		{"ValidatingWebhookConfiguration", "/validate-", []any{"CREATE", "UPDATE", "DELETE"}},
		{"MutatingWebhookConfiguration", "/mutate-", []any{"CREATE", "UPDATE"}},
	}
	var errs []error
	for _, k := range kinds {
		webhooks := r.webhooks(k.prefix, k.operations)
		if len(webhooks) == 0 {
			continue
		}
		errs = append(errs, apply(ctx, r.client, map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": k.kind,
			"metadata": map[string]any{"name": "yunfan"}, "webhooks": webhooks,
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("telling the hub of our webhooks: %w", err)
	}
	return nil
}

// webhooks are the entries for our kinds that have a webhook with controller-runtime's path for this prefix.
func (r *registration) webhooks(prefix string, operations []any) []any {
	const timeoutSeconds = 5
	var entries []any
	group := strings.ReplaceAll(v1alpha1.GroupVersion.Group, ".", "-")
	for kind := range r.scheme.KnownTypes(v1alpha1.GroupVersion) {
		path := prefix + group + "-" + v1alpha1.GroupVersion.Version + "-" + strings.ToLower(kind)
		if !r.hooks.paths[path] {
			continue
		}
		plural, _ := meta.UnsafeGuessKindToResource(v1alpha1.GroupVersion.WithKind(kind))
		entries = append(entries, map[string]any{
			"name":         plural.Resource + "." + strings.Trim(prefix, "/-") + "." + v1alpha1.GroupVersion.Group,
			"clientConfig": map[string]any{"url": r.url.JoinPath(path).String(), "caBundle": base64.StdEncoding.EncodeToString(r.ca)},
			"rules": []any{map[string]any{
				"apiGroups": []any{plural.Group}, "apiVersions": []any{plural.Version}, "resources": []any{plural.Resource}, "operations": operations,
			}},
			"failurePolicy": "Ignore", "matchPolicy": "Equivalent", "sideEffects": "None",
			"timeoutSeconds": int64(timeoutSeconds), "admissionReviewVersions": []any{"v1"},
		})
	}
	slices.SortFunc(entries, func(a, b any) int {
		return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
	})
	return entries
}
