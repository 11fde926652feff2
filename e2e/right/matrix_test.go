//go:build e2e

package right_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

func quota(pods string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourcePods: resource.MustParse(pods)}
}

// row is a line of the table of rights, for one kind of object: who may use which verb. It is written by hand from the
// table in docs/rights.md. What is left out nobody may.
type row struct {
	name string
	// collection is the path of the list, object the name of one that exists; none if empty.
	collection, object string
	// fresh is an object that can be created.
	fresh map[string]any
	// may has for each verb the letters of those who may.
	may map[string]string
	// weak says that an answer other than 403 is enough: what is allowed cannot be carried out here.
	weak bool
	// sub says that it is a subresource: it is read and posted to, and has neither names nor a watch.
	sub bool
}

type may = map[string]string

const (
	read, change = "get list watch", "create update patch delete"
	all          = read + " " + change + " deletecollection"
)

// who spreads letters over verbs.
func who(pairs ...string) may {
	out := may{}
	for i := 0; i < len(pairs); i += 2 {
		for verb := range strings.FieldsSeq(pairs[i]) {
			out[verb] += pairs[i+1]
		}
	}
	return out
}

func kind(name string, spec map[string]any) map[string]any {
	return map[string]any{"apiVersion": "yunfan.io/v1alpha1", "kind": name, "metadata": map[string]any{"name": "matrix"}, "spec": spec}
}

