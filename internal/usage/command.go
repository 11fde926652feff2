package usage

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/internal/cli"
)

// Command shows on the command line what a tenant or one of its partitions used.
type Command struct {
	Access *cli.Access
	Output cli.Output
	// Partition is empty for the tenant.
	Partition string
	// From, To and Step are as in the API; empty for its defaults.
	From, To, Step string
}

// Run prints for each resource what was used on average and at most, and of how much at the end. As JSON and YAML it has
// every point.
func (c *Command) Run(ctx context.Context, out io.Writer) error {
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	tenant, err := c.Access.Tenant()
	if err != nil {
		return err
	}
	query := url.Values{"tenant": {tenant}}
	for key, value := range map[string]string{"partition": c.Partition, "from": c.From, "to": c.To, "step": c.Step} {
		if value != "" {
			query.Set(key, value)
		}
	}
	answer := &Answer{}
	if err := server.Call(ctx, http.MethodGet, "/api/v1/usage", query, nil, answer); err != nil {
		return fmt.Errorf("reading the history of usage: %w", err)
	}
	return c.Output.Print(out, answer, func(t *cli.Table) {
		t.Header("RESOURCE", "USED ON AVERAGE", "AT MOST", "HARD", "POINTS", "LAST SEEN")
		for _, s := range answer.Series {
			average, peak := 0.0, 0.0
			for _, p := range s.Points {
				average += p.Used / float64(len(s.Points))
				peak = max(peak, p.Peak)
			}
			last := s.Points[len(s.Points)-1]
			hard := "unlimited"
			if last.Hard != nil {
				hard = figure(s.Resource, *last.Hard)
			}
			t.Row(s.Resource, figure(s.Resource, average), figure(s.Resource, peak), hard, len(s.Points), last.At.Format("2006-01-02 15:04"))
		}
	})
}

// figure shows bytes in MiB; all else as it is.
func figure(name corev1.ResourceName, value float64) string {
	const mebibyte = 1 << 20
	switch name {
	case corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory, corev1.ResourceRequestsStorage,
		corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage:
		return strconv.FormatFloat(value/mebibyte, 'f', 0, 64) + "Mi"
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}
