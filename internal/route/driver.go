package route

import (
	"strings"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/f5"
)

// drivers are the platform's own.
func drivers() map[v1alpha1.EdgeDriver]NewDriver {
	return map[v1alpha1.EdgeDriver]NewDriver{
		v1alpha1.EdgeDriverAgent: func(endpoint string, credentials map[string][]byte) (edge.Driver, error) {
			return edge.NewClient(endpoint, strings.TrimSpace(string(credentials["token"])), credentials["ca.crt"]) // files end with a line feed
		},
		v1alpha1.EdgeDriverF5: f5.New,
	}
}
