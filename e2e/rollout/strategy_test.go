//go:build e2e

package rollout_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
	"yunfan.io/yunfan/e2e/load"
)

// admin is somebody who may approve in the tenant.
func admin(s *journey.Shop) *journey.Person {
	s.Helper()
	person := s.Person("admin")
	s.Create(&v1alpha1.Membership{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Tenant, Name: person.Name},
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: person.Name}, Role: v1alpha1.RoleAdmin},
	})
	return person
}

// shares asks so many times, fast, and gives how many answers each version gave.
func shares(s *journey.Shop, requests int) (byVersion map[string]int, all int) {
	s.Helper()
	quick := []load.Kind{{Name: "kept", Share: 1}, {Name: "new", Share: 1, NewConnection: true}}
	l := s.Load(500, func(c *load.Config) { c.Kinds = quick })
	s.Eventually(func() int { return l.Report().Asked }).Should(BeNumerically(">=", requests))
	report := l.Stop()
	s.NoneLost(report)
	byVersion = report.Versions(time.Time{}, time.Time{})
	for _, n := range byVersion {
		all += n
	}
	return byVersion, all
}

// TestREL05_CanaryWeights measures the shares of a canary over 10,000 requests each.
func TestREL05_CanaryWeights(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	person := admin(s)
	r := s.Change("v2", v1alpha1.Strategy{Type: v1alpha1.StrategyCanary, Canary: &v1alpha1.CanaryStrategy{Steps: []v1alpha1.CanaryStep{
		{Weight: 0, Continue: v1alpha1.ContinueManual}, {Weight: 10, Continue: v1alpha1.ContinueManual}, {Weight: 100, Continue: v1alpha1.ContinueManual},
	}}})
	for _, weight := range []int{0, 10, 100} {
		r.Waits()
		got, all := shares(s, 10_000)
		measured := 100 * float64(got["v2"]) / float64(all)
		s.Logf("REL-05 weight %d: v2 gave %.2f %% of %d answers", weight, measured, all)
		if weight == 10 {
			s.Expect(measured).To(BeNumerically("~", weight, 3))
		} else {
			s.Expect(measured).To(BeNumerically("==", weight))
		}
		if weight == 0 {
			testers(s)
		}
		r.Approved(person)
	}
	r.Ends(v1alpha1.RolloutSucceeded)
}

// testers reach the candidate before anybody else does.
func testers(s *journey.Shop) {
	s.Helper()
	l := s.Load(0)
	defer l.Stop()
	for range 20 {
		a := l.Do(load.Kind{Headers: map[string]string{v1alpha1.HeaderTrack: string(v1alpha1.TrackCandidate)}})
		s.Expect(a.Error).To(BeEmpty())
		s.Expect(a.Who.Version).To(Equal("v2"), "testers ask for the candidate")
	}
}

// TestREL06_ABTestByEachCondition gives the new version the requests of chosen users, by every kind of condition.
func TestREL06_ABTestByEachCondition(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	exact := func(name, value string) []v1alpha1.ValueMatch {
		return []v1alpha1.ValueMatch{{Name: name, Type: v1alpha1.MatchExact, Value: value}}
	}
	const north = "127.0.0.77" // a client of another region than the rest
	r := s.Change("v2", v1alpha1.Strategy{Type: v1alpha1.StrategyABTest, ABTest: &v1alpha1.ABTestStrategy{Matches: []v1alpha1.RouteMatch{
		{Cookies: exact("group", "b")},
		{Query: exact("beta", "1")},
		{Clients: []string{north + "/32"}},
		{Headers: []v1alpha1.ValueMatch{{Name: "User-Agent", Type: v1alpha1.MatchRegularExpression, Value: `Firefox/1[3-9][0-9].*Linux|Linux.*Firefox/1[3-9][0-9]`}}},
		{Headers: exact("Sec-CH-Viewport-Width", "390")},
		{Languages: []string{"zh", "en-GB"}},
		{Path: &v1alpha1.PathMatch{Type: v1alpha1.MatchPrefix, Value: "/beta"}, Method: "GET"},
	}}})
	r.Waits()
	l := s.Load(0)
	defer l.Stop()
	far := s.Load(0, func(c *load.Config) { c.From = net.ParseIP(north) })
	defer far.Stop()
	headers := func(name, value string) load.Kind { return load.Kind{Headers: map[string]string{name: value}} }
	for _, tc := range []struct {
		reason string
		from   *load.Load
		kind   load.Kind
		want   string
	}{
		{"a cookie", l, headers("Cookie", "session=1; group=b; x=y"), "v2"},
		{"another value of the cookie", l, headers("Cookie", "group=bb"), "v1"},
		{"a cookie whose name ends so", l, headers("Cookie", "subgroup=b"), "v1"},
		{"a request parameter", l, load.Kind{Path: "/?a=b&beta=1"}, "v2"},
		{"another value of the parameter", l, load.Kind{Path: "/?beta=10"}, "v1"},
		{"the client's address", far, load.Kind{}, "v2"},
		{"another address that says it were that one", l, headers("Yunfan-Client", "n-"+north), "v1"},
		{"another address behind that one, as it says", l, headers("X-Forwarded-For", north), "v1"},
		{"browser and system", l, headers("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"), "v2"},
		{"an older browser", l, headers("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0"), "v1"},
		{"the size of the screen", l, headers("sec-ch-viewport-width", "390"), "v2"},
		{"another size", l, headers("Sec-CH-Viewport-Width", "1390"), "v1"},
		{"a language", l, headers("Accept-Language", "zh-CN,zh;q=0.9,en;q=0.8"), "v2"},
		{"a language of a country", l, headers("Accept-Language", "fr, en-GB;q=0.7"), "v2"},
		{"the language of another country", l, headers("Accept-Language", "en-US,en;q=0.5"), "v1"},
		{"a language that only begins so", l, headers("Accept-Language", "zha"), "v1"},
		{"path and method", l, load.Kind{Path: "/beta/x"}, "v2"},
		{"the path with another method", l, load.Kind{Path: "/beta/x", Method: "POST"}, "v1"},
		{"a path that only begins so", l, load.Kind{Path: "/betamax"}, "v1"},
		{"nothing of all that", l, load.Kind{}, "v1"},
	} {
		t.Run("REL-06 "+tc.reason, func(t *testing.T) {
			for range 6 { // all partitions take their turn
				if a := tc.from.Do(tc.kind); a.Error != "" || a.Who.Version != tc.want {
					t.Errorf("%s gets %q of %s, want %s", tc.reason, a.Who.Version, a.Who.Partition+a.Error, tc.want)
				}
			}
		})
	}
	r.Abort()
	r.Ends(v1alpha1.RolloutAborted)
}

