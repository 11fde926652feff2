package delivery

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// warningAge is how long an answer is used before the events are asked again.
	warningAge = 5 * time.Second
	// warningLimit bounds the events read of one object.
	warningLimit = 50
)

// warning is what the member's events said of an object.
type warning struct {
	text string
	at   time.Time
}

// warning gives the newest warning that the member's events have of an object; empty if there is none. Reason limits it
// to events of that reason. The component is looked at again later: events by themselves wake nobody.
func (r *run) warning(ctx context.Context, key objectKey, uid types.UID, reason string) string {
	r.lookAgain(warningAge)
	if known := r.rec.warnings[key]; known != nil && time.Since(known.at) < warningAge {
		return known.text
	}
	selector := fields.Set{"involvedObject.name": key.Name, "involvedObject.uid": string(uid), "type": corev1.EventTypeWarning}
	if reason != "" {
		selector["reason"] = reason
	}
	events := &corev1.EventList{}
	err := r.as.List(ctx, events, client.InNamespace(key.Namespace), client.Limit(warningLimit), client.MatchingFieldsSelector{Selector: selector.AsSelector()})
	found := &warning{at: time.Now()}
	if err == nil && len(events.Items) > 0 {
		newest := slices.MaxFunc(events.Items, func(a, b corev1.Event) int { return eventTime(&a).Compare(eventTime(&b)) })
		found.text = newest.Message
	}
	if len(r.rec.warnings) > warningLimit {
		clear(r.rec.warnings) // pods come and go
	}
	r.rec.warnings[key] = found
	return found.text
}

func eventTime(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}
