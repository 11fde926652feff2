package request

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

// both runs a test with a database of each kind.
func both(t *testing.T, test func(t *testing.T, l *Ledger)) {
	t.Helper()
	for name, location := range map[string]func(t *testing.T) string{
		"SQLite":     func(t *testing.T) string { t.Helper(); return "sqlite://" + filepath.Join(t.TempDir(), "records.db") },
		"PostgreSQL": func(t *testing.T) string { t.Helper(); return testkit.StartPostgreSQL(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			l := &Ledger{opened(t, location(t))}
			if err := l.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			test(t, l)
		})
	}
}

func ledgerRow(uid, event, key string, at time.Time) LedgerRow {
	return LedgerRow{
		Time: at, Event: event, key: key, Tenant: "edu", Request: "r" + uid, UID: uid, Type: v1alpha1.RequestNew, Partition: "prod", Cluster: "beijing",
		Applicant: "li", Actor: "wang", Asked: quota("requests.cpu", "4"), Granted: quota("requests.cpu", "3"), GrantedUntil: &metav1.Time{Time: at.Add(daily)},
		Comment: "先给 3 核", Evidence: &Evidence{Tenant: "edu", Recent: map[corev1.ResourceName]Used{"requests.cpu": {Average: 1.5, Peak: 2}}},
	}
}

func TestAUD03_LedgerIsOnlyAddedTo(t *testing.T) {
	both(t, func(t *testing.T, l *Ledger) {
		g := NewWithT(t)
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		row := ledgerRow("1", "Active", "Active:1", at)
		g.Expect(l.Add(t.Context(), row, row)).To(Succeed())
		second := row
		second.Comment = "another"
		g.Expect(l.Add(t.Context(), second)).To(Succeed(), "a server that was started again")
		rows, total, err := l.page(t.Context(), &where{}, true, 0, 10)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(total).To(Equal(1))
		g.Expect(rows[0].Comment).To(Equal("先给 3 核"), "what was written stays")
		g.Expect(sameQuota(rows[0].Granted, row.Granted)).To(BeTrue())
		g.Expect(rows[0].Evidence).To(Equal(row.Evidence), "the evidence is kept with the decision")
		g.Expect(rows[0].GrantedUntil.Equal(row.GrantedUntil)).To(BeTrue())

		g.Expect(l.Add(t.Context(), ledgerRow("2", "Active", "a", at.Add(time.Hour)), ledgerRow("3", "Rejected", "a", at.Add(2*time.Hour)))).To(Succeed())
		for query, want := range map[string]int{
			"": 3, "event=Active": 2, "event=Active&event=Rejected": 3, "search=3 核": 3, "search=100%25": 0, "tenant=other": 0,
			"current=true": 1, "from=2026-03-01T12:30:00Z": 2, "to=2026-03-01T12:30:00Z": 1, "uid=' OR 1=1 --": 0,
		} {
			w, err := asks(parsed(t, query))
			g.Expect(err).NotTo(HaveOccurred(), query)
			rows, total, err := l.page(t.Context(), w, true, 0, 10)
			g.Expect(err).NotTo(HaveOccurred(), query)
			g.Expect(rows).To(HaveLen(want), query)
			g.Expect(total).To(Equal(want), query)
		}
		g.Expect(l.Add(t.Context(), ledgerRow("2", "Returned", "b", at.Add(3*time.Hour)))).To(Succeed())
		w, err := asks(parsed(t, "current=true"))
		g.Expect(err).NotTo(HaveOccurred())
		rows, _, err = l.page(t.Context(), w, true, 0, 10)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(rows).To(BeEmpty(), "it was given back")

		const many = 1203
		var all []LedgerRow
		for i := range many {
			r := ledgerRow("9", "InUse", fmt.Sprintf("k%05d", i), at.Add(24*time.Hour)) // all at the same time
			all = append(all, r)
		}
		g.Expect(l.Add(t.Context(), all...)).To(Succeed())
		seen := map[string]bool{}
		g.Expect(l.each(t.Context(), &where{}, func(r *LedgerRow) error { seen[r.UID+r.key] = true; return nil })).To(Succeed())
		g.Expect(seen).To(HaveLen(many+4), "each row is given once, over all pages")
	})
}

func parsed(t *testing.T, query string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for part := range strings.SplitSeq(query, "&") {
		if key, value, ok := strings.Cut(part, "="); ok {
			out[key] = append(out[key], strings.ReplaceAll(value, "%25", "%"))
		}
	}
	return out
}

