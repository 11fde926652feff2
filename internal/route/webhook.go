package route

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
	"yunfan.io/yunfan/internal/route/gateway"
)

// WebhookPath is where the hub's API server asks whether a Route is sound.
const WebhookPath = "/validate-yunfan-io-v1alpha1-route"

// Webhook gives the handler of admission reviews. It refuses early what the controller would refuse later, with the same
// words; the controller decides.
func (r *Routes) Webhook() http.Handler {
	return admission.WithValidator[*v1alpha1.Route](r.client.Scheme(), &validator{r.client, r.live, r.certificateOf})
}

type validator struct {
	cached, live client.Reader
	// certificate reads the one of a Route.
	certificate func(context.Context, *v1alpha1.Route) (*certificate, error)
}

// ValidateCreate refuses a new Route that cannot be served.
func (v *validator) ValidateCreate(ctx context.Context, route *v1alpha1.Route) (admission.Warnings, error) {
	if route.Namespace == "" || route.Name == "" {
		return nil, nil
	}
	// What it needs may have been created a moment ago, or released: the hub itself is asked before it is refused.
	if stalled(judge(ctx, v.cached, route)) {
		if err := judge(ctx, v.live, route); stalled(err) {
			return nil, err
		}
	}
	return v.warnings(ctx, route), nil
}

// warnings tell what should be mended soon.
func (v *validator) warnings(ctx context.Context, route *v1alpha1.Route) admission.Warnings {
	if c, err := v.certificate(ctx, route); err == nil { // one that cannot be read now is no reason to warn
		if text := c.remark(route.Spec.Hosts, time.Now()); text != "" {
			return admission.Warnings{text}
		}
	}
	return nil
}

// judge gives the first reason why a Route cannot be served.
func judge(ctx context.Context, reader client.Reader, route *v1alpha1.Route) error {
	if err := validate(&route.Spec); err != nil {
		return err
	}
	if problems := gateway.Check(route); len(problems) > 0 {
		return reconcile.Stall(v1alpha1.ReasonInvalid, "%s", strings.Join(problems, "; "))
	}
	var taken []string
	for _, host := range hostsOf(route) {
		why, err := blocked(ctx, reader, host, route.Namespace)
		if err != nil {
			return err
		}
		if why != "" {
			taken = append(taken, why)
		}
	}
	if err := stallTaken(taken); err != nil {
		return err
	}
	return findBackends(ctx, reader, route)
}

// ValidateUpdate refuses a change that cannot be served. A change that leaves the spec alone is let through: nobody must
// be kept from removing a finalizer.
func (v *validator) ValidateUpdate(ctx context.Context, before, after *v1alpha1.Route) (admission.Warnings, error) {
	if after.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, after.Spec) {
		return nil, nil
	}
	return v.ValidateCreate(ctx, after)
}

// ValidateDelete lets every deletion through.
func (*validator) ValidateDelete(context.Context, *v1alpha1.Route) (admission.Warnings, error) {
	return nil, nil
}

func stalled(err error) bool {
	var s *reconcile.Stalled
	return errors.As(err, &s)
}
