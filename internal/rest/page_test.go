package rest

import (
	"cmp"
	"net/url"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

type row struct {
	Name, Tenant string
	Pods         int
	Clusters     []string
}

var rowFields = []Field[row]{
	{Name: "name", Text: func(r row) string { return r.Name }},
	{Name: "tenant", Text: func(r row) string { return r.Tenant }},
	{Name: "pods", Text: func(row) string { return "" }, Compare: func(a, b row) int { return cmp.Compare(a.Pods, b.Pods) }},
	{Name: "cluster", Texts: func(r row) []string { return r.Clusters }},
}

func TestPaginate(t *testing.T) {
	rows := []row{
		{"web", "edu", 10, []string{"beijing", "shanghai"}}, {"api", "shop", 9, []string{"beijing"}},
		{"db", "edu", 2, []string{"shanghai"}}, {"cache", "edu", 2, nil},
	}
	for name, tc := range map[string]struct {
		reason, query string
		want          []string
		total         int
		page, size    int
	}{
		"Default":     {"the first field is the order, 50 rows make a page", "", []string{"api", "cache", "db", "web"}, 4, 1, 50},
		"Filter":      {"a field's name filters", "tenant=edu", []string{"cache", "db", "web"}, 3, 1, 50},
		"FilterOr":    {"several values of one field are alternatives", "name=db&name=api", []string{"api", "db"}, 2, 1, 50},
		"FilterAnd":   {"several fields must all fit", "tenant=edu&cluster=shanghai", []string{"db", "web"}, 2, 1, 50},
		"FilterMulti": {"one of several values of a row is enough", "cluster=beijing", []string{"api", "web"}, 2, 1, 50},
		"Search":      {"search looks in every field, whatever the case", "search=SHANG", []string{"db", "web"}, 2, 1, 50},
		"SortNumber":  {"numbers are sorted as numbers; equals keep the order of the first field", "sort=pods", []string{"cache", "db", "api", "web"}, 4, 1, 50},
		"SortDown":    {"a minus sorts from the highest", "sort=-pods", []string{"web", "api", "cache", "db"}, 4, 1, 50},
		"Page":        {"a page in the middle", "page=2&pageSize=2", []string{"db", "web"}, 4, 2, 2},
		"PageBeyond":  {"a page after the end is empty and knows the total", "page=9&pageSize=2", []string{}, 4, 9, 2},
	} {
		t.Run(name, func(t *testing.T) {
			query, err := url.ParseQuery(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			page, err := Paginate(rows, query, rowFields...)
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			got := []string{}
			for _, r := range page.Items {
				got = append(got, r.Name)
			}
			if diff := gocmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if page.Total != tc.total || page.Page != tc.page || page.PageSize != tc.size {
				t.Errorf("%s: got total %d, page %d of size %d", tc.reason, page.Total, page.Page, page.PageSize)
			}
		})
	}
	if rows[0].Name != "web" {
		t.Error("the rows that were given must stay in their order: they may be a cache's")
	}
}

func TestPaginateRefuses(t *testing.T) {
	for name, query := range map[string]url.Values{
		"UnknownField": {"colour": {"red"}}, "UnknownSort": {"sort": {"colour"}}, "PageZero": {"page": {"0"}},
		"PageText": {"page": {"x"}}, "PageTooLarge": {"pageSize": {"501"}}, "Negative": {"pageSize": {"-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Paginate([]row{}, query, rowFields...); !apierrors.IsBadRequest(err) {
				t.Errorf("query %v: got %v, want a BadRequest that says what may be asked", query, err)
			}
		})
	}
}
