//go:build e2e

package right_test

import (
	"net/http"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/e2e/journey"
)

// sample are the roles of the book (EX-16): a role and a cluster role of each form, and every kind of subject.
func sample(namespace string) map[string][]map[string]any {
	const rbac = "/clusters/beijing/apis/rbac.authorization.k8s.io/v1/"
	rule := func(groups, resources, verbs string, names ...any) map[string]any {
		words := func(text string) (all []any) {
			for word := range strings.SplitSeq(text, " ") {
				all = append(all, strings.Trim(word, "-"))
			}
			return all
		}
		r := map[string]any{"apiGroups": words(groups), "resources": words(resources), "verbs": words(verbs)}
		if len(names) > 0 {
			r["resourceNames"] = names
		}
		return r
	}
	object := func(kind, name string, more map[string]any) map[string]any {
		more["apiVersion"], more["kind"], more["metadata"] = "rbac.authorization.k8s.io/v1", kind, map[string]any{"name": name}
		return more
	}
	role := func(kind, name string, rules ...any) map[string]any {
		return object(kind, name, map[string]any{"rules": rules})
	}
	bind := func(kind, roleKind, role, subjectKind, subject string) map[string]any {
		return object(kind, role+"-"+strings.ReplaceAll(subject, ":", "-"), map[string]any{
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": roleKind, "name": role},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": subjectKind, "name": subject}},
		})
	}
	health := map[string]any{"nonResourceURLs": []any{"/healthz", "/healthz/*"}, "verbs": []any{"get", "post"}}
	return map[string][]map[string]any{
		rbac + "namespaces/" + namespace + "/roles": {
			role("Role", "pod-reader", rule("-", "pods", "get list")),
			role("Role", "pod-watcher", rule("-", "pods", "get list watch")),
			role("Role", "deployer", rule("extensions apps", "deployments", "get list watch create update patch delete")),
			role("Role", "config", rule("-", "configmaps", "get", "my-config")),
		},
		rbac + "namespaces/" + namespace + "/rolebindings": {
			bind("RoleBinding", "Role", "pod-reader", "User", "jane"),
			bind("RoleBinding", "Role", "pod-watcher", "Group", "frontend-admins"),
			bind("RoleBinding", "Role", "deployer", "User", "alice"),
			bind("RoleBinding", "Role", "config", "Group", "system:serviceaccounts:qa"),
		},
		rbac + "clusterroles":        {role("ClusterRole", namespace+"-health", health)},
		rbac + "clusterrolebindings": {bind("ClusterRoleBinding", "ClusterRole", namespace+"-health", "User", "alice")},
	}
}

// TestSEC05_SampleOfTheBook has an administrator make the roles of the book on a member, through the platform, and asks
// the member about each subject.
func TestSEC05_SampleOfTheBook(t *testing.T) {
	c := begin(t)
	made := sample(c.whole)
	for _, path := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		for collection, objects := range made {
			if !strings.HasSuffix(collection, "/"+path) {
				continue
			}
			for _, object := range objects {
				if code, text := c.ask(platform, http.MethodPost, collection, object); code != http.StatusCreated {
					t.Fatalf("%s: %d %s", collection, code, text)
				}
				if code, text := c.ask(admin, http.MethodPost, collection, object); code != http.StatusForbidden {
					t.Errorf("an Admin of a tenant makes rights on a member: %d %s", code, text)
				}
				if !strings.Contains(collection, "/namespaces/") {
					name := object["metadata"].(map[string]any)["name"].(string)
					t.Cleanup(func() { c.Try(journey.Beijing, "delete", strings.ToLower(object["kind"].(string)), name) })
				}
			}
		}
	}
	jane, alice := []string{"--as", "jane"}, []string{"--as", "alice"}
	frontend := []string{"--as", "x", "--as-group", "frontend-admins"}
	qa := []string{"--as", "system:serviceaccount:qa:robot", "--as-group", "system:serviceaccounts:qa"}
	for _, tc := range []struct {
		who  []string
		what string
		want string
	}{
		{jane, "get pods", "yes"}, {jane, "list pods", "yes"}, {jane, "watch pods", "no"}, {jane, "delete pods", "no"}, {jane, "get deployments.apps", "no"},
		{frontend, "watch pods", "yes"}, {frontend, "create pods", "no"},
		{alice, "create deployments.apps", "yes"}, {alice, "delete deployments.apps", "yes"}, {alice, "get pods", "no"},
		{alice, "get /healthz", "yes"}, {alice, "post /healthz/etcd", "yes"}, {jane, "post /healthz", "no"},
		{qa, "get configmaps/my-config", "yes"}, {qa, "get configmaps/other", "no"}, {qa, "list configmaps", "no"},
	} {
		args := append(append([]string{"-n", c.whole, "auth", "can-i"}, strings.Fields(tc.what)...), tc.who...)
		c.Eventually(func() string { return strings.TrimSpace(c.Try(journey.Beijing, args...)) }, "10s").
			Should(HavePrefix(tc.want), "%v %s", tc.who, tc.what)
	}
}
