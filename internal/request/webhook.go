package request

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// WebhookPath is where the hub's API server asks whether a ResourceRequest is sound.
const WebhookPath = "/validate-yunfan-io-v1alpha1-resourcerequest"

// webhook refuses early what the first step of the request's run would refuse, with the same words; the run decides.
func (r *Requests) webhook(mgr manager.Manager) http.Handler {
	return admission.WithValidator[*v1alpha1.ResourceRequest](mgr.GetScheme(), &validator{r})
}

type validator struct{ *Requests }

// ValidateCreate refuses what cannot be given.
func (v *validator) ValidateCreate(ctx context.Context, req *v1alpha1.ResourceRequest) (admission.Warnings, error) {
	for _, from := range []client.Reader{v.client, v.reader} { // what it names may have been made a moment ago
		_, err := v.examine(ctx, from, req)
		if !action.IsFailed(err) {
			return nil, nil
		}
		if from == v.reader {
			return nil, err
		}
	}
	return nil, nil
}

// ValidateUpdate refuses to withdraw what was decided already.
func (*validator) ValidateUpdate(_ context.Context, before, after *v1alpha1.ResourceRequest) (admission.Warnings, error) {
	if after.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, after.Spec) {
		return nil, nil
	}
	if after.Spec.Withdrawn && !before.Spec.Withdrawn && after.Status.Phase != "" && after.Status.Phase != v1alpha1.RequestApplied {
		return nil, fmt.Errorf("the request is %s already: make a request of type Return to give the partition back", after.Status.Phase)
	}
	return nil, nil
}

// ValidateDelete lets every deletion through.
func (*validator) ValidateDelete(context.Context, *v1alpha1.ResourceRequest) (admission.Warnings, error) {
	return nil, nil
}
