package route

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestWhatIsRefused(t *testing.T) {
	long := &metav1.Duration{Duration: 48 * time.Hour}
	cases := map[string]struct {
		reason string
		change func(spec *v1alpha1.RouteSpec)
		want   string // part of the message; accepted if empty
	}{
		"Sound":    {"nothing is wrong", func(*v1alpha1.RouteSpec) {}, ""},
		"TopLevel": {"a whole top-level domain is nobody's", func(s *v1alpha1.RouteSpec) { s.Hosts = []string{"*.com"} }, "*.com would be a whole top-level domain"},
		"Expression": {"an expression compiles", func(s *v1alpha1.RouteSpec) {
			s.Rules[0].Matches = []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchRegularExpression, Value: "("}}}
		}, "rule ra: the regular expression of the path"},
		"Bounded": {"and costs little", func(s *v1alpha1.RouteSpec) {
			s.Rules[0].Matches = []v1alpha1.RouteMatch{{Headers: []v1alpha1.ValueMatch{{Name: "X-A", Type: v1alpha1.MatchRegularExpression, Value: "(a{1000}){1000}"}}}}
		}, "the regular expression of the header X-A"},
		"Timeout": {"durations are in range", func(s *v1alpha1.RouteSpec) { s.Rules[0].Timeout = long }, "timeout: 48h0m0s is not from 10ms to 1h0m0s"},
		"Period":  {"durations are in range", func(s *v1alpha1.RouteSpec) { s.RateLimit = &v1alpha1.RateLimit{Requests: 1, Period: long} }, "rateLimit.period"},
		"OwnHeader": {"edge and gateway trust their headers", func(s *v1alpha1.RouteSpec) {
			s.Rules[0].RequestHeaders = &v1alpha1.HeaderChange{Set: map[string]string{"yunfan-Partition": "x"}}
		}, "is the platform's own header"},
		"Injection": {"a header is one line", func(s *v1alpha1.RouteSpec) {
			s.Rules[0].RequestHeaders = &v1alpha1.HeaderChange{Set: map[string]string{"X": "a\r\nb"}}
		}, "more than one line"},
		"Prefix": {"a prefix is rewritten where one was matched", func(s *v1alpha1.RouteSpec) {
			s.Rules[0].Rewrite = &v1alpha1.RouteRewrite{Prefix: "/x"}
			s.Rules[0].Matches = []v1alpha1.RouteMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchExact, Value: "/a"}}}
		}, "rewrite.prefix needs a path of the type Prefix"},
		"NoBackends": {"somebody has to answer", func(s *v1alpha1.RouteSpec) {
			s.Rules[0].Backends = nil
			s.Rules[0].Redirect = &v1alpha1.RouteRedirect{Path: "/x"}
		}, "none has backends"},
		"Nowhere": {"a redirect leads somewhere else", func(s *v1alpha1.RouteSpec) {
			s.Rules = append(s.Rules, v1alpha1.RouteRule{Name: "n", Redirect: &v1alpha1.RouteRedirect{Status: 301}})
		}, "leads to where the request came from"},
		"SamePath":  {"the edge looks at host and path only", func(s *v1alpha1.RouteSpec) { s.Rules = append(s.Rules, to("b")) }, "rules ra and rb have the path / and lead to different applications, a and b"},
		"OtherPath": {"paths that differ are enough", func(s *v1alpha1.RouteSpec) { s.Rules = append(s.Rules, to("b", "/b")) }, ""},
		"SameApp":   {"rules of one application differ by anything", func(s *v1alpha1.RouteSpec) { s.Rules = append(s.Rules, to("a")) }, ""},
		"FaultByText": {"faults are made by the edge", func(s *v1alpha1.RouteSpec) {
			s.Fault = &v1alpha1.RouteFault{Matches: []v1alpha1.RouteMatch{{Languages: []string{"zh"}}}}
		}, "languages do not count here"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			spec := &v1alpha1.RouteSpec{Hosts: []string{"a.example.com"}, Rules: []v1alpha1.RouteRule{to("a")}}
			tc.change(spec)
			err := validate(spec)
			if tc.want == "" && err != nil {
				t.Errorf("%s: %v", tc.reason, err)
			}
			if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%s: got %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}
