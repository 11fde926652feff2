package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/internal/rest"
)

// maxRefusal bounds what is read of a refusal, in bytes.
const maxRefusal = 64 << 10

// answer adds to a refusal what is missing and who gives it: Kubernetes only says that something is.
func (p *Proxy) answer(ctx context.Context, response *http.Response, q request, cluster string) error {
	user := rest.UserOf(ctx)
	if response.StatusCode != http.StatusForbidden || !ours(user) {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	_ = response.Body.Close()
	if err != nil {
		return fmt.Errorf("reading the refusal: %w", err)
	}
	status := metav1.Status{}
	if json.Unmarshal(text, &status) != nil || status.Kind != "Status" {
		status = metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Message: "the API server refuses this"}
	}
	status.TypeMeta, status.Code = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, http.StatusForbidden
	if why := p.Rights.Why(ctx, user, cluster, q.attributes); why != "" {
		status.Message += ": " + why
	}
	if text, err = json.Marshal(status); err != nil {
		return fmt.Errorf("writing the refusal: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(text))
	response.ContentLength = int64(len(text))
	response.Header.Set("Content-Length", strconv.Itoa(len(text)))
	response.Header.Set("Content-Type", "application/json")
	response.Header.Del("Content-Encoding")
	return nil
}
