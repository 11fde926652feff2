package builtin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
)

const (
	// platformNamespace has the workflows of the platform, of which the tenant's roles are the platform administrators'.
	platformNamespace = "yunfan-system"

	maxApprovers = 10
	maxUsers     = 50
	maxSubject   = 1000
	// maxAsked, maxGiven and maxComment keep the outputs of the step within action.MaxOutputs, in bytes.
	maxAsked, maxGiven, maxComment = 6 << 10, 4 << 10, 2500
	// approvalPoll is how often approvals are looked at if nothing says that there is a new one.
	approvalPoll = 10 * time.Second
	minReminder  = time.Minute
)

// What a rejection does.
const (
	onRejectionFail     = "Fail"
	onRejectionContinue = "Continue"
)

// approve waits until enough people have approved, or one has rejected.
type approve struct {
	hub  client.Client
	live client.Reader
	send outbound.Send
}

// Describe tells what can be asked.
func (*approve) Describe() action.Description {
	return action.Description{
		Name: "approve", Summary: "Waits until people who may decide approve or reject.", Timeout: action.NoTimeout,
		Inputs: []action.Field{
			{Name: "roles", Type: v1alpha1.TypeList, Default: `["Admin"], unless users are named`, Doc: "Roles whose members may decide: PlatformAdministrator, Admin, Operator."},
			{Name: "users", Type: v1alpha1.TypeList, Doc: "Names of users who may decide, whatever their role."},
			{Name: "count", Type: v1alpha1.TypeInteger, Default: "1", Doc: "How many different people must approve. One who rejects is enough."},
			{Name: "subject", Type: v1alpha1.TypeString, Doc: "What is to be decided, in words."},
			{Name: "values", Type: v1alpha1.TypeObject, Doc: "Values that are to be approved."},
			{Name: "editable", Type: v1alpha1.TypeList, Doc: "Names of values in whose place an approval may give others of the same type."},
			{Name: "onRejection", Type: v1alpha1.TypeString, Default: onRejectionFail, Enum: []string{onRejectionFail, onRejectionContinue}, Doc: "Whether a rejection fails the step for good, or is its result."},
			{Name: "remindEvery", Type: v1alpha1.TypeString, Doc: "A duration, such as 24h, after which those who may decide are told again."},
		},
		Outputs: []action.Field{
			{Name: "decision", Type: v1alpha1.TypeString, Enum: []string{string(v1alpha1.DecisionApproved), string(v1alpha1.DecisionRejected)}, Doc: "Approved; Rejected only with onRejection Continue."},
			{Name: "by", Type: v1alpha1.TypeList, Doc: "Names of those who decided."},
			{Name: "comment", Type: v1alpha1.TypeString, Doc: "What they wrote."},
			{Name: "values", Type: v1alpha1.TypeObject, Doc: "The values as they were approved."},
		},
	}
}

type approveInputs struct {
	Roles       []v1alpha1.ApproverRole    `json:"roles"`
	Users       []string                   `json:"users"`
	Count       *int32                     `json:"count"`
	Subject     string                     `json:"subject"`
	Values      map[string]json.RawMessage `json:"values"`
	Editable    []string                   `json:"editable"`
	OnRejection string                     `json:"onRejection"`
	RemindEvery string                     `json:"remindEvery"`

	remindEvery time.Duration
}

// read checks the inputs beyond their types and fills in what they leave out.
func (in *approveInputs) read(call *action.Call) error {
	if err := call.Decode(in); err != nil {
		return err //nolint:wrapcheck // it says what is read
	}
	if len(in.Roles) == 0 && len(in.Users) == 0 {
		in.Roles = []v1alpha1.ApproverRole{v1alpha1.ApproverAdmin}
	}
	known := []v1alpha1.ApproverRole{v1alpha1.ApproverPlatformAdministrator, v1alpha1.ApproverAdmin, v1alpha1.ApproverOperator}
	for _, role := range in.Roles {
		if !slices.Contains(known, role) {
			return fmt.Errorf("roles: %q is none of PlatformAdministrator, Admin, Operator", cut(string(role), 100))
		}
	}
	in.Roles, in.Users, in.Editable = unique(in.Roles), unique(in.Users), unique(in.Editable)
	if in.Count == nil {
		in.Count = new(int32(1))
	}
	asked, err := json.Marshal(in.Values)
	if err != nil {
		return fmt.Errorf("values: %w", err)
	}
	switch {
	case *in.Count < 1 || *in.Count > maxApprovers:
		return fmt.Errorf("count: %d is not between 1 and %d", *in.Count, maxApprovers)
	case len(in.Users) > maxUsers:
		return fmt.Errorf("users: more than %d", maxUsers)
	case len(in.Roles) == 0 && len(in.Users) < int(*in.Count):
		return fmt.Errorf("count: %d people are to approve and only %d may", *in.Count, len(in.Users))
	case len(in.Subject) > maxSubject:
		return fmt.Errorf("subject: more than %d bytes", maxSubject)
	case len(asked) > maxAsked:
		return fmt.Errorf("values: more than %d bytes", maxAsked)
	case !slices.Contains([]string{"", onRejectionFail, onRejectionContinue}, in.OnRejection):
		return fmt.Errorf("onRejection: %q is neither Fail nor Continue", cut(in.OnRejection, 100))
	}
	for _, name := range in.Editable {
		if _, ok := in.Values[name]; !ok {
			return fmt.Errorf("editable: there is no value %q", cut(name, 100))
		}
	}
	if in.RemindEvery != "" {
		if in.remindEvery, err = time.ParseDuration(in.RemindEvery); err != nil || in.remindEvery < minReminder {
			return fmt.Errorf("remindEvery: write a duration of at least %s, such as 24h", minReminder)
		}
	}
	return nil
}

