package access

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// probeInterval is how often a directory is asked whether it answers.
const probeInterval = 5 * time.Minute

// directoryController says whether directories answer.
type directoryController struct{ service *Service }

// SetupWithManager registers the controller with the hub's manager.
func (c *directoryController) SetupWithManager(mgr manager.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("directory").
		For(&v1alpha1.Directory{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(c)
}

// Reconcile tries one Directory.
func (c *directoryController) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	directory := &v1alpha1.Directory{}
	if err := c.service.hub.Get(ctx, r.NamespacedName, directory); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	result, err := reconcile.Run(ctx, c.service.hub, directory, v1alpha1.ConditionReady, v1alpha1.ReasonReady, c.probe)
	if err == nil && result.RequeueAfter == 0 {
		result.RequeueAfter = probeInterval
	}
	return result, err
}

func (c *directoryController) probe(ctx context.Context, directory *v1alpha1.Directory) error {
	if directory.Spec.Type == v1alpha1.DirectoryOIDC {
		_, err := c.service.oidc.provider(ctx, directory)
		return err
	}
	return c.service.probeLDAP(ctx, directory)
}

// DirectoryRow is a directory as the sign-in page shows it.
type DirectoryRow struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	DisplayName string `json:"displayName,omitempty"`
}

// listDirectories gives what anybody may know: where he can sign in.
func (s *Service) listDirectories(r *http.Request) ([]DirectoryRow, error) {
	list := &v1alpha1.DirectoryList{}
	if err := s.hub.List(r.Context(), list); err != nil {
		return nil, err
	}
	rows := []DirectoryRow{{Name: Local, Type: "Local"}}
	for i := range list.Items {
		d := &list.Items[i]
		rows = append(rows, DirectoryRow{Name: d.Name, Type: string(d.Spec.Type), DisplayName: d.Spec.DisplayName})
	}
	slices.SortFunc(rows[1:], func(a, b DirectoryRow) int { return cmp.Compare(a.Name, b.Name) })
	return rows, nil
}
