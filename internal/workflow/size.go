package workflow

import (
	"encoding/json"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// maxStatus of a run in bytes of JSON: what the hub stores must stay small, as each change writes all of it.
	maxStatus = 256 << 10
	// reservePerStep is kept free for each step that has not ended, for times, actor and a short message.
	reservePerStep = 300
	// reserveOfRun is kept free for message and conditions.
	reserveOfRun = 6 << 10
	// shortMessage is what is left of a step's message when there is no room.
	shortMessage = 80
)

// size of a value in bytes of JSON.
func size(value any) int {
	text, err := json.Marshal(value)
	if err != nil {
		return maxStatus // it cannot be written either
	}
	return len(text)
}

// reserve is what must be kept free.
func (t *turn) reserve() int {
	reserve := reserveOfRun
	for i := range t.run.Status.Steps {
		if st := &t.run.Status.Steps[i]; st.FinishTime == nil || backingOff(st) {
			reserve += reservePerStep
		}
	}
	return reserve
}

// fit shortens messages when the status has become too large: the reserve is for what is needed to go on.
func (t *turn) fit() {
	s := &t.run.Status
	if size(s) <= maxStatus {
		return
	}
	for i := range s.Steps {
		if s.Steps[i].Phase != v1alpha1.StepWaiting || s.Steps[i].Approval == nil {
			s.Steps[i].Message = short(s.Steps[i].Message, shortMessage)
		}
	}
}
