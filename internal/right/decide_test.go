package right_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// TestSEC01_DecideAgrees asks the hub and the platform's own evaluation the same over the whole product of roles,
// resources and verbs: they never differ.
func TestSEC01_DecideAgrees(t *testing.T) {
	index := start(t)
	own, other := newTenant(t), newTenant(t)
	for _, p := range []string{"mine", "others"} {
		testkit.Create(t, hub.Client, &v1alpha1.Partition{
			ObjectMeta: metav1.ObjectMeta{Name: p, Namespace: own}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing"},
		})
	}
	roles := map[string][]string{
		"nobody":           {"yunfan:authenticated"},
		"platform":         {"yunfan:platform-admin"},
		"admin":            {"yunfan:tenant:" + own + ":admin"},
		"operator":         {"yunfan:tenant:" + own + ":operator"},
		"viewer":           {"yunfan:tenant:" + own + ":viewer"},
		"limited operator": {"yunfan:tenant:" + own + ":limited", "yunfan:tenant:" + own + ":limited-operator", "yunfan:partition:" + own + ":mine:operator"},
		"limited viewer":   {"yunfan:tenant:" + own + ":limited", "yunfan:partition:" + own + ":mine:viewer"},
		"two tenants":      {"yunfan:tenant:" + own + ":viewer", "yunfan:tenant:" + other + ":admin"},
	}
	var questions []authorizationv1.ResourceAttributes
	for _, resource := range []string{
		"clusters", "tenants", "memberships", "usergroups", "partitions", "configurations", "applications", "applicationrevisions",
		"deliveries", "nodeports", "users", "directories", "sessions", "accesstokens", "settings", "secrets", "unknowns",
		"workflows", "workflowruns", "approvals", "resourcerequests", "products", "notificationreceivers", "notificationproviders",
		"routes", "routehosts", "edges", "rollouts",
	} {
		for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "deploy", "allocate", "stamp", "impersonate", "*"} {
			for _, namespace := range []string{"", own, other} {
				questions = append(questions, authorizationv1.ResourceAttributes{Verb: verb, Group: "yunfan.io", Resource: resource, Namespace: namespace})
				if verb != "get" && verb != "delete" {
					continue
				}
				for _, name := range []string{"mine", own, "beijing"} {
					questions = append(questions, authorizationv1.ResourceAttributes{Verb: verb, Group: "yunfan.io", Resource: resource, Namespace: namespace, Name: name})
				}
			}
		}
	}
	for _, q := range []string{"partitions/status", "applications/status", "clusters/nodes", "users/status", "workflowruns/status", "approvals/status", "resourcerequests/status", "*"} {
		questions = append(questions, authorizationv1.ResourceAttributes{Verb: "update", Group: "yunfan.io", Resource: q, Namespace: own})
	}
	for name, groups := range roles {
		t.Run(name, func(t *testing.T) {
			var group errgroup.Group
			group.SetLimit(8)
			for _, q := range questions {
				group.Go(func() error {
					here, decided := index.Decide(user(groups...), q)
					asked := groups
					if index.Own(t.Context(), user(groups...), q) {
						asked = append([]string{"yunfan:reader"}, groups...) // as the proxy does
					}
					there, err := review(t, asked, q)
					if err == nil && (!decided || here != there) {
						err = fmt.Errorf("%s %s/%s %s: we say %v (%v), the hub says %v", q.Verb, q.Namespace, q.Resource, q.Name, here, decided, there)
					}
					return err
				})
			}
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
