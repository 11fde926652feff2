package application

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// tell sets a delivery's status as the delivery controller would.
func tell(d *v1alpha1.Delivery, applied, healthy string, ready, desired int32) {
	d.Status.ObservedGeneration = d.Generation
	d.Status.LastSeenTime = new(metav1.NewTime(time.Now().Truncate(time.Second)))
	revision := d.Spec.Tracks[0].Revision
	d.Status.Tracks = []v1alpha1.TrackStatus{{Role: v1alpha1.TrackStable, Revision: revision, Components: []v1alpha1.ComponentStatus{
		{Name: "db-service", Revision: revision, Desired: 1, Updated: 1, Ready: min(ready, 1)},
		{Name: "score-record", Revision: revision, Desired: desired - 1, Updated: desired - 1, Ready: ready - min(ready, 1)},
	}}}
	for kind, reason := range map[string]string{v1alpha1.ConditionApplied: applied, v1alpha1.ConditionHealthy: healthy} {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: "because of " + reason, ObservedGeneration: d.Generation}
		if reason == v1alpha1.ReasonReady {
			c.Status, c.Message = metav1.ConditionTrue, ""
		}
		meta.SetStatusCondition(&d.Status.Conditions, c)
	}
}

func TestSummary(t *testing.T) {
	const ready = v1alpha1.ReasonReady
	type want struct {
		Pods, Ready, Reason, Message, Progressing string
		Placements                                []v1alpha1.PlacementStatus
	}
	bj := v1alpha1.PlacementStatus{Partition: "prod-bj", Cluster: "beijing", Desired: 8, Ready: 8, Explanation: []string{"db-service 1 in each partition", "score-record 7 of 10 by weight 7/10"}}
	sh := v1alpha1.PlacementStatus{Partition: "prod-sh", Cluster: "shanghai", Desired: 4, Ready: 4, Explanation: []string{"db-service 1 in each partition", "score-record 3 of 10 by weight 3/10"}}
	with := func(s v1alpha1.PlacementStatus, ready int32, reason string) v1alpha1.PlacementStatus {
		s.Ready, s.Reason = ready, reason
		if reason != "" {
			s.Message = "because of " + reason
		}
		return s
	}
	cases := map[string]struct {
		reason string
		change func(bj, sh *v1alpha1.Delivery)
		err    error
		want   want
	}{
		"all ready": {
			reason: "every pod in every partition",
			change: func(*v1alpha1.Delivery, *v1alpha1.Delivery) {},
			want:   want{"12/12", "True", ready, "", "False", []v1alpha1.PlacementStatus{bj, sh}},
		},
		"one starts": {
			reason: "the partition and its pods are shown",
			change: func(_, sh *v1alpha1.Delivery) { tell(sh, ready, v1alpha1.ReasonNotReady, 2, 4) },
			want: want{"10/12", "False", v1alpha1.ReasonNotReady, "prod-sh: because of NotReady", "True",
				[]v1alpha1.PlacementStatus{bj, with(sh, 2, v1alpha1.ReasonNotReady)}},
		},
		"one cannot be reached": {
			reason: "what was seen of it last is kept, and never shown as healthy",
			change: func(_, sh *v1alpha1.Delivery) {
				tell(sh, ready, v1alpha1.ReasonUnreachable, 4, 4)
				sh.Generation++
			},
			want: want{"12/12", "False", v1alpha1.ReasonUnreachable, "prod-sh: because of Unreachable", "True",
				[]v1alpha1.PlacementStatus{bj, with(sh, 4, v1alpha1.ReasonUnreachable)}},
		},
		"a failure matters more than work under way": {
			reason: "prod-bj is on its way, prod-sh will not get there",
			change: func(bj, sh *v1alpha1.Delivery) {
				tell(bj, v1alpha1.ReasonReconciling, v1alpha1.ReasonReconciling, 0, 8)
				tell(sh, v1alpha1.ReasonRefused, v1alpha1.ReasonNotReady, 0, 4)
			},
			want: want{"0/12", "False", v1alpha1.ReasonRefused, "prod-bj: because of Reconciling; prod-sh: because of Refused", "True",
				[]v1alpha1.PlacementStatus{with(bj, 0, v1alpha1.ReasonReconciling), with(sh, 0, v1alpha1.ReasonRefused)}},
		},
		"told for an older spec": {
			reason: "ready was said of what ran before",
			change: func(_, sh *v1alpha1.Delivery) { sh.Generation++ },
			want: want{"12/12", "False", v1alpha1.ReasonReconciling, "prod-sh: not applied yet", "True", []v1alpha1.PlacementStatus{bj,
				func() v1alpha1.PlacementStatus {
					s := with(sh, 4, v1alpha1.ReasonReconciling)
					s.Message = "not applied yet"
					return s
				}()}},
		},
		"refused": {
			reason: "what was delivered before is still shown",
			change: func(*v1alpha1.Delivery, *v1alpha1.Delivery) {},
			err:    reconcile.Stall(v1alpha1.ReasonQuotaExceeded, "too much"),
			want:   want{"12/12", "False", v1alpha1.ReasonQuotaExceeded, "too much", "False", []v1alpha1.PlacementStatus{bj, sh}},
		},
		"fails": {
			reason: "an error that is tried again",
			change: func(*v1alpha1.Delivery, *v1alpha1.Delivery) {},
			err:    errors.New("etcd is slow"),
			want:   want{"12/12", "False", v1alpha1.ReasonFailed, "etcd is slow", "False", []v1alpha1.PlacementStatus{bj, sh}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(score("edu"))
			p := w.carryOut(t)
			tell(w.deliveries["prod-bj"], ready, ready, 8, 8)
			tell(w.deliveries["prod-sh"], ready, ready, 4, 4)
			w.summarize(p, nil)
			tc.change(w.deliveries["prod-bj"], w.deliveries["prod-sh"])
			if tc.err != nil {
				p = nil
			}
			w.summarize(p, tc.err)
			got := want{Pods: w.app.Status.Pods, Placements: w.app.Status.Placements}
			c := meta.FindStatusCondition(w.app.Status.Conditions, v1alpha1.ConditionReady)
			got.Ready, got.Reason, got.Message = string(c.Status), c.Reason, c.Message
			got.Progressing = string(meta.FindStatusCondition(w.app.Status.Conditions, v1alpha1.ConditionProgressing).Status)
			ignore := cmpopts.IgnoreFields(v1alpha1.PlacementStatus{}, "LastSeenTime", "Revision")
			if diff := cmp.Diff(tc.want, got, ignore); diff != "" {
				t.Errorf("%s\n%s", tc.reason, diff)
			}
		})
	}
}

