// Package builtin has the actions that every workflow can use: approve, wait, http, notify and container. It also judges
// Approvals, for the action that waits for them, for admission, and for those that come too late.
package builtin

import (
	"context"
	"unicode/utf8"

	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/outbound"
)

// Options are what the actions work with.
type Options struct {
	// Hub reads from the hub's cache and writes. Live reads past the cache.
	Hub  client.Client
	Live client.Reader
	// Members are where containers run.
	Members member.Lookup
	// Policy says which addresses requests over HTTP may reach.
	Policy outbound.Policy
	// Send tells people.
	Send outbound.Send
	// Secrets reads what the action http authenticates itself with.
	Secrets Secrets
	// May says whether a user may do something, with the roles that he has now and not those he had when he was stamped.
	May May
}

// Secrets reads the values of a tenant's secret, those that were written last, by their keys.
type Secrets interface {
	Values(ctx context.Context, tenant, name string) (map[string][]byte, error)
}

// May says whether a user may do something on the hub at this moment.
type May func(ctx context.Context, user v1alpha1.Actor, attributes authorizationv1.ResourceAttributes) (bool, error)

// Actions are all built-in actions.
func Actions(o Options) []action.Action {
	return []action.Action{
		&approve{hub: o.Hub, live: o.Live, send: o.Send},
		wait{},
		&request{policy: o.Policy, secrets: o.Secrets, may: o.May},
		&notify{send: o.Send},
		&container{hub: o.Hub, members: o.Members, may: o.May, logs: newProgress()},
	}
}

// cut shortens a text to at most so many bytes, and never within a character.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const dots = "…"
	at := most - len(dots)
	for at > 0 && !utf8.RuneStart(text[at]) {
		at--
	}
	return text[:at] + dots
}
