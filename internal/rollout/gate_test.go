package rollout

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestRequestsAreJudged(t *testing.T) {
	before := &tally{Requests: 100, Failures: 50, Bounds: []float64{0.1, 0.5}, Slower: []uint64{100, 100}}
	now := func(requests, failures, slow uint64) *tally {
		return &tally{Requests: 100 + requests, Failures: 50 + failures, Bounds: before.Bounds, Slower: []uint64{100 + slow, 100}}
	}
	for name, tc := range map[string]struct {
		reason string
		gate   v1alpha1.RequestsGate
		now    *tally
		waited time.Duration
		done   bool
		words  string
	}{
		"Good":    {"what failed before does not count", v1alpha1.RequestsGate{}, now(1000, 10, 0), 0, true, ""},
		"Bad":     {"one more than one of a hundred", v1alpha1.RequestsGate{}, now(1000, 11, 0), 0, false, "98.90%"},
		"Lenient": {"the strategy says how many", v1alpha1.RequestsGate{SuccessPercent: new(int32(90))}, now(1000, 100, 0), 0, true, ""},
		"Slow":    {"more than five of a hundred take longer", v1alpha1.RequestsGate{Latency: moment(100 * time.Millisecond)}, now(1000, 0, 51), 0, false, "took longer"},
		"Fast":    {"five of a hundred may", v1alpha1.RequestsGate{Latency: moment(100 * time.Millisecond)}, now(1000, 0, 50), 0, true, ""},
		"Bound":   {"what lies between two bounds is taken for slow", v1alpha1.RequestsGate{Latency: moment(400 * time.Millisecond)}, now(1000, 0, 51), 0, false, "took longer"},
		"Few":     {"it waits for the minimum", v1alpha1.RequestsGate{Minimum: 10}, now(9, 9, 0), time.Minute, false, ""},
		"Never":   {"not for ever", v1alpha1.RequestsGate{Minimum: 10}, now(9, 0, 0), 10 * time.Minute, false, "10 are needed"},
		"None":    {"without requests nothing is wrong", v1alpha1.RequestsGate{}, now(0, 0, 0), 0, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := judge(&tc.gate, before, tc.now, tc.waited)
			if out.Done != tc.done || (err != nil) != (tc.words != "") || err != nil && !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%s: got %+v, %v", tc.reason, out, err)
			}
		})
	}
}

func TestNumberOfPrometheus(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, body string
		want         float64
		words        string
	}{
		"Vector": {"one element", `{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "0.25"]}]}}`, 0.25, ""},
		"Scalar": {"a number", `{"status": "success", "data": {"resultType": "scalar", "result": [1, "3"]}}`, 3, ""},
		"Many":   {"which of them?", `{"status": "success", "data": {"resultType": "vector", "result": [{"value": [1, "1"]}, {"value": [1, "2"]}]}}`, 0, "2 values"},
		"Empty":  {"nothing is no number", `{"status": "success", "data": {"resultType": "vector", "result": []}}`, 0, "0 values"},
		"Page":   {"another server", `"<html>"`, 0, "not one of a Prometheus"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := numberIn(json.RawMessage(tc.body))
			if got != tc.want || (err != nil) != (tc.words != "") || err != nil && !strings.Contains(err.Error(), tc.words) {
				t.Errorf("%s: got %v, %v", tc.reason, got, err)
			}
		})
	}
}