// views is the capability with an authorizer that knows users by what they may see: a user is called yunfan:<tenant>, or
// yunfan:<tenant>/<request>.
func views(t *testing.T) *desk {
	t.Helper()
	d := newDesk(t)
	clients, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	d.Authorizer = rest.NewAuthorizer(clients)
	d.Authorizer.DecideFirst(func(user rest.User, a authorizationv1.ResourceAttributes) (allowed, decided bool) {
		name := strings.TrimPrefix(user.Name, v1alpha1.UserPrefix)
		tenant, request, one := strings.Cut(name, "/")
		switch {
		case a.Resource == "tenants":
			return a.Name == tenant, true
		case one:
			return a.Verb == "get" && a.Namespace == tenant && a.Name == request, true
		}
		return a.Namespace == tenant, strings.HasPrefix(user.Name, v1alpha1.UserPrefix)
	})
	return d
}

func (d *desk) ask(user, path string) (*httptest.ResponseRecorder, error) {
	d.Helper()
	who := rest.User{Name: v1alpha1.UserPrefix + user}
	if user == "admin" {
		who = rest.User{Name: "admin", Groups: []string{"system:masters"}}
	}
	mux, w := http.NewServeMux(), httptest.NewRecorder()
	var failure error
	for _, route := range d.Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { failure = route.Handler(w, r) })
	}
	mux.ServeHTTP(w, httptest.NewRequestWithContext(rest.WithUser(d.Context(), who), http.MethodGet, path, nil))
	return w, failure
}

func TestONB05_ViewsAreNotEverybodys(t *testing.T) {
	d := views(t)
	g := NewWithT(t)
	mine, others := newTenant(t, nil), newTenant(t, nil)
	req, other := newRequest(t, mine, "prod", "beijing"), newRequest(t, mine, "test", "beijing")
	foreign := newRequest(t, others, "prod", "beijing")
	for _, r := range []*v1alpha1.ResourceRequest{req, other, foreign} {
		g.Expect(d.ledger.Add(t.Context(), d.row(r, "Applied", "Applied", "li"))).To(Succeed())
	}
	names := func(user, path string) []string {
		w, err := d.ask(user, path)
		g.Expect(err).NotTo(HaveOccurred(), user)
		page := rest.Page[map[string]any]{}
		g.Expect(json.Unmarshal(w.Body.Bytes(), &page)).To(Succeed())
		out := []string{}
		for _, row := range page.Items {
			name, _ := row["name"].(string)
			if name == "" {
				name, _ = row["request"].(string)
			}
			out = append(out, name)
		}
		return out
	}
	g.Expect(names("admin", "/api/v1/resource-requests?tenant="+mine+"&tenant="+others)).To(ConsistOf(req.Name, other.Name, foreign.Name))
	g.Expect(names(mine, "/api/v1/resource-requests")).To(ConsistOf(req.Name, other.Name))
	g.Expect(names(mine, "/api/v1/resource-requests?partition=test&sort=-createdAt")).To(Equal([]string{other.Name}))
	g.Expect(names(mine, "/api/v1/resource-requests?search=选课&page=1&pageSize=1")).To(HaveLen(1))
	g.Expect(names(mine+"/"+req.Name, "/api/v1/tenants/"+mine+"/resource-requests")).To(Equal([]string{req.Name}), "a limited member")
	g.Expect(names(mine, "/api/v1/resource-ledger")).To(ConsistOf(req.Name, other.Name))
	g.Expect(names(mine+"/"+req.Name, "/api/v1/resource-ledger")).To(BeEmpty())
	g.Expect(names("admin", "/api/v1/resource-ledger?sort=time")).To(HaveLen(3))
	for _, path := range []string{"/api/v1/tenants/" + others + "/resource-requests", "/api/v1/tenants/" + others + "/resource-requests/" + foreign.Name, "/api/v1/tenants/" + others + "/resource-requests/" + foreign.Name + "/form"} {
		_, err := d.ask(mine, path)
		g.Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%s: %v", path, err)
	}
	w, err := d.ask(mine, "/api/v1/tenants/"+mine+"/resource-requests/"+req.Name)
	g.Expect(err).NotTo(HaveOccurred())
	detail := Detail{}
	g.Expect(json.Unmarshal(w.Body.Bytes(), &detail)).To(Succeed())
	g.Expect(detail.Request.Name).To(Equal(req.Name))
	g.Expect(detail.Ledger).To(HaveLen(1))
	for path, want := range map[string]string{
		"/api/v1/resource-ledger?colour=red":       "there is no field",
		"/api/v1/resource-ledger?format=xls":       "choose csv or json",
		"/api/v1/resource-ledger?sort=comment":     "sorted by time",
		"/api/v1/resource-ledger?page=0":           "give a number",
		"/api/v1/resource-ledger?pageSize=1000000": "give a number",
		"/api/v1/resource-ledger?from=yesterday":   "give a date",
		"/api/v1/resource-requests?colour=red":     "there is no field",
	} {
		_, err := d.ask("admin", path)
		g.Expect(err).To(MatchError(ContainSubstring(want)), path)
		g.Expect(apierrors.IsBadRequest(err)).To(BeTrue(), path)
	}
}