func (c *cast) hubTable(application func(partition string) map[string]any) []row {
	const root = "/apis/yunfan.io/v1alpha1/"
	in := root + "namespaces/" + c.Tenant + "/"
	files := map[string]any{"a": "b"}
	none := "/api/v1/namespaces/" + c.Tenant
	revision := c.revision("in-part")
	return []row{
		{"Cluster", root + "clusters", "beijing", kind("Cluster", map[string]any{"connection": map[string]any{"kubeconfigSecretRef": map[string]any{"name": "x"}}}),
			who(all, "P", "get", "AOVov"), false, false},
		{"Tenant", root + "tenants", c.Tenant, kind("Tenant", map[string]any{}),
			who(all, "P", "get", "AOVov"), false, false},
		{"Membership", in + "memberships", c.people[viewer].Name, kind("Membership", map[string]any{"role": "Viewer", "subject": map[string]any{"kind": "User", "name": "x"}}),
			who(all, "PA", read, "OV"), false, false},
		{"UserGroup", in + "usergroups", "g1", kind("UserGroup", map[string]any{"users": []any{"x"}}),
			who(all, "PA", read, "OV"), false, false},
		{"Partition", in + "partitions", "whole", kind("Partition", map[string]any{"cluster": "beijing"}),
			who(all, "P", read, "AOV"), false, false},
		{"Sub-partition", in + "partitions", "part", kind("Partition", map[string]any{"cluster": "beijing", "parent": "whole"}),
			who(all, "P", read, "AOV", "get", "ov", change, "A"), false, false},
		{"Configuration", in + "configurations", "everywhere", kind("Configuration", map[string]any{"files": files}),
			who(all, "PAO", read, "V"), false, false},
		{"Configuration of the sub-partition", in + "configurations", "in-part", kind("Configuration", map[string]any{"files": files, "publication": "Selected", "partitions": []any{"part"}}),
			who(all, "PAO", read, "V", "get", "ov", change, "o"), false, false},
		{"Application", in + "applications", "in-whole", application("whole"),
			who(all, "PAO", read, "V"), false, false},
		{"Application of the sub-partition", in + "applications", "in-part", application("part"),
			who(all, "PAO", read, "V", "get", "ov", change, "o"), false, false},
		{"ApplicationRevision", in + "applicationrevisions", revision, nil, who(read, "PAOV", "get", "ov"), false, false},
		{"Delivery", in + "deliveries", v1alpha1.DeliveryName("in-part", "part"), nil, who(read, "PAOV", "get", "ov"), false, false},
		{"Delivery elsewhere", in + "deliveries", v1alpha1.DeliveryName("in-whole", "whole"), nil, who(read, "PAOV"), false, false},
		{"Route", in + "routes", "matrix-route", kind("Route", map[string]any{"hosts": []any{"fresh." + c.Tenant + ".example.com"}, "rules": []any{toInPart()}}),
			who(all, "PAO", read, "V", "get", "ov"), false, false},
		{"Rollout", in + "rollouts", "", nil, who("list watch", "PAOV"), false, false},
		{"RouteHost", root + "routehosts", "", nil, who("list watch", "P"), false, false},
		{"Edge", root + "edges", "", kind("Edge", map[string]any{"endpoints": []any{"https://192.0.2.1:8444"}, "credentialsSecretRef": map[string]any{"name": "x"}}),
			who(all, "P"), true, false},
		{"Workflow", in + "workflows", "matrix-flow", kind("Workflow", map[string]any{"steps": waits().Steps}),
			who(all, "PAO", read, "V", "get", "ov"), false, false},
		{"WorkflowRun", in + "workflowruns", "matrix-run", kind("WorkflowRun", map[string]any{"definition": waits()}),
			who(all, "P", read+" create update patch", "AO", read, "V", "create", "o"), false, false},
		{"Approval", in + "approvals", "", kind("Approval", map[string]any{"run": "x", "runUID": "x", "step": "x", "digest": "x", "decision": "Approved"}),
			who("list watch", "PAOV"), false, false}, // of a step that nobody waits for it is refused to all
		{"ResourceRequest", in + "resourcerequests", "", nil, who(all, "P", read, "AOV", "create update patch", "AOo"), true, false},
		{"NotificationReceiver", in + "notificationreceivers", "", kind("NotificationReceiver", map[string]any{"type": "Email", "addresses": []any{"li@example.com"}}),
			who(all, "PA", read, "OV"), true, false},
		{"NotificationProvider", root + "notificationproviders", "", nil, who(all, "P"), true, false},
		{"Product", root + "products", "", kind("Product", map[string]any{"kind": "Quota", "cpu": "1", "memory": "1Gi"}),
			who(all, "P", read, everybody), true, false},
		{"User", root + "users", c.people[nobody].Name, kind("User", map[string]any{}), who(all, "P"), false, false},
		{"Directory", root + "directories", "", nil, who(all, "P"), true, false},
		{"Session", root + "sessions", "", nil, who("list watch delete deletecollection", "P"), true, false},
		{"AccessToken", root + "accesstokens", "", nil, who("list watch delete deletecollection", "P"), true, false},
		{"namespace of the hub", "/api/v1/namespaces", c.Tenant, nil, who(read, "P", "get", "AOV"), false, false},
		{"events", none + "/events", "", nil, who("list watch", "PAOV"), false, false},
		{"secrets of the tenant", none + "/secrets", "matrix", nil, who(), false, false},
		{"secrets of the platform", "/api/v1/namespaces/yunfan-system/secrets", "beijing-kubeconfig", nil, who(), false, false},
		{"secrets of everybody", "/api/v1/secrets", "", nil, who(), false, false},
		{"ConfigMaps of the platform", "/api/v1/namespaces/yunfan-system/configmaps", "", nil, who(), false, false},
		{"pods of the hub", none + "/pods", "", nil, who(), false, false},
		{"service accounts", none + "/serviceaccounts", "default", nil, who(), false, false},
		{"their tokens", none + "/serviceaccounts/default/token", "", nil, who(), false, false},
		{"roles", "/apis/rbac.authorization.k8s.io/v1/namespaces/" + c.Tenant + "/roles", "", nil, who(), false, false},
		{"bindings", "/apis/rbac.authorization.k8s.io/v1/namespaces/" + c.Tenant + "/rolebindings", "yunfan-admin", nil, who(), false, false},
		{"cluster-wide bindings", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "yunfan:platform-admin", nil, who(), false, false},
		{"admission", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "yunfan-deploy-applications", nil, who(), false, false},
		{"kinds", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "users.yunfan.io", nil, who(), false, false},
	}
}