// TestREL03_ShadowGetsCopies has users get answers of v1 only, while v2 sees what they ask.
func TestREL03_ShadowGetsCopies(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	var r *journey.Rolling
	report := s.UnderLoad(func(l *load.Load) {
		r = s.Change("v2", v1alpha1.Strategy{Type: v1alpha1.StrategyShadow, Shadow: &v1alpha1.ShadowStrategy{Percent: 100}})
		r.Waits()
		since := time.Now()
		s.Wait(5 * time.Second)
		versions := l.Report().Versions(since, time.Time{})
		s.Expect(versions).NotTo(HaveKey("v2"), "answers of the shadow are dropped")
		copies := 0
		for _, namespace := range []string{"bj1", "bj2", "sh"} {
			copies += copiesIn(s, namespace, "v2")
		}
		s.Logf("REL-03 users got %v, v2 saw %d requests with the path /kept", versions, copies)
		s.Expect(copies).To(BeNumerically(">", versions["v1"]/4), "half of the requests are such")
		r.Abort()
		r.Ends(v1alpha1.RolloutAborted)
	})
	s.NoneLost(report, r.Events()...)
	s.Expect(report.Versions(report.Start, time.Time{})).NotTo(HaveKey("v2"))
}

// copiesIn counts what the pods of a version in a partition have logged of requests that users make all the time.
func copiesIn(s *journey.Shop, partition, version string) int {
	s.Helper()
	cluster := journey.Beijing
	if partition == "sh" {
		cluster = journey.Shanghai
	}
	n := 0
	for _, pod := range s.Pods(cluster, s.Tenant+"-"+partition, "web") {
		for _, e := range pod.Spec.Containers[0].Env {
			if e.Name == "ECHO_VERSION" && e.Value == version {
				n += strings.Count(s.Kubectl(cluster, "-n", pod.Namespace, "logs", pod.Name), `"path":"/kept"`)
			}
		}
	}
	return n
}

// TestREL04_SocketsAndLongPollsAreDrained has WebSockets asked to close before their pods end, and long polls answered.
func TestREL04_SocketsAndLongPollsAreDrained(t *testing.T) {
	s := journey.Begin(t).Shop(1)
	l := s.Load(0, func(c *load.Config) { c.Timeout = 3 * time.Minute })
	defer l.Stop()
	var sockets []*load.Socket
	for range 6 {
		socket, err := l.WebSocket("/ws")
		s.Expect(err).NotTo(HaveOccurred())
		defer socket.Close()
		sockets = append(sockets, socket)
	}
	polls := make(chan load.Answer, 6)
	for range cap(polls) {
		go func() { polls <- l.Do(load.Kind{Name: "poll", Path: "/longpoll?ms=120000", NewConnection: true}) }()
	}
	strategy := v1alpha1.Strategy{
		Type: v1alpha1.StrategyBlueGreen, Drain: v1alpha1.Drain{Timeout: span(8 * time.Second)},
		BlueGreen: &v1alpha1.BlueGreenStrategy{Switch: v1alpha1.ContinueAutomatic},
	}
	r := s.Change("v2", strategy)
	r.Ends(v1alpha1.RolloutSucceeded)
	for i, socket := range sockets {
		s.Eventually(func() string {
			_, code, err, over := socket.Ended()
			return fmt.Sprintf("over %v, code %d, error %v", over, code, err)
		}).WithTimeout(time.Minute).Should(Equal("over true, code 1001, error <nil>"), "socket %d, %+v: it is asked to close", i, socket.Who)
	}
	for range cap(polls) {
		s.Eventually(polls).Should(Receive(And(HaveField("Error", ""), HaveField("Took", BeNumerically("<", 2*time.Minute)))))
	}
}
