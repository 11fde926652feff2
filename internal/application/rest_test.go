package application

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

var administrator = rest.User{Name: "admin", Groups: []string{"system:masters"}}

// newAPI answers from the hub itself, with previews that only echo what would be delivered.
func newAPI(t *testing.T) *API {
	t.Helper()
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &API{Hub: hub.Client, Authorizer: rest.NewAuthorizer(set), DryRun: func(_ context.Context, p *v1alpha1.Partition, r *v1alpha1.ApplicationRevision,
		spec v1alpha1.DeliverySpec, inventory []v1alpha1.InventoryEntry,
	) (any, error) {
		if p.Name == "prod-sh" {
			return nil, apierrors.NewServiceUnavailable("shanghai does not answer")
		}
		return map[string]any{"workload": r.Spec.Components[1].Workload, "replicas": spec.Tracks[0].Replicas, "has": len(inventory)}, nil
	}}
}

// request is one of a user, with path values in pairs.
func request(t *testing.T, user rest.User, body, query string, values ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), http.MethodPost, "/?"+query, strings.NewReader(body))
	for i := 0; i < len(values); i += 2 {
		r.SetPathValue(values[i], values[i+1])
	}
	return r
}

const manifest = `
metadata: {name: score}
spec:
  components:
  - {name: db-service, workload: StatefulSet, template: {spec: {containers: [{name: db, image: db}]}}}
  - {name: score-record, replicas: 10, template: {spec: {containers: [{name: web, image: web}]}}}
  placement: {policy: Weighted, partitions: [{name: prod-bj, weight: 7}, {name: prod-sh, weight: 3}]}
`

func TestPreviewTellsWhatWouldBe(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	api := newAPI(t)
	first, err := api.preview(request(t, administrator, manifest, "", "tenant", tn.namespace))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.Partitions).To(HaveLen(2))
	g.Expect(first.Partitions[0].Explanation).To(ContainElement("score-record 7 of 10 by weight 7/10"))
	g.Expect(first.Partitions[0].Changes).To(HaveKeyWithValue("workload", v1alpha1.WorkloadDeployment), "defaults are filled in")
	g.Expect(first.Partitions[1].Error).To(ContainSubstring("shanghai does not answer"), "one that is lost does not hide the others")
	app := &v1alpha1.Application{}
	key := client.ObjectKey{Namespace: tn.namespace, Name: "score"}
	g.Expect(apierrors.IsNotFound(hub.Client.Get(t.Context(), key, app))).To(BeTrue(), "nothing was written")

	g.Expect(yaml.Unmarshal([]byte(manifest), app)).To(Succeed())
	app.Namespace = tn.namespace
	testkit.Create(t, hub.Client, app)
	g.Expect(tn.revision(app, "")).To(Equal(first.Revision), "the revision that was told is the one that is made")

	again, err := api.preview(request(t, administrator, strings.ReplaceAll(manifest, "{name: prod-sh, weight: 3}", "{name: prod-bj2}"), "", "tenant", tn.namespace))
	g.Expect(again).To(BeNil())
	expect(t, err, v1alpha1.ReasonPartitionNotFound, "no partition prod-bj2")
	smaller, err := api.preview(request(t, administrator, strings.ReplaceAll(manifest, ", {name: prod-sh, weight: 3}", ""), "", "tenant", tn.namespace))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(smaller.Revision).To(Equal(first.Revision))
	g.Expect(smaller.Partitions[1].Removed).To(BeTrue())
}

func TestPreviewRefuses(t *testing.T) {
	g := NewWithT(t)
	tn := bareTenant(t)
	askWebhook(t, tn.namespace)
	api := newAPI(t)
	nobody := rest.User{Name: "nobody"}
	_, err := api.preview(request(t, nobody, manifest, "", "tenant", tn.namespace))
	g.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
	_, err = api.preview(request(t, administrator, strings.ReplaceAll(manifest, "replicas: 10", "replicas: -1"), "", "tenant", tn.namespace))
	g.Expect(apierrors.IsInvalid(err)).To(BeTrue(), "the schema counts: %v", err)
	_, err = api.preview(request(t, administrator, strings.ReplaceAll(manifest, "replicas: 10", "dependsOn: [db]"), "", "tenant", tn.namespace))
	expect(t, err, v1alpha1.ReasonInvalid, "depends on db")
	_, err = api.preview(request(t, administrator, "metadata: {namespace: other}", "", "tenant", tn.namespace))
	g.Expect(apierrors.IsBadRequest(err)).To(BeTrue(), "%v", err)
	_, err = api.preview(request(t, administrator, "spec: {}", "", "tenant", tn.namespace))
	g.Expect(apierrors.IsBadRequest(err)).To(BeTrue(), "%v", err)
}

func TestDEP01_ListAndDetailAreThoseTheUserMaySee(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	other := testkit.Namespace(t, hub.Client)
	app := tn.create(score(tn.namespace))
	revision := tn.revision(app, "")
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 7})
	tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	tn.becomes(app, v1alpha1.ReasonReady)
	elsewhere := score(other)
	elsewhere.Generation = 0
	testkit.Create(t, hub.Client, elsewhere)
	viewer := rest.User{Name: tn.namespace}
	testkit.Create(t, hub.Client,
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: "viewer"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"yunfan.io"}, Resources: []string{"applications"}, Verbs: []string{"get", "list"}}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: "viewer"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: viewer.Name}},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "viewer"}})

	api := newAPI(t)
	g.Eventually(func(g Gomega) {
		page, err := api.list(request(t, viewer, "", "name=score"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(page.Items).To(HaveLen(1), "the other tenant's is not seen")
		row := page.Items[0]
		g.Expect(row.Tenant).To(Equal(tn.namespace))
		g.Expect(row.Pods).To(Equal(int32(12)))
		g.Expect(row.Partitions).To(Equal([]string{"prod-bj", "prod-sh"}))
		g.Expect(row.Clusters).To(Equal([]string{tn.beijing, tn.shanghai}))
		g.Expect(row.Ready).To(Equal("True"))
	}, wait).Should(Succeed(), "rights take a moment to spread")
	_, err := api.list(request(t, viewer, "", "", "tenant", other))
	g.Expect(apierrors.IsForbidden(err)).To(BeTrue())
	_, err = api.get(request(t, viewer, "", "", "tenant", other, "name", "score"))
	g.Expect(apierrors.IsForbidden(err)).To(BeTrue())
	detail, err := api.get(request(t, viewer, "", "", "tenant", tn.namespace, "name", "score"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(detail.Components).To(HaveKey("prod-sh"))
	g.Expect(detail.Components["prod-bj"]).To(HaveLen(2))
}
