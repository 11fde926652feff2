// Package action is the contract between the step engine and the capabilities whose work is done in steps: what an
// action is, what it is called with and what it answers. It knows neither the engine nor any capability.
package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Action is what a step of a workflow does. Steps set a desired state and wait for it: Run is called again and again,
// until it says that it is done or has failed, and must come to the same end however often it is called. The server can be
// killed between two calls and in the middle of one.
type Action interface {
	// Describe says what the action is called, takes and gives. It always answers the same.
	Describe() Description
	// Run does the next bit of work, within a minute at most. An error means that the attempt failed; one from Failed
	// that trying again is of no use.
	Run(ctx context.Context, call *Call) (Outcome, error)
}

// Stopper is an action that must be told when a run is aborted or an attempt has timed out while it was under way.
// Stop ends what Run began, and is called again until it says that it is done.
type Stopper interface {
	Stop(ctx context.Context, call *Call) (Outcome, error)
}

// Description of an action: the catalogue that workflows are checked against, and that people are shown.
type Description struct {
	// Name in workflows: small letters, with a dot between the capability and what is done, as in partition.allocate.
	// Built-in actions have one word.
	Name string `json:"name"`
	// Summary is one sentence in English.
	Summary string `json:"summary"`
	// Inputs and Outputs by their names. An action without the input that a step gives refuses the step.
	Inputs  []Field `json:"inputs,omitempty"`
	Outputs []Field `json:"outputs,omitempty"`
	// Internal actions are for runs that the platform itself makes.
	Internal bool `json:"internal,omitempty"`
	// Timeout of one attempt if the step names none; DefaultTimeout if zero. NoTimeout for those that wait for people.
	Timeout time.Duration `json:"timeout,omitempty"`
}

const (
	// DefaultTimeout of one attempt.
	DefaultTimeout = 10 * time.Minute
	// NoTimeout lets an attempt take as long as it does.
	NoTimeout time.Duration = -1
)

// Field is one input or output.
type Field struct {
	Name string             `json:"name"`
	Type v1alpha1.ValueType `json:"type"`
	// Required inputs must be given.
	Required bool `json:"required,omitempty"`
	// Default is told to people only: the action itself applies it.
	Default string `json:"default,omitempty"`
	// Enum are the values that a String may have; any if empty.
	Enum []string `json:"enum,omitempty"`
	// Doc is one sentence in English.
	Doc string `json:"doc,omitempty"`
}

// Call is one call of Run or Stop.
type Call struct {
	// Run and UID of it, the step, and which attempt of it this is, from 1.
	Run     types.NamespacedName
	UID     types.UID
	Step    string
	Attempt int32
	// Key names this attempt: the same in each call of it, also after a restart, and no other's. An effect that carries it
	// can be recognised: as the name of an object (it is a DNS-1123 label of at most 63 characters), as an
	// Idempotency-Key.
	Key string
	// Repeated says that an earlier call of this attempt may have had its effect without anybody knowing: the server ended
	// before the answer was written. Always false in the first call of an attempt.
	Repeated bool
	// User on whose behalf it is done: who started or last retried the run.
	User v1alpha1.Actor
	// Inputs with all expressions replaced, checked against the description.
	Inputs map[string]json.RawMessage
	// State that the last call of this attempt kept; nil in the first.
	State json.RawMessage
	// Started is when the attempt began.
	Started time.Time
	// Log adds a line to the step's log. Never secrets.
	Log func(format string, args ...any)
	// Fence asks whether this server still carries the run. Call it right before an effect that is not the same when it is
	// had twice: a server that was stopped for a while must not go on with what another has taken over.
	Fence func(ctx context.Context) error
}

// Decode reads the inputs into a struct by its JSON names. Fields that it does not have are an error.
func (c *Call) Decode(into any) error {
	text, err := json.Marshal(c.Inputs)
	if err != nil {
		return fmt.Errorf("reading the inputs: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return Failed(fmt.Errorf("reading the inputs: %w", err))
	}
	return nil
}

// Remembered reads the state into a struct, and says whether there was any.
func (c *Call) Remembered(into any) (bool, error) {
	if len(c.State) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(c.State, into); err != nil {
		return false, Failed(fmt.Errorf("reading what the step kept: %w", err))
	}
	return true, nil
}

// Outcome is what a call without an error answers.
type Outcome struct {
	// Done says that nothing is left to do.
	Done bool
	// Outputs of a step that is done, by name.
	Outputs map[string]any
	// Again is when Run is to be called next, at the latest, if it is not done.
	Again time.Duration
	// State for the next call, at most MaxState bytes as JSON; nil keeps the last. A changed state costs a write.
	State any
	// Message says what it waits for, in words. A changed one costs a write.
	Message string
	// Waiting says that it waits for a person or a time, and does not work.
	Waiting bool
	// Approval is what somebody must approve.
	Approval *v1alpha1.ApprovalWanted
	// Actor who did it, if not the run's own user.
	Actor string
}

const (
	// MaxState is how much an action may keep between two calls, in bytes of JSON.
	MaxState = 4 << 10
	// MaxOutputs is how much an action may give, in bytes of JSON.
	MaxOutputs = 16 << 10
)

// Done is the answer of a call after which nothing is left to do.
func Done(outputs map[string]any) Outcome { return Outcome{Done: true, Outputs: outputs} }

// Again is the answer of a call that has set the desired state and waits for it.
func Again(after time.Duration, message string) Outcome {
	return Outcome{Again: after, Message: message}
}

// Failed marks an error that trying again does not mend.
func Failed(err error) error { return failed{err} }

type failed struct{ error }

// Unwrap gives the error that was marked.
func (f failed) Unwrap() error { return f.error }

// IsFailed says whether trying again is of no use.
func IsFailed(err error) bool {
	var f failed
	return errors.As(err, &f)
}

// Catalogue are the actions that there are, by name.
type Catalogue map[string]Action

// NewCatalogue refuses two actions with the same name.
func NewCatalogue(actions ...Action) (Catalogue, error) {
	c := Catalogue{}
	for _, a := range actions {
		name := a.Describe().Name
		if c[name] != nil {
			return nil, fmt.Errorf("two actions are called %s", name)
		}
		c[name] = a
	}
	return c, nil
}
