package v1alpha1_test

import (
	"maps"
	"testing"

	"yunfan.io/yunfan/internal/testkit"
)

func TestWorkflowRunIsSteeredOneWay(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, from, change, words string
	}{
		"Both":      {"it is one or the other", `spec: {workflow: a, definition: {steps: [{name: a, action: wait}]}}`, "", "one of the two"},
		"Neither":   {"something must be run", `spec: {}`, "", "one of the two"},
		"Other":     {"what is run is fixed", `spec: {workflow: a}`, `spec: {workflow: b}`, "start another run"},
		"Unabort":   {"aborted is aborted", `spec: {workflow: a, aborted: true}`, `spec: {aborted: false}`, "retry it"},
		"SameRetry": {"a retry that was there before is none", `spec: {workflow: a, aborted: true, retry: {number: 1}}`, `spec: {aborted: false}`, "retry it"},
		"Retry":     {"an aborted run can be retried", `spec: {workflow: a, aborted: true, retry: {number: 1}}`, `spec: {aborted: false, retry: {number: 2}}`, ""},
		"First":     {"also for the first time", `spec: {workflow: a, aborted: true}`, `spec: {aborted: false, retry: {number: 1}}`, ""},
		"Backwards": {"retries are counted", `spec: {workflow: a, retry: {number: 2}}`, `spec: {retry: {number: 1}}`, "only grows"},
		"User":      {"who started it stays", `spec: {workflow: a, user: {name: yunfan:li}}`, `spec: {user: {name: yunfan:wang}}`, "cannot be changed"},
	} {
		t.Run(name, func(t *testing.T) {
			run := object(t, `{kind: WorkflowRun, metadata: {namespace: default}}`, tc.from)
			run.SetName(testkit.Name(t))
			err := hub.Client.Create(t.Context(), run)
			if err == nil && tc.change != "" {
				changed := object(t, tc.change)
				maps.Copy(run.Object["spec"].(map[string]any), changed.Object["spec"].(map[string]any))
				err = hub.Client.Update(t.Context(), run)
			}
			switch {
			case tc.words != "":
				expectRefused(t, err, tc.words)
			case err != nil:
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}
