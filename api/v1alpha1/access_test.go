package v1alpha1_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	user          = "\nkind: User\nspec: {displayName: 李雷}\n"
	ldapDirectory = `
kind: Directory
spec: {type: LDAP, ldap: {host: ldap.example.com, baseDN: "dc=example,dc=com", bindDN: "cn=yunfan,dc=example,dc=com", bindPasswordSecretRef: {name: corp-bind}}}
`
	oidcDirectory = `
kind: Directory
spec: {type: OIDC, oidc: {issuer: "https://issuer.example.com/realms/corp", clientID: yunfan}}
`
	accessToken = `
kind: AccessToken
spec: {user: li, userUID: abc, expirationTime: "2030-01-01T00:00:00Z", hash: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}
`
	session = `
kind: Session
spec: {user: li, userUID: abc, kind: CLI, expirationTime: "2030-01-01T00:00:00Z", hash: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}
`
)

func TestSEC04_AccessRules(t *testing.T) {
	cases := map[string]struct{ base, change, refused string }{
		"user":                        {user, "", ""},
		"user with dots":              {user, "metadata: {name: li.lei}", ""},
		"user with a capital":         {user, "metadata: {name: Li}", "metadata.name"},
		"user with a colon":           {user, `metadata: {name: "system:admin"}`, "metadata.name"},
		"user with a long name":       {user, "metadata: {name: " + strings.Repeat("l", 64) + "}", "at most 63"},
		"user of a directory":         {user, "spec: {directory: corp, externalID: x}", ""},
		"local user with external ID": {user, "spec: {externalID: x}", "externalID is of a user"},
		"user without spec":           {user, "spec: null", "spec"},

		"LDAP":                       {ldapDirectory, "", ""},
		"anonymous LDAP":             {ldapDirectory, "spec: {ldap: {bindDN: null, bindPasswordSecretRef: null}}", ""},
		"bind without password":      {ldapDirectory, "spec: {ldap: {bindPasswordSecretRef: null}}", "anonymous"},
		"password without account":   {ldapDirectory, "spec: {ldap: {bindDN: null}}", "needs bindDN"},
		"LDAP with a URL as host":    {ldapDirectory, `spec: {ldap: {host: "ldaps://ldap.example.com"}}`, "without scheme"},
		"LDAP filter":                {ldapDirectory, `spec: {ldap: {filter: "objectClass=person"}}`, "in parentheses"},
		"LDAP attribute":             {ldapDirectory, `spec: {ldap: {attributes: {user: "uid)(x"}}}`, "attributes.user"},
		"LDAP group filter alone":    {ldapDirectory, `spec: {ldap: {groupFilter: "(member={dn})"}}`, "needs groupBaseDN"},
		"LDAP time-out beyond ours":  {ldapDirectory, `spec: {ldap: {timeoutSeconds: 60}}`, "timeoutSeconds"},
		"LDAP without ldap":          {ldapDirectory, "spec: {ldap: null}", "needs ldap"},
		"LDAP with oidc":             {ldapDirectory, `spec: {oidc: {issuer: "https://a.b", clientID: c}}`, "only it has it"},
		"directory called local":     {ldapDirectory, "metadata: {name: local}", "belong to the platform"},
		"directory called system":    {ldapDirectory, "metadata: {name: system}", "belong to the platform"},
		"OIDC":                       {oidcDirectory, "", ""},
		"OIDC in the clear":          {oidcDirectory, `spec: {oidc: {issuer: "http://issuer.example.com"}}`, "https URL"},
		"OIDC without client":        {oidcDirectory, "spec: {oidc: {clientID: null}}", "clientID"},
		"unknown type of directory":  {oidcDirectory, "spec: {type: SAML}", "spec.type"},
		"token":                      {accessToken, "", ""},
		"token with scope":           {accessToken, "spec: {scope: {tenant: edu, role: Operator, partitions: [prod-bj]}}", ""},
		"token of partitions only":   {accessToken, "spec: {scope: {partitions: [prod-bj]}}", "need tenant"},
		"token of a limited Admin":   {accessToken, "spec: {scope: {tenant: edu, role: Admin, partitions: [prod-bj]}}", "never limited"},
		"token of an unknown role":   {accessToken, "spec: {scope: {role: Owner}}", "scope.role"},
		"token with its secret":      {accessToken, "spec: {hash: yunfan_secret}", "spec.hash"},
		"token without end":          {accessToken, "spec: {expirationTime: null}", "expirationTime"},
		"session":                    {session, "", ""},
		"session of an unknown kind": {session, "spec: {kind: Robot}", "spec.kind"},
		"session with its secret":    {session, "spec: {hash: secret}", "spec.hash"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, tc.base, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestSEC04_WhatNeverChanges(t *testing.T) {
	cases := map[string]struct{ base, change, refused string }{
		"a disabled user":                      {user, "spec: {disabled: true}", ""},
		"a local user moves to a directory":    {user, "spec: {directory: corp}", "stays in his directory"},
		"another person takes over an account": {strings.Replace(user, "李雷", "李雷, directory: corp, externalID: one", 1), "spec: {externalID: two}", "must not inherit"},
		"an account loses its person":          {strings.Replace(user, "李雷", "李雷, directory: corp, externalID: one", 1), "spec: {externalID: null}", "must not inherit"},
		"an account gets its person":           {strings.Replace(user, "李雷", "李雷, directory: corp", 1), "spec: {externalID: one}", ""},
		"a session is given to another":        {session, "spec: {user: admin}", "stays its user's"},
		"a session is renewed":                 {session, "spec: {hash: " + strings.Repeat("a", 64) + "}", ""},
		"a token is widened":                   {accessToken, "spec: {user: admin}", "stays as it was made"},
		"a directory of another type":          {ldapDirectory, `spec: {type: OIDC, ldap: null, oidc: {issuer: "https://a.b", clientID: c}}`, "stays of its type"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := object(t, tc.base)
			if err := hub.Client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			changed := object(t, tc.base, tc.change)
			changed.SetName(o.GetName())
			changed.SetResourceVersion(o.GetResourceVersion())
			err := hub.Client.Update(t.Context(), changed)
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestSEC04_DirectoryDefaults(t *testing.T) {
	create := func(manifest string) *unstructured.Unstructured {
		o := object(t, manifest)
		if err := hub.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	ldap := create(ldapDirectory)
	expectField(t, ldap, true, "spec", "createUsers")
	expectField(t, ldap, "StartTLS", "spec", "ldap", "security")
	expectField(t, ldap, "(objectClass=person)", "spec", "ldap", "filter")
	expectField(t, ldap, int64(10), "spec", "ldap", "timeoutSeconds")
	expectField(t, ldap, "uid", "spec", "ldap", "attributes", "user")
	expectField(t, ldap, "entryUUID", "spec", "ldap", "attributes", "id")
	expectField(t, ldap, "memberOf", "spec", "ldap", "attributes", "groups")
	oidc := create(oidcDirectory)
	expectField(t, oidc, "preferred_username", "spec", "oidc", "usernameClaim")
	expectField(t, oidc, "groups", "spec", "oidc", "groupsClaim")
}