func TestAUD03_LedgerExport(t *testing.T) {
	d := views(t)
	g := NewWithT(t)
	w, err := d.ask("admin", "/api/v1/resource-ledger?format=json")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(w.Body.String()).To(Equal("[]\n"))
	row := ledgerRow("1", "Active", "a", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	row.Comment = "=HYPERLINK(\"http://evil\";\"click\")"
	row.Applicant, row.Actor = "\t=1+1", "＝1+1"
	g.Expect(d.ledger.Add(t.Context(), row)).To(Succeed())
	w, err = d.ask("admin", "/api/v1/resource-ledger?format=csv")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(w.Header().Get("Content-Type")).To(ContainSubstring("text/csv"))
	table, err := csv.NewReader(w.Body).ReadAll()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(table).To(HaveLen(2))
	g.Expect(table[0]).To(Equal(csvHeader))
	g.Expect(table[1]).To(ContainElements(`'=HYPERLINK("http://evil";"click")`, "'\t=1+1", "'＝1+1", "requests.cpu 3", "2026-03-01T12:00:00Z"))
	w, err = d.ask("admin", "/api/v1/resource-ledger?format=json")
	g.Expect(err).NotTo(HaveOccurred())
	var rows []LedgerRow
	g.Expect(json.Unmarshal(w.Body.Bytes(), &rows)).To(Succeed())
	g.Expect(rows).To(HaveLen(1))
}

func TestONB04_PrintedForm(t *testing.T) {
	d := views(t)
	g := NewWithT(t)
	tenant := newTenant(t, nil)
	storage := resource.MustParse("500Gi")
	req := newRequest(t, tenant, "prod", "beijing", until(time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC)), func(r *v1alpha1.ResourceRequest) {
		f := &r.Spec.Form
		f.BaseServices, f.Oracle, f.Storage, f.Bandwidth, f.Room = []string{"MySQL", "Kafka"}, true, &storage, 100, "A-3"
		f.Purpose = `<script>alert("x")</script> & "more"`
		f.Remarks = "</td></tr></table><img src=x onerror=alert(1)>"
	})
	for lang, labels := range map[string][]string{
		"zh": {"资源申请表", "申请时间", "项目组", "申请人", "电话", "邮箱", "应用名称", "所需基础服务", "用途", "服务器类型", "Oracle", "存储空间", "带宽", "机房", "机器数量", "备注", "应用主机", "新建"},
		"en": {"Request time", "Project group", "Applicant", "Phone", "E-mail", "Application name", "Base services", "Purpose", "Server type", "Oracle needed", "Storage space", "Bandwidth", "Room", "Number of machines", "Remarks"},
	} {
		w, err := d.ask(tenant, "/api/v1/tenants/"+tenant+"/resource-requests/"+req.Name+"/form?lang="+lang)
		g.Expect(err).NotTo(HaveOccurred())
		page := w.Body.String()
		for _, text := range append(labels, "教务处", "李雷", "010-88880000", "li@example.com", "Web 选课", "MySQL, Kafka", "500Gi", "100 Mbit/s", "A-3", "2030-12-31 00:00 UTC", "@media print", "@page") {
			g.Expect(page).To(ContainSubstring(text), lang)
		}
		g.Expect(page).NotTo(Or(ContainSubstring("<script"), ContainSubstring("<img")), "what people wrote stays text")
		g.Expect(page).To(ContainSubstring("&lt;script&gt;"))
		g.Expect(w.Header().Get("Content-Security-Policy")).To(ContainSubstring("default-src 'none'"))
	}
	_, err := d.ask(tenant, "/api/v1/tenants/"+tenant+"/resource-requests/"+req.Name+"/form?lang=fr")
	g.Expect(apierrors.IsBadRequest(err)).To(BeTrue())
}

