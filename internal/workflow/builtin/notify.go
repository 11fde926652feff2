package builtin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/outbound"
)

const (
	maxRecipients = 100
	maxTitle      = 200
	maxText       = 8 << 10
)

// notify tells people something.
type notify struct {
	send outbound.Send
}

// Describe tells what can be said to whom.
func (*notify) Describe() action.Description {
	return action.Description{
		Name: "notify", Summary: "Sends a message to people. It is done as soon as the message will be sent for certain.",
		Inputs: []action.Field{
			{Name: "title", Type: v1alpha1.TypeString, Required: true, Doc: "One line, in any language."},
			{Name: "text", Type: v1alpha1.TypeString, Doc: "What there is to say."},
			{Name: "users", Type: v1alpha1.TypeList, Doc: "Names of users who are told."},
			{Name: "roles", Type: v1alpha1.TypeList, Doc: "Roles whose members are told: PlatformAdministrator, Admin, Operator, Viewer."},
			{Name: "receivers", Type: v1alpha1.TypeList, Doc: "Names of NotificationReceivers of the tenant."},
		},
	}
}

type notifyInputs struct {
	Title     string   `json:"title"`
	Text      string   `json:"text"`
	Users     []string `json:"users"`
	Roles     []string `json:"roles"`
	Receivers []string `json:"receivers"`
}

// Run hands the message over. Its key is the attempt's: it is sent once, however often this is called.
func (n *notify) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	in := notifyInputs{}
	if err := call.Decode(&in); err != nil {
		return action.Outcome{}, err //nolint:wrapcheck // it says what is read
	}
	if err := in.check(); err != nil {
		return action.Outcome{}, action.Failed(err)
	}
	m := outbound.Message{
		Key: call.Key, Tenant: call.Run.Namespace, Topic: topicNotice,
		Data: map[string]string{"title": in.Title, "text": in.Text, "run": call.Run.Name, "tenant": call.Run.Namespace, "step": call.Step},
	}
	for _, role := range unique(in.Roles) {
		m.To = append(m.To, recipient(call.Run.Namespace, role))
	}
	for _, user := range unique(in.Users) {
		m.To = append(m.To, outbound.Recipient{User: user})
	}
	for _, receiver := range unique(in.Receivers) {
		m.To = append(m.To, outbound.Recipient{Receiver: receiver})
	}
	if err := n.send(ctx, m); err != nil {
		return action.Outcome{}, fmt.Errorf("handing the message over: %w", err)
	}
	call.Log("handed over: %s", in.Title)
	return action.Done(nil), nil
}

func (in *notifyInputs) check() error {
	roles := []string{string(v1alpha1.ApproverPlatformAdministrator), string(v1alpha1.RoleAdmin), string(v1alpha1.RoleOperator), string(v1alpha1.RoleViewer)}
	for _, role := range in.Roles {
		if !slices.Contains(roles, role) {
			return fmt.Errorf("roles: %q is none of PlatformAdministrator, Admin, Operator, Viewer", cut(role, 100))
		}
	}
	if slices.Contains(slices.Concat(in.Users, in.Receivers), "") {
		return errors.New("users and receivers: a name is empty")
	}
	switch count := len(in.Users) + len(in.Roles) + len(in.Receivers); {
	case count == 0:
		return errors.New("name those who are told, in users, roles or receivers")
	case count > maxRecipients:
		return fmt.Errorf("users, roles and receivers: more than %d", maxRecipients)
	case in.Title == "" || len(in.Title) > maxTitle || strings.ContainsFunc(in.Title, unicode.IsControl):
		return fmt.Errorf("title: one line of at most %d bytes", maxTitle)
	case len(in.Text) > maxText:
		return fmt.Errorf("text: more than %d bytes", maxText)
	}
	return nil
}
