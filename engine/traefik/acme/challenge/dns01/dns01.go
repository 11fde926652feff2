// Package dns01 would show it by a record of a name server.
package dns01

import (
	"strings"
	"time"
)

// Options of a Client.
type Options struct{ RecursiveNameservers []string }

// Client asks no name server.
type Client struct{}

// ChallengeOption changes nothing.
type ChallengeOption func()

// NewClient makes a Client.
func NewClient(*Options) *Client { return &Client{} }

// SetDefaultClient does nothing.
func SetDefaultClient(*Client) {}

// CondOptions gives an option that changes nothing, as the others do.
func CondOptions(bool, ...ChallengeOption) ChallengeOption { return func() {} }

// DisableAuthoritativeNssPropagationRequirement gives an option.
func DisableAuthoritativeNssPropagationRequirement() ChallengeOption { return func() {} }

// DisableRecursiveNSsPropagationRequirement gives an option.
func DisableRecursiveNSsPropagationRequirement() ChallengeOption { return func() {} }

// PropagationWait gives an option.
func PropagationWait(time.Duration, bool) ChallengeOption { return func() {} }

// UnFqdn takes the last dot off a name.
func UnFqdn(name string) string { return strings.TrimSuffix(name, ".") }
