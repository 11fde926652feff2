package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/internal/reconcile"
)

func TestStatusOf(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		err     error
		code    int32
		because string
		says    string
	}{
		"Kubernetes": {"an error of the hub keeps its kind and message", fmt.Errorf("reading: %w", NotFound("applications", "x")), 404, "NotFound", "not found"},
		"Stalled":    {"what only the user can mend is his mistake", reconcile.Stall("QuotaExceeded", "too much"), 422, "QuotaExceeded", "too much"},
		"Waiting":    {"what mends itself can be tried again", reconcile.Wait("Unreachable", 0, "gone"), 503, "Unreachable", "gone"},
		"TooLarge":   {"a body beyond the limit", fmt.Errorf("reading: %w", &http.MaxBytesError{Limit: 7}), 413, "RequestEntityTooLarge", "7 bytes"},
		"Deadline":   {"a request that took too long", fmt.Errorf("listing: %w", context.DeadlineExceeded), 504, "Timeout", "too long"},
		"Own":        {"of our own failures the client learns nothing", errors.New("dial 10.0.0.7: refused"), 500, "InternalError", "its log has the reason"},
		"TooMany":    {"overload says when to come back", apierrors.NewTooManyRequests("busy", 1), 429, "TooManyRequests", "busy"},
	} {
		t.Run(name, func(t *testing.T) {
			got := StatusOf(tc.err)
			if got.Code != tc.code || string(got.Reason) != tc.because || !strings.Contains(got.Message, tc.says) {
				t.Errorf("%s: got %d %s %q", tc.reason, got.Code, got.Reason, got.Message)
			}
			if got.Kind != "Status" || got.APIVersion != "v1" {
				t.Errorf("got kind %q of %q: kubectl and client-go read v1 Status only", got.Kind, got.APIVersion)
			}
		})
	}
}