func TestONB05_Products(t *testing.T) {
	d := views(t)
	g := NewWithT(t)
	name := testkit.Name(t)
	testkit.Create(t, hub.Client, &v1alpha1.Product{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.ProductSpec{Kind: v1alpha1.ProductPhysical, CPU: resource.MustParse("4"), Memory: resource.MustParse("64Gi"), DisplayName: "4 核 64G 物理机"},
	})
	w, err := d.ask("nobody", "/api/v1/products?name="+name+"&sort=-cpu")
	g.Expect(err).NotTo(HaveOccurred())
	page := rest.Page[ProductRow]{}
	g.Expect(json.Unmarshal(w.Body.Bytes(), &page)).To(Succeed())
	g.Expect(page.Items).To(Equal([]ProductRow{{Name: name, DisplayName: "4 核 64G 物理机", Kind: v1alpha1.ProductPhysical, CPU: "4", Memory: "64Gi", Available: true}}))
	sum, products, err := asked(t.Context(), hub.Client, &v1alpha1.WantedResources{Items: []v1alpha1.RequestItem{{Product: name, Count: 3}}, Quota: quota("cpu", "1", "pods", "9")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(sameQuota(sum, quota("requests.cpu", "13", "requests.memory", "192Gi", "pods", "9"))).To(BeTrue(), words(sum))
	g.Expect(products).To(HaveLen(1))
}

func TestRES07_EvidenceForTheDecision(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	var asked []string
	d.Usage = func(_ context.Context, tenant, partition string, from, to time.Time) (map[corev1.ResourceName]Used, error) {
		asked = append(asked, fmt.Sprintf("%s/%s %d", tenant, partition, int(to.Sub(from)/daily)))
		return map[corev1.ResourceName]Used{"requests.cpu": {Average: 1.25, Peak: 2.5, Quota: new(4.0)}, "requests.memory": {Average: 1 << 30, Peak: 2 << 30}}, nil
	}
	cluster := newCluster(t)
	tenant := newTenant(t, quota("requests.cpu", "1", "requests.memory", "1Gi"))
	req := newRequest(t, tenant, "prod", cluster)
	out := d.do(&check{d.Requests}, callOf(req, nil))
	g.Expect(out["evidence"].(*Evidence).Recent["requests.cpu"].Peak).To(Equal(2.5))
	g.Expect(out["subject"]).To(ContainSubstring("In the last 30 days tenant " + tenant + " used 1.25 of requests.cpu on average and 2.50 at most, of 4.00"))
	g.Expect(out["subject"]).To(ContainSubstring("1024Mi of requests.memory on average"))
	g.Expect(asked).To(Equal([]string{tenant + "/ 30"}))
	d.do(&allocate{d.Requests}, grants(req, req.Spec.Wanted.Quota, cluster, ""))
	asked = nil
	change := newRequest(t, tenant, "prod", "", kind(v1alpha1.RequestChange, quota("requests.cpu", "8"), nil))
	out = d.do(&check{d.Requests}, callOf(change, nil))
	g.Expect(asked).To(Equal([]string{tenant + "/prod 0", tenant + "/prod 30"}), "the partition's whole life, and the last 30 days")
	g.Expect(out["subject"]).To(ContainSubstring("partition prod used 1.25"))
	text, err := json.Marshal(out)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(text)).To(BeNumerically("<", 16<<10))
	g.Expect(len(out["subject"].(string))).To(BeNumerically("<=", 1000), "approve takes no more")
}

// The examples of the documentation are taken by the hub.
func TestONB04_Examples(t *testing.T) {
	files, err := filepath.Glob("../../examples/request/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	tenant := newTenant(t, nil)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for doc := range strings.SplitSeq(string(text), "\n---\n") {
				if strings.Contains(doc, "kind: Product") {
					p := &v1alpha1.Product{}
					if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
						t.Fatal(err)
					}
					testkit.Create(t, hub.Client, p)
					continue
				}
				req := &v1alpha1.ResourceRequest{}
				if err := yaml.UnmarshalStrict([]byte(doc), req); err != nil {
					t.Fatal(err)
				}
				req.Namespace = tenant
				testkit.Create(t, hub.Client, req)
			}
		})
	}
}