// toInPart is a rule of a Route that leads to the application of the sub-partition.
func toInPart() map[string]any {
	return map[string]any{"name": "all", "backends": []any{map[string]any{"application": "in-part", "component": "in-part"}}}
}

// waits is a graph that waits for an hour.
func waits() *v1alpha1.WorkflowSpec {
	return &v1alpha1.WorkflowSpec{Steps: []v1alpha1.WorkflowStep{{Name: "a", Action: "wait", With: map[string]json.RawMessage{"for": json.RawMessage(`"1h"`)}}}}
}

func (c *cast) memberTable() []row {
	table := func(namespace, viewers, operators string) []row {
		core, apps := "/clusters/beijing/api/v1/namespaces/"+namespace+"/", "/clusters/beijing/apis/apps/v1/namespaces/"+namespace+"/"
		component := map[string]string{c.whole: "in-whole", c.part: "in-part"}[namespace]
		pod := c.Pods(journey.Beijing, namespace, component)[0].Name
		everything := func(readers string) may { return who(all, "P", read, readers) }
		return []row{
			{"pods", core + "pods", pod, nil, who("get list watch update patch delete deletecollection", "P", read, viewers, "delete", operators), false, false},
			{"logs", core + "pods/" + pod + "/log", "", nil, who("list", "P"+viewers), false, true},
			{"exec", core + "pods/" + pod + "/exec?command=id", "", nil, who("list create", "P"+operators), true, true},
			{"attach", core + "pods/" + pod + "/attach", "", nil, who("list create", "P"+operators), true, true},
			{"port-forward", core + "pods/" + pod + "/portforward", "", nil, who("list create", "P"+operators), true, true},
			{"pods/proxy", core + "pods/" + pod + ":8080/proxy/", "", nil, who("list create", "P"), true, true},
			{"services/proxy", core + "services/" + component + ":8080/proxy/", "", nil, who("list create", "P"), true, true},
			{"pods/eviction", core + "pods/" + pod + "/eviction", "", nil, who("create", "P"), true, true},
			{"pods/ephemeralcontainers", core + "pods/" + pod + "/ephemeralcontainers", "", nil, who("list", "P"), true, true},
			{"events", core + "events", "", nil, who("list watch deletecollection", "P", "list watch", viewers), false, false},
			{"services", core + "services", component, nil, who("get list watch update patch delete deletecollection", "P", read, viewers), false, false},
			{"ConfigMaps", core + "configmaps", "kube-root-ca.crt", core2("ConfigMap"), everything(viewers), false, false},
			{"secrets", core + "secrets", "", core2("Secret"), who("list watch create deletecollection", "P"), false, false},
			{"quota", core + "resourcequotas", "yunfan", nil, who("get list watch update patch delete deletecollection", "P", read, viewers), false, false},
			{"service accounts", core + "serviceaccounts", "yunfan-delivery", core2("ServiceAccount"), everything(""), false, false},
			{"deployments", apps + "deployments", component, nil, who("get list watch update patch delete deletecollection", "P", read, viewers), false, false},
			{"scale", apps + "deployments/" + component + "/scale", "", nil, who("list", "P"+viewers), false, true},
			{"bindings", "/clusters/beijing/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace + "/rolebindings", "yunfan-admin", nil,
				who("get list watch update patch delete deletecollection", "P"), false, false},
			{"network policies", "/clusters/beijing/apis/networking.k8s.io/v1/namespaces/" + namespace + "/networkpolicies", "", nil,
				who("list watch deletecollection", "P", "list watch", viewers), false, false},
			{"namespace", "/clusters/beijing/api/v1/namespaces", namespace, nil, who("get list watch", "P", "get", viewers), false, false},
		}
	}
	rows := table(c.whole, "AOV", "AO")
	rows = append(rows, table(c.part, "AOVov", "AOo")...)
	return append(rows,
		row{"nodes", "/clusters/beijing/api/v1/nodes", "", nil, who("list watch", "P"), false, false},
		row{"kubelet", "/clusters/beijing/api/v1/nodes/" + c.node() + "/proxy/pods", "", nil, who("list", "P"), true, true},
		row{"all pods", "/clusters/beijing/api/v1/pods", "", nil, who("list watch", "P"), false, false},
		row{"system pods", "/clusters/beijing/api/v1/namespaces/kube-system/pods", "", nil, who("list watch", "P"), false, false},
		row{"system secrets", "/clusters/beijing/api/v1/namespaces/kube-system/secrets", "", nil, who("list watch", "P"), false, false},
		row{"default namespace", "/clusters/beijing/api/v1/namespaces/default/services", "", nil, who("list watch", "P"), false, false},
		row{"volumes", "/clusters/beijing/api/v1/persistentvolumes", "", nil, who("list watch", "P"), false, false},
		row{"metrics", "/clusters/beijing/metrics", "", nil, who("list", "P"), false, true},
		row{"health", "/clusters/beijing/healthz", "", nil, who("list", "P"), false, true},
		row{"discovery", "/clusters/beijing/apis", "", nil, who("list", "PAOVov"), false, true},
		row{"other tenant's cluster", "/clusters/shanghai/api/v1/namespaces/" + c.other.Tenant + "-whole/pods", "", nil, who("list watch delete", "PX"), true, false},
		row{"no cluster of this name", "/clusters/nowhere/api/v1/pods", "", nil, who("list watch", "P"), true, false},
	)
}

