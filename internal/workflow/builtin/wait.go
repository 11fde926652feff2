package builtin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

const (
	// longestWait bounds what is most likely a mistake.
	longestWait = 366 * 24 * time.Hour
	// waitPoll is how soon it is called again at the latest: so long can a clock that was set be wrong.
	waitPoll = time.Minute
)

// wait lets time pass.
type wait struct{}

// Describe tells what can be waited for.
func (wait) Describe() action.Description {
	return action.Description{
		Name: "wait", Summary: "Waits for some time, or until a point in time.", Timeout: action.NoTimeout,
		Inputs: []action.Field{
			{Name: "for", Type: v1alpha1.TypeString, Doc: "A duration from the step's beginning, such as 90s or 24h. Give this or until."},
			{Name: "until", Type: v1alpha1.TypeString, Doc: "A time as in RFC 3339, such as 2026-11-30T22:00:00+08:00. One that has passed ends the step at once."},
		},
		Outputs: []action.Field{{Name: "time", Type: v1alpha1.TypeString, Doc: "The time that was waited for, in RFC 3339."}},
	}
}

// Run is done when the time has come. It counts from the attempt's beginning, which a restart does not change.
func (wait) Run(_ context.Context, call *action.Call) (action.Outcome, error) {
	in := struct {
		For   string `json:"for"`
		Until string `json:"until"`
	}{}
	if err := call.Decode(&in); err != nil {
		return action.Outcome{}, err //nolint:wrapcheck // it says what is read
	}
	var end time.Time
	var err error
	switch {
	case (in.For == "") == (in.Until == ""):
		err = errors.New("give for, a duration such as 90s, or until, a time such as 2026-11-30T22:00:00+08:00: one of the two")
	case in.Until != "":
		if end, err = time.Parse(time.RFC3339, in.Until); err != nil {
			err = fmt.Errorf("until: %q is no time such as 2026-11-30T22:00:00+08:00", cut(in.Until, 100))
		}
	default:
		var d time.Duration
		if d, err = time.ParseDuration(in.For); err != nil || d < 0 {
			err = fmt.Errorf("for: %q is no duration such as 90s or 24h", cut(in.For, 100))
		}
		end = call.Started.Add(d)
	}
	if err == nil && end.Sub(call.Started) > longestWait {
		err = errors.New("the time to wait for is more than a year away")
	}
	if err != nil {
		return action.Outcome{}, action.Failed(err)
	}
	text := end.UTC().Format(time.RFC3339)
	left := time.Until(end)
	if left <= 0 {
		return action.Done(map[string]any{"time": text}), nil
	}
	return action.Outcome{Again: min(left, waitPoll), Waiting: true, Message: "waits until " + text}, nil
}
