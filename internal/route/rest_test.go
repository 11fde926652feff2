package route

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/route/table"
	"yunfan.io/yunfan/internal/testkit"
)

// view asks a view as somebody with the groups, and gives its rows.
func view[T any](t *testing.T, r *Routes, pattern, query string, groups ...string) (rest.Page[T], error) {
	t.Helper()
	set, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	authorizer := rest.NewAuthorizer(set)
	authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		for _, group := range user.Groups { // stands for the table of roles
			allowed = allowed || group == "everything" || group == "tenant "+a.Namespace && a.Resource == "routes" ||
				group == "route "+a.Namespace+"/"+a.Name && a.Verb == "get"
		}
		return allowed, true
	})
	r.o.Authorizer = authorizer
	user := rest.User{Name: v1alpha1.UserPrefix + "li", Groups: groups}
	request := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), "GET", "/?"+query, nil)
	answer := httptest.NewRecorder()
	var page rest.Page[T]
	for _, route := range r.Routes() {
		if route.Pattern == pattern {
			if err := route.Handler(answer, request); err != nil {
				return page, err
			}
		}
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	return page, nil
}

func TestViewsShowWhatOneMaySee(t *testing.T) {
	g := NewWithT(t)
	s := &standIn{}
	r := start(t, map[string]*standIn{"http://one": s})
	edge := newEdge(t, "http://one")
	edu, bank := testkit.Namespace(t, hub.Client), testkit.Namespace(t, hub.Client)
	cluster, partition, _ := placeOf(t, edu, "a", "bj", 1, "192.0.2.1:30080")
	s.set(func(s *standIn) {
		s.flying = map[string]int{table.TargetName(partition.MemberNamespace(), cluster.Name): 3}
	})
	own, second, foreign := routeObject(edu, "own", []string{edu + ".example.com"}, to("a")),
		routeObject(edu, "second", []string{"second." + edu + ".example.com"}, to("a")), routeObject(bank, "foreign", []string{bank + ".example.com"}, to("a"))
	create(t, application(edu, "a"), application(bank, "a"), own, second, foreign)
	for _, route := range []string{"own", "second"} {
		g.Eventually(readyOf(t, routeObject(edu, route, nil)), patience).Should(HavePrefix("Ready"))
	}
	names := func(query string, groups ...string) string {
		page, err := view[Row](t, r, "GET /api/v1/routes", query, groups...)
		g.Expect(err).NotTo(HaveOccurred())
		var all []string
		for _, row := range page.Items {
			if row.Tenant == edu || row.Tenant == bank {
				all = append(all, row.Name)
			}
		}
		return strings.Join(all, " ")
	}
	g.Expect(names("pageSize=500", "everything")).To(Equal("foreign own second"))
	g.Expect(names("", "tenant "+edu)).To(Equal("own second"))
	g.Expect(names("sort=-name", "tenant "+edu)).To(Equal("second own"))
	g.Expect(names("", "route "+edu+"/second")).To(Equal("second"), "a member of some partitions sees what leads to them")
	g.Expect(names("")).To(BeEmpty())
	g.Expect(names("hosts=second."+edu+".example.com", "tenant "+edu)).To(Equal("second"))

	page, err := view[Row](t, r, "GET /api/v1/routes", "name=own", "tenant "+edu)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(page.Items[0].Targets).To(Equal([]TargetRow{{
		Edge: edge.Name, Endpoint: "http://one", Application: "a", Partition: edu + "/bj", State: v1alpha1.TrafficOpen, InFlight: 3,
	}}))
	_, err = view[EdgeRow](t, r, "GET /api/v1/edges", "", "tenant "+edu)
	g.Expect(err).To(MatchError(ContainSubstring("lacks the verb \"list\"")), "edges are for platform administrators")
	var edges rest.Page[EdgeRow]
	g.Eventually(func() bool {
		edges, err = view[EdgeRow](t, r, "GET /api/v1/edges", "edge="+edge.Name, "everything")
		return err == nil && len(edges.Items) == 1 && edges.Items[0].Serving
	}, patience).Should(BeTrue())
	g.Expect(edges.Items[0].InFlight).To(BeNumerically(">=", 6), "of both routes")
}