func core2(name string) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": name, "metadata": map[string]any{"name": "matrix"}}
}

func (c *cast) node() string {
	var nodes corev1.NodeList
	if err := c.Clusters[journey.Beijing].List(c.Context(), &nodes); err != nil {
		c.Fatal(err)
	}
	return nodes.Items[0].Name
}

func (c *cast) revision(application string) string {
	var list v1alpha1.ApplicationRevisionList
	if err := c.Hub().List(c.Context(), &list, client.InNamespace(c.Tenant), client.MatchingLabels{v1alpha1.LabelApplication: application}); err != nil || len(list.Items) == 0 {
		c.Fatalf("revisions of %s: %v", application, err)
	}
	return list.Items[0].Name
}

// TestSEC01_Matrix asks every cell of the table of rights with every verb, on hub and member, through the platform, with
// the token of somebody of every kind. Writes are dry runs.
func TestSEC01_Matrix(t *testing.T) {
	c := begin(t)
	c.Create(
		&v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "everywhere"}, Spec: v1alpha1.ConfigurationSpec{Files: map[string]string{"a": "b"}}},
		&v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "in-part"}, Spec: v1alpha1.ConfigurationSpec{
			Files: map[string]string{"a": "b"}, Publication: v1alpha1.PublicationSelected, Partitions: []string{"part"},
		}},
		&v1alpha1.Workflow{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "matrix-flow"}, Spec: *waits()},
		&v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "matrix-run"}, Spec: v1alpha1.WorkflowRunSpec{Definition: waits()}},
	)
	inWhole := c.Application("in-whole", journey.In("whole"), journey.Echo("in-whole"))
	inPart := c.Application("in-part", journey.In("part"), journey.Echo("in-part"))
	c.Ready(inWhole)
	c.Ready(inPart)
	c.Create(&v1alpha1.Route{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "matrix-route"}, Spec: v1alpha1.RouteSpec{
		Hosts: []string{c.Tenant + ".example.com"},
		Rules: []v1alpha1.RouteRule{{Name: "all", Backends: []v1alpha1.RouteBackend{{Application: "in-part", Component: "in-part"}}}},
	}})
	application := func(partition string) map[string]any {
		fresh := c.stored(journey.Hub, "/apis/yunfan.io/v1alpha1/namespaces/"+c.Tenant+"/applications/in-"+partition)
		fresh["metadata"] = map[string]any{"name": "matrix"}
		fresh["spec"].(map[string]any)["components"].([]any)[0].(map[string]any)["name"] = "matrix"
		delete(fresh, "status")
		return fresh
	}
	for place, rows := range map[string][]row{"hub": c.hubTable(application), "member": c.memberTable()} {
		for _, r := range rows {
			t.Run(place+"/"+strings.ReplaceAll(r.name, "/", "-")+" "+namespaceOf(r), func(t *testing.T) { c.row(t, r) })
		}
	}
}

