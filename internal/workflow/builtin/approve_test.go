package builtin

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
)

func TestOPS10_ApproveWaitsUntilSomebodyWhoMayDecides(t *testing.T) {
	d := newDesk(t, map[string]any{
		"subject": "release 2", "values": map[string]any{"cpu": 4, "name": "a"}, "editable": []string{"cpu"},
	})
	out, err := d.ask(t)
	if err != nil || out.Done || !out.Waiting {
		t.Fatalf("got %+v and %v, want the step to wait", out, err)
	}
	want := &v1alpha1.ApprovalWanted{
		Subject: "release 2", Roles: []v1alpha1.ApproverRole{v1alpha1.ApproverAdmin}, Count: 1, Editable: []string{"cpu"},
		Values: map[string]json.RawMessage{"cpu": json.RawMessage("4"), "name": json.RawMessage(`"a"`)},
	}
	got := out.Approval.DeepCopy()
	got.Digest = ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	a := d.decide(t, d.approval(t, actor("wang", d.admin()), func(s *v1alpha1.ApprovalSpec) {
		s.Comment, s.Values = "fine", map[string]json.RawMessage{"cpu": json.RawMessage("2")}
	}))
	if out, err = d.ask(t); err != nil || !out.Done || out.Actor != "wang" {
		t.Fatalf("got %+v and %v, want the step to be done by wang\n%s", out, err, d.text())
	}
	text, err := json.Marshal(out.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"by":["wang"],"comment":"fine","decision":"Approved","values":{"cpu":2,"name":"a"}}`, string(text)); diff != "" {
		t.Error(diff)
	}
	if got := accepted(t, a); got != "True Counted" {
		t.Errorf("the approval is %q", got)
	}
}

func TestOPS10_ApprovalsThatDoNotCount(t *testing.T) {
	d := newDesk(t, map[string]any{"values": map[string]any{"cpu": 4, "name": "a", "note": "b"}, "editable": []string{"cpu", "note"}, "users": []string{"zhao"}, "roles": []string{"Operator"}})
	if _, err := d.ask(t); err != nil {
		t.Fatal(err)
	}
	retrier := actor("sun", d.admin())
	d.run.Status.RetriedBy = &retrier
	if _, err := d.ask(t); err != nil {
		t.Fatal(err)
	}
	tenant := d.run.Namespace
	operator := v1alpha1.TenantGroup(tenant, v1alpha1.RoleOperator)
	change := func(f func(*v1alpha1.ApprovalSpec)) []func(*v1alpha1.ApprovalSpec) {
		return []func(*v1alpha1.ApprovalSpec){f}
	}
	value := func(name, raw string) []func(*v1alpha1.ApprovalSpec) {
		return change(func(s *v1alpha1.ApprovalSpec) {
			s.Values = map[string]json.RawMessage{name: json.RawMessage(raw)}
		})
	}
	webhook := &validator{d.mgr.GetAPIReader(), d.mgr.GetClient()}
	for name, tc := range map[string]struct {
		user    v1alpha1.Actor
		changes []func(*v1alpha1.ApprovalSpec)
		want    string // the reason
	}{
		"of an operator":                              {user: actor("a", operator), want: reasonCounted},
		"of an administrator of the tenant":           {user: actor("a", d.admin()), want: reasonCounted},
		"of a platform administrator":                 {user: actor("a", v1alpha1.GroupPlatformAdmin), want: reasonCounted},
		"of a user who is named":                      {user: actor("zhao"), want: reasonCounted},
		"of the hub's own user with a name like that": {user: v1alpha1.Actor{Name: "zhao"}, want: reasonNotAllowed},
		"of a viewer":                                 {user: actor("a", v1alpha1.TenantGroup(tenant, v1alpha1.RoleViewer)), want: reasonNotAllowed},
		"of an operator of one partition":             {user: actor("a", v1alpha1.PartitionGroup(tenant, "p", v1alpha1.RoleOperator), v1alpha1.LimitedOperatorGroup(tenant)), want: reasonNotAllowed},
		"of another tenant's administrator":           {user: actor("a", v1alpha1.TenantGroup("other", v1alpha1.RoleAdmin)), want: reasonNotAllowed},
		"of who started the run":                      {user: actor("li", d.admin()), want: reasonOwnRun},
		"of who started it, as administrator":         {user: actor("li", v1alpha1.GroupPlatformAdmin), want: reasonOwnRun},
		"of who retried it":                           {user: actor("sun", d.admin()), want: reasonOwnRun},
		"of something else":                           {user: actor("a", d.admin()), changes: change(func(s *v1alpha1.ApprovalSpec) { s.Digest = "sha256:0" }), want: reasonDigestMismatch},
		"of an earlier run of that name":              {user: actor("a", d.admin()), changes: change(func(s *v1alpha1.ApprovalSpec) { s.RunUID = "another" }), want: reasonNotWaiting},
		"of a run that does not exist":                {user: actor("a", d.admin()), changes: change(func(s *v1alpha1.ApprovalSpec) { s.Run = "none" }), want: reasonNotWaiting},
		"of a step that does not exist":               {user: actor("a", d.admin()), changes: change(func(s *v1alpha1.ApprovalSpec) { s.Step = "none" }), want: reasonNotWaiting},
		"with a value that is not to be changed":      {user: actor("a", d.admin()), changes: value("name", `"b"`), want: reasonValueNotAllowed},
		"with a value that nobody asked for":          {user: actor("a", d.admin()), changes: value("memory", `1`), want: reasonValueNotAllowed},
		"with a value of another type":                {user: actor("a", d.admin()), changes: value("cpu", `"4"`), want: reasonValueNotAllowed},
		"with a value that is too large":              {user: actor("a", d.admin()), changes: value("note", `"`+strings.Repeat("1", maxGiven)+`"`), want: reasonValueNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := webhook.ValidateCreate(t.Context(), d.approval(t, tc.user, tc.changes...))
			if tc.want == reasonCounted {
				if err != nil {
					t.Errorf("admission refuses it: %v", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), tc.want+": ") {
				t.Errorf("admission says %v, want %s", err, tc.want)
			}
			// Past admission, neither does it count.
			a := d.decide(t, d.approval(t, tc.user, tc.changes...))
			out, err := d.action.Run(t.Context(), d.call)
			if err != nil || out.Done {
				t.Fatalf("got %+v and %v, want the step to wait", out, err)
			}
			NewWithT(t).Eventually(func() string { return accepted(t, a) }, "20s").Should(Equal("False " + tc.want))
		})
	}
}

func TestOPS10_EachPersonCountsOnce(t *testing.T) {
	d := newDesk(t, map[string]any{"count": 2})
	if _, err := d.ask(t); err != nil {
		t.Fatal(err)
	}
	first := d.decide(t, d.approval(t, actor("wang", d.admin())))
	if out, err := d.ask(t); err != nil || out.Done || !strings.HasPrefix(out.Message, "1 of 2 have approved") {
		t.Fatalf("got %+v and %v, want the step to wait for the second", out, err)
	}
	twice := d.approval(t, actor("wang", d.admin()))
	webhook := &validator{d.mgr.GetAPIReader(), d.mgr.GetClient()}
	NewWithT(t).Eventually(func() error {
		_, err := webhook.ValidateCreate(t.Context(), twice)
		return err
	}, "10s").Should(MatchError(ContainSubstring("wang has approved already")))
	d.decide(t, twice)
	if out, err := d.ask(t); err != nil || out.Done {
		t.Fatalf("got %+v and %v: the same person counted twice", out, err)
	}

	second := d.decide(t, d.approval(t, actor("zhao", d.admin())))
	third := d.decide(t, d.approval(t, actor("sun", d.admin())))
	for _, repeated := range []bool{false, true} { // the server ended before the result was written
		d.call.Repeated = repeated
		out, err := d.action.Run(t.Context(), d.call)
		if err != nil || !out.Done {
			t.Fatalf("got %+v and %v, want the step to be done", out, err)
		}
		if diff := cmp.Diff([]string{"wang", "zhao"}, out.Outputs["by"]); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := d.ask(t); err != nil {
		t.Fatal(err)
	}
	late := d.decide(t, d.approval(t, actor("qian", d.admin()), func(s *v1alpha1.ApprovalSpec) { s.Digest = first.Spec.Digest }))
	for a, want := range map[*v1alpha1.Approval]string{
		first: "True Counted", twice: "False AlreadyDecided", second: "True Counted", third: "False AlreadyDecided", late: "False AlreadyDecided",
	} {
		NewWithT(t).Eventually(func() string { return accepted(t, a) }, "20s").Should(Equal(want), a.Spec.User.Name)
	}
}

func TestOPS10_OneRejectionIsEnough(t *testing.T) {
	for onRejection, want := range map[string]string{"Fail": "rejected by zhao: not today", "Continue": ""} {
		t.Run(onRejection, func(t *testing.T) {
			d := newDesk(t, map[string]any{"count": 2, "onRejection": onRejection, "values": map[string]any{"cpu": 1}})
			if _, err := d.ask(t); err != nil {
				t.Fatal(err)
			}
			d.decide(t, d.approval(t, actor("wang", d.admin())))
			d.decide(t, d.approval(t, actor("zhao", d.admin()), rejecting))
			out, err := d.ask(t)
			switch {
			case want != "":
				if err == nil || err.Error() != want || !action.IsFailed(err) {
					t.Errorf("got %v, want %q for good", err, want)
				}
			case err != nil || !out.Done:
				t.Errorf("got %+v and %v", out, err)
			case out.Outputs["decision"] != v1alpha1.DecisionRejected || out.Outputs["comment"] != "not today":
				t.Errorf("got %v", out.Outputs)
			}
		})
	}
}

func TestOPS10_AnotherAttemptIsAnotherDecision(t *testing.T) {
	d := newDesk(t, nil)
	before, err := d.ask(t)
	if err != nil {
		t.Fatal(err)
	}
	a := d.approval(t, actor("wang", d.admin()))
	d.call.Attempt, d.call.State = 2, nil
	after, err := d.ask(t)
	if err != nil || before.Approval.Digest == after.Approval.Digest {
		t.Fatalf("the second attempt waits for the same: %v", err)
	}
	d.decide(t, a)
	if out, err := d.ask(t); err != nil || out.Done {
		t.Errorf("got %+v and %v: an approval of the first attempt counted in the second", out, err)
	}
	NewWithT(t).Eventually(func() string { return accepted(t, a) }, "20s").Should(Equal("False DigestMismatch"))
}

func TestOPS10_ThoseWhoMayDecideAreToldOnce(t *testing.T) {
	d := newDesk(t, map[string]any{"roles": []string{"PlatformAdministrator", "Operator"}, "users": []string{"zhao"}, "subject": "release 2", "remindEvery": "1h"})
	d.broken = errors.New("no mail today")
	if out, err := d.ask(t); err != nil || !out.Waiting {
		t.Fatalf("got %+v and %v: that nobody could be told fails the step", out, err)
	}
	d.broken = nil
	for range 3 {
		if _, err := d.ask(t); err != nil {
			t.Fatal(err)
		}
	}
	d.call.State = nil // the server ended before it could write that they were told
	if _, err := d.ask(t); err != nil {
		t.Fatal(err)
	}
	if len(d.sent) != 1 || d.calls != 3 {
		t.Fatalf("%d messages in %d calls, want 1 in 3", len(d.sent), d.calls)
	}
	want := []outbound.Recipient{{PlatformAdministrators: true}, {Role: v1alpha1.RoleOperator}, {User: "zhao"}}
	if diff := cmp.Diff(want, d.sent[0].To); diff != "" {
		t.Error(diff)
	}
	if m := d.sent[0]; m.Topic != topicApprovalWanted || m.Tenant != d.run.Namespace || m.Data["subject"] != "release 2" || m.Data["user"] != "li" {
		t.Errorf("got %+v", m)
	}
	d.call.Started = d.call.Started.Add(-90 * time.Minute)
	if _, err := d.ask(t); err != nil || len(d.sent) != 2 {
		t.Errorf("%d messages after an hour and a half, want 2: %v", len(d.sent), err)
	}
}

func TestApproveRefusesInputs(t *testing.T) {
	for want, inputs := range map[string]map[string]any{
		`roles: "Viewer" is none of`:                {"roles": []string{"Viewer"}},
		"count: 0 is not between":                   {"count": 0},
		"count: 2 people are to approve and only 1": {"count": 2, "users": []string{"a", "a"}},
		`editable: there is no value "b"`:           {"values": map[string]any{"a": 1}, "editable": []string{"b"}},
		"values: more than":                         {"values": map[string]any{"a": strings.Repeat("x", maxAsked)}},
		"onRejection:":                              {"onRejection": "Perhaps"},
		"remindEvery:":                              {"remindEvery": "1s"},
		"unknown field":                             {"who": "me"},
	} {
		_, err := (&approve{}).Run(t.Context(), callOf(&journal{}, inputs))
		if err == nil || !strings.Contains(err.Error(), want) || !action.IsFailed(err) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
