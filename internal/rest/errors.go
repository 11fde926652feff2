package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/internal/reconcile"
)

// StatusOf says what an error means to the client. Errors made for people keep their message; of any other only the
// kind is told, since it may name what the client has no business to know.
func StatusOf(err error) metav1.Status {
	var known apierrors.APIStatus
	var stalled *reconcile.Stalled
	var waiting *reconcile.Waiting
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return status(http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge,
			fmt.Sprintf("the request is larger than %d bytes", tooLarge.Limit))
	case errors.As(err, &stalled):
		return status(http.StatusUnprocessableEntity, metav1.StatusReason(stalled.Reason), stalled.Error())
	case errors.As(err, &waiting):
		return status(http.StatusServiceUnavailable, metav1.StatusReason(waiting.Reason), waiting.Error())
	case errors.As(err, &known) && known.Status().Code != 0:
		s := known.Status()
		s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		return s
	case errors.Is(err, context.DeadlineExceeded):
		return status(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "the request took too long: try again, or ask for less")
	}
	return status(http.StatusInternalServerError, metav1.StatusReasonInternalError, "the server failed: its log has the reason")
}

func status(code int32, reason metav1.StatusReason, message string) metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: code, Reason: reason, Message: message,
	}
}
