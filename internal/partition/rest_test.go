package partition_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/partition"
	"yunfan.io/yunfan/internal/rest"
)

// view asks the list of partitions and gives the answer, or the error.
func view(t *testing.T, user rest.User, tenant, query string) (rest.Page[partition.Row], error) {
	t.Helper()
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	authorizer := rest.NewAuthorizer(set)
	authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		for _, group := range user.Groups { // stands for the table of roles
			allowed = allowed || group == "tenant "+a.Namespace || group == "partition "+a.Namespace+"/"+a.Name && a.Verb == "get"
		}
		return allowed, strings.HasPrefix(user.Name, v1alpha1.UserPrefix)
	})
	api := &partition.API{Hub: hub.Client, Authorizer: authorizer}
	r := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), "GET", "/?"+query, nil)
	r.SetPathValue("tenant", tenant)
	w := httptest.NewRecorder()
	if err := api.Routes()[0].Handler(w, r); err != nil {
		return rest.Page[partition.Row]{}, err
	}
	var page rest.Page[partition.Row]
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	return page, nil
}

func names(page rest.Page[partition.Row]) string {
	var all []string
	for _, row := range page.Items {
		all = append(all, row.Cluster+"/"+row.Partition)
	}
	return strings.Join(all, " ")
}

func TestRES02_View(t *testing.T) {
	g := NewWithT(t)
	w := &world{T: t, cluster: "cluster1"}
	tenant, other := w.tenant(nil), w.tenant(nil)
	w.cluster = "cluster1"
	one := w.partition(tenant, "partition1", func(s *v1alpha1.PartitionSpec) {
		s.Nodes.Selector = map[string]string{"pool": "one"}
		s.Quota = list("requests.cpu", "96", "requests.memory", "384G", "pods", "330", "requests.nvidia.com/gpu", "2")
		s.Environment = "Production"
	})
	one.Status.Nodes, one.Status.Pods = 3, 12
	if err := hub.Client.Status().Update(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	w.partition(tenant, "partition2")
	w.cluster = "cluster2"
	w.partition(tenant, "partition3", func(s *v1alpha1.PartitionSpec) { s.Quota = list("limits.cpu", "4", "pods", "5") })
	w.partition(other, "foreign")
	admin := rest.User{Name: "admin", Groups: []string{"system:masters"}}
	li := rest.User{Name: "yunfan:li", Groups: []string{"tenant " + tenant}}
	see := func(user rest.User, query string) string {
		t.Helper()
		page, err := view(t, user, "", query)
		g.Expect(err).NotTo(HaveOccurred())
		return names(page)
	}

	page, err := view(t, li, tenant, "sort=partition")
	g.Expect(err).NotTo(HaveOccurred())
	columns := func(r partition.Row) string {
		return fmt.Sprint(r.Cluster, " ", r.Partition, " ", r.Hosts, " ", r.CPU, " ", r.Memory, " ", r.Pods, " ", r.GPU, " ", r.RunningPods, " ", r.Namespace)
	}
	g.Expect(columns(page.Items[0])).To(Equal("cluster1 partition1 3 96 384G 330 2 12 " + tenant + "-partition1"))
	g.Expect(columns(page.Items[1])).To(Equal("cluster1 partition2 all " + strings.Repeat("unlimited ", 4) + "0 " + tenant + "-partition2"))
	g.Expect(columns(page.Items[2])).To(Equal("cluster2 partition3 all 4 unlimited 5 unlimited 0 " + tenant + "-partition3"))

	mine := "tenant=" + tenant + "&tenant=" + other
	for query, want := range map[string]string{
		"search=partition2":                        "cluster1/partition2",
		"search=cluster2":                          "cluster2/partition3",
		"cluster=cluster1&sort=-partition":         "cluster1/partition2 cluster1/partition1",
		"sort=pods":                                "cluster2/partition3 cluster1/partition1 cluster1/partition2",
		"sort=-cpu":                                "cluster1/partition2 cluster1/partition1 cluster2/partition3",
		"sort=partition&pageSize=2&page=2":         "cluster2/partition3",
		"environment=Production":                   "cluster1/partition1",
		"hosts=all&sort=partition&cluster=cluster": "",
	} {
		g.Expect(see(li, query)).To(Equal(want), query)
	}
	g.Expect(see(admin, mine+"&sort=partition")).To(Equal("cluster2/foreign cluster1/partition1 cluster1/partition2 cluster2/partition3"))
	limited := rest.User{Name: "yunfan:wang", Groups: []string{"partition " + tenant + "/partition2"}}
	g.Expect(see(limited, "")).To(Equal("cluster1/partition2"), "who may get one partition sees it, and no other")
	g.Expect(see(rest.User{Name: "somebody"}, "")).To(BeEmpty())
	_, err = view(t, admin, "", "sort=colour")
	g.Expect(err).To(MatchError(ContainSubstring("there is no field")))
}
