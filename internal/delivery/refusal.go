package delivery

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// refusedRetry is the pause before something refused is tried again although nothing of it has changed.
	refusedRetry = 30 * time.Second
	// rightsRetry is the first pause, which doubles, while the partition's rights may just not have arrived.
	rightsRetry = 250 * time.Millisecond
)

// refusal is an object that the member does not take. It is tried again at once when manifest or partition change.
type refusal struct {
	reason  string
	message string
	retry   time.Duration

	hash  string // of the manifest refused
	plan  string // key of the plan: it changes with the partition
	until time.Time
}

// refusedFor says how long a target is not tried again; 0 if it may be.
func (rec *record) refusedFor(t *target, plan string) time.Duration {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	f := rec.refused[t.key]
	if f == nil || f.hash != t.hash || f.plan != plan {
		return 0
	}
	return time.Until(f.until)
}

func (rec *record) refuse(t *target, plan string, f *refusal) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if last := rec.refused[t.key]; last != nil && last.hash == t.hash && last.plan == plan && f.retry < refusedRetry {
		f.retry = min(2*last.retry, refusedRetry)
	}
	f.hash, f.plan, f.until = t.hash, plan, time.Now().Add(f.retry)
	rec.refused[t.key] = f
}

// refusalFor gives what stands against a target, if anything.
func (rec *record) refusalFor(t *target) *refusal {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if f := rec.refused[t.key]; f != nil && f.hash == t.hash {
		return f
	}
	return nil
}

// refusalOf says whether an error is the member's decision on this object, and not one that goes away by itself.
func refusalOf(t *target, err error) *refusal {
	name := fmt.Sprintf("%s %s", t.entry.Kind, t.entry.Name)
	text := statusMessage(err)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case noMatch(err):
		return &refusal{reason: v1alpha1.ReasonRefused, retry: refusedRetry,
			message: fmt.Sprintf("the cluster does not know the kind of %s: its Kubernetes is too old", name)}
	case apierrors.IsForbidden(err) && strings.Contains(text, "exceeded quota"):
		return &refusal{reason: v1alpha1.ReasonQuotaExceeded, retry: refusedRetry, message: quotaMessage(name, text)}
	case apierrors.IsForbidden(err) && strings.Contains(text, "cannot patch resource"):
		return &refusal{reason: v1alpha1.ReasonRefused, retry: rightsRetry,
			message: fmt.Sprintf("the partition's identity may not write %s: %s", name, text)}
	case apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict):
		return &refusal{reason: v1alpha1.ReasonRefused, retry: refusedRetry,
			message: fmt.Sprintf("%s exists in the namespace and was not made by Yunfan: rename the component or delete the object (%s)", name, text)}
	case apierrors.IsInvalid(err) && (strings.Contains(text, "immutable") || strings.Contains(text, "may not change once set") || strings.Contains(text, "are forbidden")):
		return &refusal{reason: v1alpha1.ReasonRefused, retry: refusedRetry,
			message: fmt.Sprintf("%s cannot be changed in this way while it exists: change it back, or give the component another name (%s)", name, text)}
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err),
		strings.Contains(text, "failed to create typed patch object"): // a list with two of one key: told as an internal error
		return &refusal{reason: v1alpha1.ReasonRefused, retry: refusedRetry, message: fmt.Sprintf("the cluster refuses %s: %s", name, text)}
	}
	return nil
}

func refuseForeign(t *target, owner string) *refusal {
	whose := "was not made by Yunfan"
	if owner != "" {
		whose = "belongs to application " + owner
	}
	return &refusal{reason: v1alpha1.ReasonRefused, retry: refusedRetry, message: fmt.Sprintf(
		"%s %s exists in the namespace and %s: rename the component", t.entry.Kind, t.entry.Name, whose)}
}

func quotaMessage(what, text string) string {
	if i := strings.Index(text, "exceeded quota"); i >= 0 {
		text = text[i:]
	}
	return fmt.Sprintf("the partition's quota does not hold %s: %s: raise the quota or ask for less", what, text)
}

// statusMessage is what the API server says, without what clients put around it.
func statusMessage(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Message != "" && status.Status().Reason != metav1.StatusReasonUnknown {
		return status.Status().Message
	}
	return err.Error()
}