func TestSummaryOfAStoppedApplication(t *testing.T) {
	app := score("edu")
	app.Spec.Stopped = true
	w := newWorld(app)
	p := w.carryOut(t)
	for _, d := range w.deliveries {
		if !d.Spec.Stopped || d.Spec.Tracks[0].Replicas["db-service"] != 1 {
			t.Errorf("stopped deliveries keep their numbers: %+v", d.Spec)
		}
	}
	w.summarize(p, nil)
	if app.Status.Pods != "0/0" {
		t.Errorf("pods %s", app.Status.Pods)
	}
	for _, d := range w.deliveries {
		tell(d, v1alpha1.ReasonReady, v1alpha1.ReasonReady, 0, 1)
		d.Status.Tracks[0].Components = nil
	}
	w.summarize(p, nil)
	c := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionReady)
	if c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonStopped {
		t.Errorf("a stopped application does what its spec asks for: %+v", c)
	}
}

func TestLastSeenAloneIsNotWorthAWrite(t *testing.T) {
	at := func(s int64) *metav1.Time { return new(metav1.Unix(s, 0)) }
	placed := func(s int64, reason string) *v1alpha1.PlacementStatus {
		return &v1alpha1.PlacementStatus{LastSeenTime: at(s), Reason: reason}
	}
	cases := map[string]struct {
		earlier, now *v1alpha1.PlacementStatus
		want         *metav1.Time
	}{
		"first":                 {nil, placed(100, ""), at(100)},
		"a moment later":        {placed(100, ""), placed(110, ""), at(100)},
		"half a minute later":   {placed(100, ""), placed(130, ""), at(130)},
		"something else too":    {placed(100, ""), placed(110, "Unreachable"), at(110)},
		"never seen any more":   {placed(100, ""), &v1alpha1.PlacementStatus{}, nil},
		"told to be older":      {placed(100, ""), placed(90, ""), at(90)},
		"the first time at all": {&v1alpha1.PlacementStatus{}, placed(100, ""), at(100)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := lastSeen(tc.earlier, tc.now); !got.Equal(tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestPaceForgets(t *testing.T) {
	var p pace
	key := types.NamespacedName{Name: "a"}
	if p.wait(key) > 0 {
		t.Error("the first write waits")
	}
	p.wrote(key)
	if wait := p.wait(key); wait <= 0 || wait > statusPause {
		t.Errorf("the second write waits %s", wait)
	}
	p.forget(key)
	if len(p.last) != 0 {
		t.Error("what is gone is remembered")
	}
}

func TestLeavingSaysWhatHoldsItUp(t *testing.T) {
	w := newWorld(score("edu"))
	w.carryOut(t)
	tell(w.deliveries["prod-sh"], v1alpha1.ReasonReady, v1alpha1.ReasonUnreachable, 4, 4)
	if got, want := w.leaving(), "prod-bj, prod-sh (cluster shanghai does not answer)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