func namespaceOf(r row) string {
	_, rest, _ := strings.Cut(r.collection, "/namespaces/")
	name, _, _ := strings.Cut(rest, "/")
	return name
}

func (c *cast) row(t *testing.T, r row) {
	t.Helper()
	for verb := range strings.FieldsSeq(all) {
		if verb == "get" && r.object == "" || verb == "create" && r.fresh == nil && len(r.may["create"]) > 0 && !r.weak {
			continue
		}
		if r.sub && verb != "list" && verb != "create" {
			continue
		}
		for letter := range strings.SplitSeq(everybody, "") {
			method, path, body := c.request(r, verb)
			code, text := send(t, c.people[letter].Config, method, path, body)
			allowed := strings.Contains(r.may[verb], letter)
			switch {
			case !allowed && letter == platform && strings.HasPrefix(path, "/clusters/"):
				// He may everything there; what cannot be done is answered in many ways.
			case !allowed && (code != http.StatusForbidden || !strings.Contains(text, `"reason":"Forbidden"`) || !strings.Contains(text, `"kind":"Status"`)):
				t.Errorf("%s may %s %s: want a refusal, got %d %.300s", letter, verb, r.name, code, text)
			case allowed && code == http.StatusForbidden, allowed && !r.weak && (code < 200 || code > 299):
				t.Errorf("%s may not %s %s: %d %.500s", letter, verb, r.name, code, text)
			}
		}
	}
}

// request is a verb on a row as HTTP has it.
func (c *cast) request(r row, verb string) (method, path string, body any) {
	separator := "?"
	if strings.Contains(r.collection, "?") {
		separator = "&"
	}
	const dry = "dryRun=All"
	one := r.collection + "/" + r.object
	if r.object == "" {
		one = r.collection + "/matrix"
	}
	switch verb {
	case "get":
		return http.MethodGet, one, nil
	case "list":
		return http.MethodGet, r.collection, nil
	case "watch":
		return http.MethodGet, r.collection + separator + "watch=true&timeoutSeconds=1", nil
	case "create":
		fresh := maps.Clone(r.fresh)
		if fresh == nil {
			fresh = core2("Unknown")
		}
		return http.MethodPost, r.collection + separator + dry, fresh
	case "update":
		if r.may["update"] == "" || r.object == "" {
			return http.MethodPut, one + "?" + dry, core2("Unknown")
		}
		return http.MethodPut, one + "?" + dry, c.stored(c.clusterOf(r), strings.TrimPrefix(one, "/clusters/beijing"))
	case "patch":
		return http.MethodPatch, one + "?" + dry, `{"metadata":{"labels":{"matrix":"patched"}}}`
	case "delete":
		return http.MethodDelete, one + "?" + dry, nil
	case "deletecollection":
		return http.MethodDelete, r.collection + separator + dry, nil
	}
	panic(fmt.Sprintf("no such verb: %s", verb))
}

func (c *cast) clusterOf(r row) string {
	if strings.HasPrefix(r.collection, "/clusters/beijing") {
		return journey.Beijing
	}
	return journey.Hub
}