// unique keeps the first of equal names.
func unique[T comparable](in []T) []T {
	var out []T
	for _, one := range in {
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out
}

// wanted is what people are asked. Its digest is another for each attempt, and whenever any input is another.
func (in *approveInputs) wanted(call *action.Call) (*v1alpha1.ApprovalWanted, error) {
	text, err := json.Marshal(map[string]any{"run": call.UID, "step": call.Step, "attempt": call.Attempt, "inputs": call.Inputs})
	if err != nil {
		return nil, fmt.Errorf("digesting the inputs: %w", err)
	}
	sum := sha256.Sum256(text)
	return &v1alpha1.ApprovalWanted{
		Digest: "sha256:" + hex.EncodeToString(sum[:]), Subject: in.Subject, Roles: in.Roles, Users: in.Users,
		Count: *in.Count, Values: in.Values, Editable: in.Editable,
	}, nil
}

// approveState is kept so that people are told as often as they are meant to be.
type approveState struct {
	// Told is how often they were.
	Told int64 `json:"told"`
}

// Run looks at the approvals there are.
func (a *approve) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	in := &approveInputs{}
	if err := in.read(call); err != nil {
		return action.Outcome{}, action.Failed(err)
	}
	wanted, err := in.wanted(call)
	if err != nil {
		return action.Outcome{}, err
	}
	state := approveState{}
	if _, err := call.Remembered(&state); err != nil {
		return action.Outcome{}, err //nolint:wrapcheck // it says what is read
	}
	t := &tally{call: call, wanted: wanted}
	// What goes wrong here says nothing about the decision: nobody shall have to decide again because of it.
	if err := a.count(ctx, t); err != nil && ctx.Err() == nil {
		call.Log("the approvals could not be read and will be again: %v", err)
	} else if t.decided() {
		return t.outcome(in)
	}
	if due := in.due(call); due > state.Told {
		if err := a.tell(ctx, call, wanted, due); err == nil {
			state.Told = due
		} else if ctx.Err() == nil {
			call.Log("those who may decide could not be told and will be later: %v", err)
		}
	}
	return action.Outcome{
		Again: approvalPoll, State: state, Waiting: true, Approval: wanted,
		Message: t.message(),
	}, nil
}

// due is how often people are to have been told by now.
func (in *approveInputs) due(call *action.Call) int64 {
	if in.remindEvery == 0 {
		return 1
	}
	return 1 + max(0, int64(time.Since(call.Started)/in.remindEvery))
}

// tell tells those who may decide that they are waited for.
func (a *approve) tell(ctx context.Context, call *action.Call, wanted *v1alpha1.ApprovalWanted, number int64) error {
	m := outbound.Message{
		Key: call.Key + "-wanted-" + strconv.FormatInt(number, 10), Tenant: call.Run.Namespace, Topic: topicApprovalWanted,
		Data: map[string]string{
			"run": call.Run.Name, "tenant": call.Run.Namespace, "step": call.Step, "user": v1alpha1.PlainName(call.User.Name),
			"subject": cmp.Or(wanted.Subject, call.Step), "values": values(wanted.Values),
		},
	}
	for _, role := range wanted.Roles {
		m.To = append(m.To, recipient(call.Run.Namespace, string(role)))
	}
	for _, user := range wanted.Users {
		m.To = append(m.To, outbound.Recipient{User: user})
	}
	return a.send(ctx, m)
}

// recipient are those with a role in the namespace of a run. What belongs to the platform is the platform
// administrators', in whatever role.
func recipient(tenant, role string) outbound.Recipient {
	if role == string(v1alpha1.ApproverPlatformAdministrator) || tenant == platformNamespace {
		return outbound.Recipient{PlatformAdministrators: true}
	}
	return outbound.Recipient{Role: v1alpha1.Role(role)}
}

// values writes values for people, in the order of their names.
func values(in map[string]json.RawMessage) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		lines = append(lines, cut(name, 100)+": "+cut(string(in[name]), 300))
	}
	return cut(strings.Join(lines, "\n"), 2000)
}
