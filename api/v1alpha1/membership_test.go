package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"
)

const membership = `
kind: Membership
metadata: {namespace: default}
spec: {subject: {kind: User, name: li}, role: Operator}
`

func TestSEC01_MembershipRules(t *testing.T) {
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("p%d", i))
	}
	for name, tc := range map[string]struct{ reason, change, refused string }{
		"plain":               {"a user with a role", "", ""},
		"limited":             {"a role in some partitions", "spec: {partitions: [prod-bj, prod-sh]}", ""},
		"admin":               {"an administrator of the whole tenant", "spec: {role: Admin}", ""},
		"admin, empty list":   {"an empty list is the whole tenant", "spec: {role: Admin, partitions: []}", ""},
		"limited admin":       {"an administrator could give himself the rest", "spec: {role: Admin, partitions: [prod-bj]}", "an Admin is one of the whole tenant"},
		"unknown role":        {"there are three roles", "spec: {role: Owner}", "spec.role"},
		"no role":             {"a role is what it is about", "spec: {role: null}", "spec.role"},
		"unknown kind":        {"service accounts have access tokens", "spec: {subject: {kind: ServiceAccount}}", "spec.subject.kind"},
		"user with capital":   {"no User object is called so", "spec: {subject: {name: Li}}", "a user's name consists of"},
		"user with colon":     {"system:admin is no user of ours", "spec: {subject: {name: 'system:admin'}}", "a user's name consists of"},
		"group of the tenant": {"a UserGroup", "spec: {subject: {kind: Group, name: testers}}", ""},
		"group of directory":  {"whatever a directory calls it", "spec: {subject: {kind: Group, name: 'corp:CN=Ops Team,OU=运维'}}", ""},
		"group with capital":  {"no UserGroup is called so", "spec: {subject: {kind: Group, name: Testers}}", "a group is the name of a UserGroup"},
		"group system":        {"such groups are dropped", "spec: {subject: {kind: Group, name: 'corp:system:masters'}}", "not taken from a directory"},
		"group yunfan":        {"such groups are dropped", "spec: {subject: {kind: Group, name: 'corp:yunfan:platform-admin'}}", "not taken from a directory"},
		"directory only":      {"a group has a name", "spec: {subject: {kind: Group, name: 'corp:'}}", "a group is the name of a UserGroup"},
		"no name":             {"nobody", "spec: {subject: {name: ''}}", "spec.subject.name"},
		"long name":           {"names are bounded", "spec: {subject: {kind: Group, name: 'corp:" + strings.Repeat("a", 320) + "'}}", "spec.subject.name"},
		"too many partitions": {"lists are bounded", "spec: {partitions: [" + strings.Join(many, ",") + "]}", "spec.partitions"},
		"one twice":           {"a set", "spec: {partitions: [a, a]}", "spec.partitions"},
		"no partition's name": {"partitions have no dots", "spec: {partitions: [a.b]}", "spec.partitions"},
	} {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, membership, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("%s: refused: %v", tc.reason, err)
			}
		})
	}
}

func TestSEC03_UserGroupRules(t *testing.T) {
	const group = "kind: UserGroup\nmetadata: {namespace: default}\nspec: {users: [li, wang.wei]}\n"
	var many []string
	for i := range 501 {
		many = append(many, fmt.Sprintf("u%d", i))
	}
	for name, tc := range map[string]struct{ reason, change, refused string }{
		"plain":        {"users by name", "", ""},
		"empty":        {"a group may be empty", "spec: {users: []}", ""},
		"one twice":    {"a set", "spec: {users: [li, li]}", "spec.users"},
		"with colon":   {"no User object is called so", "spec: {users: ['system:admin']}", "spec.users"},
		"too many":     {"lists are bounded", "spec: {users: [" + strings.Join(many, ",") + "]}", "spec.users"},
		"display name": {"for people", "spec: {displayName: 测试组}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, group, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("%s: refused: %v", tc.reason, err)
			}
		})
	}
}
