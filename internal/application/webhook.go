package application

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// WebhookPath is where the hub's API server asks whether an Application is sound.
const WebhookPath = "/validate-yunfan-io-v1alpha1-application"

// NewWebhook gives the handler of admission reviews. It refuses early what the controller would refuse later, with the
// same words; the controller decides.
func NewWebhook(mgr manager.Manager) http.Handler {
	return admission.WithValidator[*v1alpha1.Application](mgr.GetScheme(), &validator{mgr.GetClient(), mgr.GetAPIReader()})
}

type validator struct {
	cached, live client.Reader
}

// ValidateCreate refuses a new application that cannot be delivered.
func (v *validator) ValidateCreate(ctx context.Context, app *v1alpha1.Application) (admission.Warnings, error) {
	if app.Namespace == "" || app.Name == "" {
		return nil, nil
	}
	p, err := NewPlan(ctx, v.cached, app)
	if !stalled(err) {
		return p.warnings(), nil
	}
	// What it needs may have been created a moment ago: the hub itself is asked before it is refused.
	if p, err = NewPlan(ctx, v.live, app); stalled(err) {
		return nil, err
	}
	return p.warnings(), nil
}

// warnings tell whoever writes the application that he will wait for somebody.
func (p *Plan) warnings() admission.Warnings {
	if p == nil || len(p.Approval) == 0 {
		return nil
	}
	return admission.Warnings{fmt.Sprintf("revision %s waits for the approval of somebody else, an Admin of the tenant or a platform administrator, before it reaches %s",
		p.Revision.Name, strings.Join(p.Approval, ", "))}
}

// ValidateUpdate refuses a change that cannot be delivered. A change that leaves the spec alone is let through:
// nobody must be kept from removing a finalizer.
func (v *validator) ValidateUpdate(ctx context.Context, before, after *v1alpha1.Application) (admission.Warnings, error) {
	if after.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, after.Spec) {
		return nil, nil
	}
	return v.ValidateCreate(ctx, after)
}

// ValidateDelete lets every deletion through.
func (*validator) ValidateDelete(context.Context, *v1alpha1.Application) (admission.Warnings, error) {
	return nil, nil
}

func stalled(err error) bool {
	var s *reconcile.Stalled
	return errors.As(err, &s)
}
