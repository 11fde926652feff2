package server

import (
	"context"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"yunfan.io/yunfan/internal/rest"
)

// frame is what answers HTTP requests beside the capabilities' routes.
type frame struct {
	authenticator *rest.Authenticator
	authorizer    *rest.Authorizer
	hooks         *hooks
	ready         *readiness
}

// handler answers everything on the API's address. Health, and admission reviews by the hub, need no user.
func (f frame) handler(parts rest.Parts) http.Handler {
	mux := http.NewServeMux()
	f.health(mux)
	for path := range f.hooks.paths {
		mux.Handle("POST "+path, http.MaxBytesHandler(f.hooks.mux, rest.MaxBody))
	}
	exposition := promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{})
	parts.Routes = append(parts.Routes, rest.Route{Pattern: "GET /metrics", Handler: func(w http.ResponseWriter, r *http.Request) error {
		if err := f.authorizer.RequirePath(r.Context(), "get", "/metrics"); err != nil {
			return err
		}
		exposition.ServeHTTP(w, r)
		return nil
	}})
	mux.Handle("/", rest.Routes(f.authenticator, parts))
	return rest.CleanPaths(mux)
}

// health adds /healthz, which says that the process answers, and /readyz, which says that it knows the hub's state.
func (f frame) health(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n")) // the prober is gone if this fails
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !f.ready.is.Load() {
			s := rest.StatusOf(apierrors.NewServiceUnavailable("the hub's state is not read yet"))
			_ = rest.WriteJSON(w, int(s.Code), s)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// readiness becomes true once the manager's caches are filled. Every replica has it.
type readiness struct {
	mgr manager.Manager
	is  atomic.Bool
}

func newReadiness(mgr manager.Manager) *readiness { return &readiness{mgr: mgr} }

// NeedLeaderElection says that every replica does this.
func (*readiness) NeedLeaderElection() bool { return false }

// Start waits for the caches.
func (r *readiness) Start(ctx context.Context) error {
	r.is.Store(r.mgr.GetCache().WaitForCacheSync(ctx))
	<-ctx.Done()
	r.is.Store(false)
	return nil
}
