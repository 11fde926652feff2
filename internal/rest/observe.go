package rest

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
	Name:    "yunfan_http_request_duration_seconds",
	Help:    "Time to answer a request, by the route's pattern and the answer's code; of streams, how long they were open.",
	Buckets: []float64{0.005, 0.02, 0.1, 0.5, 2, 10, 60},
}, []string{"route", "code"})

func init() { metrics.Registry.MustRegister(duration) } //nolint:gochecknoinits // the one way to controller-runtime's registry

// observe counts a route's requests.
func observe(pattern string, next Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, tracked := time.Now(), &tracker{ResponseWriter: w}
		defer func() {
			duration.WithLabelValues(pattern, strconv.Itoa(cmp.Or(tracked.code, http.StatusOK))).Observe(time.Since(start).Seconds())
		}()
		plain(next).ServeHTTP(tracked, r)
	})
}

func log(r *http.Request) logr.Logger { return ctrl.LoggerFrom(r.Context()).WithName("http") }
