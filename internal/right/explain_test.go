package right_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/right"
	"yunfan.io/yunfan/internal/testkit"
)

// TestSEC01_MayI asks as people do, through the API.
func TestSEC01_MayI(t *testing.T) {
	index := start(t)
	own, other := newTenant(t), newTenant(t)
	name := func(who string) string { return who + "-" + own }
	for _, who := range []string{"boss", "op", "look", "alien"} {
		testkit.Create(t, hub.Client, &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name(who)}, Spec: v1alpha1.UserSpec{DisplayName: who}})
	}
	p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Name: "prod", Namespace: own}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing"}}
	testkit.Create(t, hub.Client, p,
		member(own, "boss", v1alpha1.SubjectUser, name("boss"), v1alpha1.RoleAdmin),
		member(own, "op", v1alpha1.SubjectUser, name("op"), v1alpha1.RoleOperator, "prod"),
		member(own, "look", v1alpha1.SubjectUser, name("look"), v1alpha1.RoleViewer),
		member(other, "alien", v1alpha1.SubjectUser, name("alien"), v1alpha1.RoleAdmin),
	)
	p.Status.Namespace = own + "-prod"
	if err := hub.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	api := &right.API{Hub: hub.Client, Index: index, Authorizer: rest.NewAuthorizer(clientset)}
	ask := func(who, question string) string {
		user := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name(who)}}
		groups, err := index.Groups(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		ctx := rest.WithUser(t.Context(), rest.User{Name: "yunfan:" + name(who), Groups: groups})
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/api/v1/access-review", strings.NewReader(question))
		w := httptest.NewRecorder()
		if err := api.Routes()[0].Handler(w, r); err != nil {
			s := rest.StatusOf(err)
			return fmt.Sprintf("%d %s", s.Code, s.Message)
		}
		answer := right.Answer{}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Allowed {
			return fmt.Sprintf("yes, %s, %s by %v", answer.Role, answer.Rule, answer.Memberships)
		}
		return "no, " + answer.Missing
	}
	g := NewWithT(t)
	g.Eventually(func() string { return ask("op", `{verb: delete, resource: pods, tenant: `+own+`, partition: prod}`) }, "10s").
		Should(Equal("yes, Operator of partition prod of tenant " + own + ", yunfan-operator by [" + own + "/op]"))
	for _, tc := range []struct{ reason, who, question, want string }{
		{"by his role", "boss", "{verb: create, resource: memberships, tenant: OWN}", "yes, Admin of tenant OWN, yunfan:tenant-admin by [OWN/boss]"},
		{"his partition", "op", "{verb: deploy, resource: partitions, name: prod, tenant: OWN}", "yes, Operator of partition prod of tenant OWN, yunfan-deploy-applications by [OWN/op]"},
		{"another partition", "op", "{verb: deploy, resource: partitions, name: test, tenant: OWN}", "no, your role in tenant OWN is Operator in partition prod, and it needs Operator"},
		{"what is missing", "look", "{verb: create, resource: applications, tenant: OWN}", "no, your role in tenant OWN is Viewer, and it needs Operator, which an Admin of the tenant gives"},
		{"on a member", "look", "{verb: create, resource: pods/exec, tenant: OWN, partition: prod}", "no, it needs the role Operator in partition prod of tenant OWN"},
		{"elsewhere", "alien", "{verb: get, resource: pods, cluster: beijing, namespace: OWN-prod}", "no, namespace OWN-prod of cluster beijing is not one of your partitions"},
		{"the system's", "boss", "{verb: get, resource: pods, cluster: beijing, namespace: kube-system}", "no, namespace kube-system of cluster beijing is not one of your partitions"},
		{"secrets", "boss", "{verb: get, resource: secrets, tenant: OWN, partition: prod}", "no, nobody reads secrets back"},
		{"delivered things", "boss", "{verb: patch, resource: deployments, tenant: OWN, partition: prod}", "no, no role of a tenant has it on members"},
		{"lists", "boss", "{verb: list, resource: clusters}", "no, it is for platform administrators: ask one of them. GET /api/v1/clusters lists those that are yours"},
		{"reading his own", "boss", "{verb: get, resource: clusters, name: beijing}", "yes, reading by name what is one's own"},
		{"the platform's", "boss", "{verb: create, resource: deliveries, tenant: OWN}", "no, the platform alone writes it"},
		{"what stays", "boss", "{verb: delete, resource: approvals, tenant: OWN}", "no, an approval is what somebody said"},
		{"in another's name", "boss", "{verb: stamp, resource: workflowruns, tenant: OWN}", "no, the platform alone does something in the name of others"},
		{"approving", "boss", "{verb: create, resource: approvals, tenant: OWN}", "yes, Admin of tenant OWN"},
		{"of everybody", "op", "{verb: list, resource: products}", "yes, everybody who is signed in, yunfan:authenticated"},
		{"for a member", "boss", "{user: look-OWN, verb: create, resource: applications, tenant: OWN}", "no, your role in tenant OWN is Viewer"},
		{"for a stranger", "boss", "{user: alien-OWN, verb: list, resource: partitions, tenant: OWN}", "403 "},
		{"for nobody", "boss", "{user: nobody, verb: list, resource: partitions, tenant: OWN}", "403 "},
		{"in another tenant", "boss", "{user: look-OWN, verb: list, resource: partitions, tenant: OTHER}", "403 "},
		{"for another, as no Admin", "look", "{user: op-OWN, verb: list, resource: partitions, tenant: OWN}", "403 "},
		{"nothing asked", "look", "{verb: list}", "400 "},
	} {
		replace := strings.NewReplacer("OWN", own, "OTHER", other)
		if got := ask(tc.who, replace.Replace(tc.question)); !strings.HasPrefix(got, replace.Replace(tc.want)) {
			t.Errorf("%s: %s asks %s: got %q, want %q", tc.reason, tc.who, tc.question, got, replace.Replace(tc.want))
		}
	}
}
