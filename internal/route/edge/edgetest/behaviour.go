package edgetest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/e2e/load"
	"yunfan.io/yunfan/internal/route/table"
)

const shop = "http://shop.test/"

func confirms(w *world) {
	first := w.serve(w.pool())
	state := w.state()
	w.Expect(state.Program).NotTo(BeEmpty())
	w.Expect(state.Problem).To(BeEmpty())
	w.Expect(state.Targets).To(HaveLen(2))
	generation, err := first.Generation()
	w.Expect(err).NotTo(HaveOccurred())

	r, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "http://nobody.test"+table.MarkerPath, nil)
	w.Expect(err).NotTo(HaveOccurred())
	answer, err := w.client.Do(r)
	w.Expect(err).NotTo(HaveOccurred())
	defer answer.Body.Close()
	text, err := bufio.NewReader(answer.Body).ReadString(0)
	w.Expect(err).To(HaveOccurred(), "it ends")
	w.Expect(strings.TrimSpace(text)).To(Equal(generation), "the data port answers for any host")

	w.serve(w.pool(func(p *table.Pool) { p.Targets[0].Weight = 7 }))
	w.Expect(w.state().Generation).NotTo(Equal(generation))

	for range 10 {
		w.get(shop)
	}
	w.Eventually(func() uint64 { return w.target("edu-a.beijing").Requests + w.target("edu-b.shanghai").Requests }).
		WithTimeout(patience).Should(BeNumerically(">=", 10), "answers are counted")
}

func weights(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Targets[0].Weight, p.Targets[1].Weight = 90, 10 }))
	const all = 1000
	count := map[string]int{}
	for range all {
		status, seen, _ := w.get(shop)
		w.Expect(status).To(Equal(http.StatusOK))
		count[seen.Backend]++
	}
	w.Expect(count["a"]).To(BeNumerically("~", 900, 30), "within 3 %%")

	w.serve(w.pool(func(p *table.Pool) { p.Targets[0].Weight, p.Targets[1].Weight = 0, 100 }))
	for range 50 {
		_, seen, _ := w.get(shop)
		w.Expect(seen.Backend).To(Equal("b"), "weight 0 gets nothing")
	}
}

func headers(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Targets[1].Closed = true }))
	_, seen, _ := w.get(shop+"some/path", set("Yunfan-Partition", "evil"), set("Yunfan-Client", "evil"),
		set("Yunfan-Other", "evil"), set("Yunfan-Track", "Candidate"))
	w.Expect(seen.Partition).To(HaveLen(1))
	w.Expect(seen.Partition[0]).To(Or(Equal("edu-a.beijing"), HavePrefix("edu-a.beijing.")))
	w.Expect(seen.Client).To(BeEmpty())
	if !w.features.KeepsUnknown {
		w.Expect(seen.Other).To(BeEmpty())
	}
	w.Expect(seen.Track).To(Equal([]string{"Candidate"}))
	w.Expect(seen.Host).To(Equal("shop.test"))
	w.Expect(seen.Path).To(Equal("/some/path"))
}

func mostExact(w *world) {
	one := func(name string, hosts []string, paths ...table.Path) table.Pool {
		return w.pool(func(p *table.Pool) {
			p.Name, p.Hosts, p.Paths = name, hosts, paths
			p.Targets = p.Targets[:1]
			p.Targets[0].Name = name
		})
	}
	exact, prefix, regex := table.PathExact, table.PathPrefix, table.PathRegex
	w.serve(
		one("any", nil),
		one("exact", []string{"shop.test"}, table.Path{Type: exact, Value: "/cart"}),
		one("long", []string{"shop.test"}, table.Path{Type: prefix, Value: "/cart/items"}),
		one("regex", []string{"shop.test"}, table.Path{Type: regex, Value: `^/v[0-9]+/`}),
		one("root", []string{"shop.test"}),
		one("short", []string{"shop.test"}, table.Path{Type: prefix, Value: "/cart"}),
		one("wild", []string{"*.test"}),
	)
	for url, want := range map[string]string{
		"http://shop.test/cart":         "exact",
		"http://shop.test/cart/":        "short",
		"http://shop.test/cart/items":   "long",
		"http://shop.test/cart/items/1": "long",
		"http://shop.test/cart/itemsss": "short",
		"http://shop.test/carts":        "root",
		"http://shop.test/":             "root",
		"http://shop.test/v1/x":         "regex",
		"http://other.test/cart":        "wild",
		"http://example.org/cart":       "any",
	} {
		status, seen, _ := w.get(url)
		w.Expect(status).To(Equal(http.StatusOK), url)
		w.Expect(seen.Partition).To(HaveLen(1), url)
		w.Expect(seen.Partition[0]).To(Or(Equal(want), HavePrefix(want+".")), url)
	}
}

func certificates(w *world) {
	one, two := newCertificate(w.T, "shop.test"), newCertificate(w.T, "pay.test")
	w.serveTable(&table.Table{
		Pools: []table.Pool{
			w.pool(func(p *table.Pool) { p.Name, p.Hosts = "pay", []string{"pay.test"} }),
			w.pool(func(p *table.Pool) { p.RedirectHTTP = true }),
		},
		Certificates: []table.Certificate{two, one},
	})
	for host, common := range map[string]string{"shop.test": "shop.test", "pay.test": "pay.test"} {
		r, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "https://"+host+"/", nil)
		w.Expect(err).NotTo(HaveOccurred())
		// A client that speaks TLS by itself says which certificate it was shown.
		answer, err := (&http.Client{Transport: w.showing(host)}).Do(r)
		w.Expect(err).NotTo(HaveOccurred())
		answer.Body.Close()
		w.Expect(answer.StatusCode).To(Equal(http.StatusOK))
		w.Expect(answer.TLS.PeerCertificates[0].Subject.CommonName).To(Equal(common))
	}
	status, _, header := w.get("http://shop.test/a?b=c")
	w.Expect(status).To(Equal(http.StatusPermanentRedirect))
	w.Expect(header.Get("Location")).To(And(HavePrefix("https://shop.test"), HaveSuffix("/a?b=c")))
	status, _, _ = w.get("http://pay.test/")
	w.Expect(status).To(Equal(http.StatusOK), "plain HTTP is served where nobody says otherwise")
}

// load asks at a constant rate, with connections that are kept and with new ones, and never twice, until stopped; then it
// tells what failed, which net/http would hide by asking again.
func (w *world) load() (stop func() (asked int, failed string)) {
	kinds := []load.Kind{
		{Name: "kept", Share: 5}, {Name: "new", Share: 4, NewConnection: true}, {Name: "post", Share: 1, Method: http.MethodPost, Body: 2000},
	}
	for i := range kinds {
		kinds[i].NewConnection = kinds[i].NewConnection || w.features.ClosesIdle
	}
	l := load.Start(w.Context(), load.Config{Address: w.http, Host: "shop.test", Rate: 250, Timeout: patience, Kinds: kinds})
	return func() (int, string) {
		report := l.Stop()
		if report.Failed == 0 {
			return report.Asked, ""
		}
		return report.Asked, report.Timeline()
	}
}

func changes(w *world) {
	w.serve(w.pool())
	stop := w.load()
	for i := range 12 {
		w.serve(w.pool(func(p *table.Pool) {
			p.Targets[0].Weight = 10 + i
			p.Targets[i%2].Closed = i%3 == 0
			p.Retries = 0
		}), w.pool(func(p *table.Pool) { p.Name, p.Hosts = fmt.Sprint("other-", i), []string{fmt.Sprint("h", i, ".test")} }))
	}
	asked, failed := stop()
	w.Expect(failed).To(BeEmpty(), "of %d requests", asked)
	w.Expect(asked).To(BeNumerically(">", 100))
}

func drains(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Targets[1].Closed = true }))
	slow := make(chan error, 1)
	go func() {
		status, _, _, err := w.try(w.Context(), shop+"?hold=one")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		slow <- err
	}()
	w.Eventually(w.inFlightA).WithTimeout(patience).Should(BeNumerically(">=", 1))

	stop := w.load()
	w.serve(w.pool(func(p *table.Pool) { p.Targets[0].Closed = true }))
	w.Expect(w.target("edu-a.beijing").Closed).To(BeTrue())
	w.Expect(w.inFlightA()).To(BeNumerically(">=", 1), "what is under way is still counted")
	w.Eventually(w.inFlightA).WithTimeout(patience).Should(Equal(1), "only the slow one is left")
	before := w.a.requests.Load()
	w.Consistently(w.a.requests.Load).WithTimeout(500*time.Millisecond).Should(Equal(before), "nothing new arrives")
	w.a.release("one")
	w.Expect(<-slow).To(Succeed(), "what was under way ended in peace")
	w.Eventually(w.inFlightA).WithTimeout(patience).Should(BeZero())
	w.serve(w.pool())
	_, failed := stop()
	w.Expect(failed).To(BeEmpty())
}

func webSockets(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Targets[1].Closed = true }))
	conn, err := (&net.Dialer{}).DialContext(w.Context(), "tcp", w.http)
	w.Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	reader := bufio.NewReader(conn)
	status, err := reader.ReadString('\n')
	w.Expect(err).NotTo(HaveOccurred())
	w.Expect(status).To(ContainSubstring("101"))
	for line := status; strings.TrimSpace(line) != ""; {
		line, err = reader.ReadString('\n')
		w.Expect(err).NotTo(HaveOccurred())
	}
	say := func() {
		fmt.Fprintln(conn, "hello")
		line, err := reader.ReadString('\n')
		w.Expect(err).NotTo(HaveOccurred())
		w.Expect(line).To(Equal("a says hello\n"))
	}
	say()
	w.Eventually(w.inFlightA).WithTimeout(patience).Should(Equal(1))
	w.serve(w.pool(func(p *table.Pool) { p.Targets[0].Closed = true }))
	say()
	w.Expect(w.inFlightA()).To(Equal(1))
	conn.Close()
	w.Eventually(w.inFlightA).WithTimeout(patience).Should(BeZero())
}

func health(w *world) {
	quick := func(p *table.Pool) { p.Health.Interval, p.Health.Failures = 300*time.Millisecond, 5 }
	w.serve(w.pool(quick))
	w.Eventually(func() bool { return w.target("edu-a.beijing").Up && w.target("edu-b.shanghai").Up }).
		WithTimeout(patience).Should(BeTrue())
	w.a.sick.Store(true)
	w.Eventually(func() bool { return w.target("edu-a.beijing").Up }).WithTimeout(patience).Should(BeFalse())
	w.Expect(w.target("edu-a.beijing").Probe).NotTo(BeEmpty(), "and why")
	// The program hears of it a moment after the driver.
	w.Eventually(w.onlyB).WithTimeout(patience).Should(BeTrue())
	for range 50 {
		_, seen, _ := w.get(shop)
		w.Expect(seen.Backend).To(Equal("b"))
	}
	// A change of the table does not make it forget.
	w.serve(w.pool(quick, func(p *table.Pool) { p.Targets[0].Weight = 60 }))
	for range 50 {
		_, seen, _ := w.get(shop)
		w.Expect(seen.Backend).To(Equal("b"), "what is known of servers outlasts changes")
	}
	w.a.sick.Store(false)
	w.Eventually(func() bool { return w.target("edu-a.beijing").Up }).WithTimeout(patience).Should(BeTrue())
	w.Eventually(w.onlyB).WithTimeout(patience).Should(BeFalse())

	// The one that dies closed is seen, too.
	w.serve(w.pool(quick, func(p *table.Pool) { p.Targets[0].Closed = true }))
	w.a.die()
	w.Eventually(func() bool { return w.target("edu-a.beijing").Up }).WithTimeout(patience).Should(BeFalse())
	w.a.revive(w.T)
	w.Eventually(func() bool { return w.target("edu-a.beijing").Up }).WithTimeout(patience).Should(BeTrue())
}

// onlyB says whether of some requests all go to the second backend.
func (w *world) onlyB() bool {
	for range 20 {
		if _, seen, _ := w.get(shop); seen.Backend != "b" {
			return false
		}
	}
	return true
}

func nobody(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Targets[0].Closed, p.Targets[1].Closed = true, true }),
		w.pool(func(p *table.Pool) { p.Name, p.Hosts, p.Targets = "empty", []string{"empty.test"}, nil }))
	status, _, _ := w.get(shop)
	w.Expect(status).To(Equal(http.StatusServiceUnavailable))
	status, _, _ = w.get("http://empty.test/")
	w.Expect(status).To(Equal(http.StatusServiceUnavailable))
}

func retries(w *world) {
	// Nobody finds out by a probe that the first server is dead: it is asked before that only.
	never := table.Health{Path: "/healthz", Interval: time.Hour, Failures: 100}
	w.serve(w.pool(func(p *table.Pool) { p.Health, p.Retries = never, 0 }))
	w.Eventually(func() bool { return w.target("edu-a.beijing").Up && w.target("edu-b.shanghai").Up }).
		WithTimeout(patience).Should(BeTrue())
	w.a.die()
	w.Expect(w.failures(20, http.MethodGet, shop)).To(BeNumerically(">", 0), "without retries nothing is sent twice")
	w.serve(w.pool(func(p *table.Pool) { p.Health, p.Retries = never, 2 }))
	w.Expect(w.failures(40, http.MethodGet, shop)).To(BeZero(), "connections that fail")
	if !w.unsupported(w.features.OnlySafeRetries, "retries") {
		w.Expect(w.failures(40, http.MethodPost, shop)).To(BeZero(), "connections that fail, of any method")
	}
	w.a.revive(w.T)
	w.serve(w.pool(func(p *table.Pool) { p.Health, p.Retries = never, 1 }))
	sent := func(verb string) int64 {
		w.a.requests.Store(0)
		w.b.requests.Store(0)
		w.Expect(w.failures(1, verb, shop+"?hangup=1")).To(Equal(1))
		return w.a.requests.Load() + w.b.requests.Load()
	}
	w.Expect(sent(http.MethodPost)).To(Equal(int64(1)), "what may have been done is not done twice")
	if !w.unsupported(w.features.NoSafeRetries, "retries") {
		w.Expect(sent(http.MethodGet)).To(BeNumerically(">", 1), "harmless requests that a server ended are sent again")
	}
}

// failures counts the answers that are none or not 200.
func (w *world) failures(of int, verb, url string) int {
	failed := 0
	for range of {
		status, _, _, err := w.try(w.Context(), url, method(verb))
		if err != nil || status != http.StatusOK {
			failed++
		}
	}
	return failed
}

func cookies(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Affinity = &table.Affinity{Cookie: "sticky"} }))
	_, first, header := w.get(shop)
	answer := http.Response{Header: header}
	index := slices.IndexFunc(answer.Cookies(), func(c *http.Cookie) bool { return c.Name == "sticky" })
	w.Expect(index).To(BeNumerically(">=", 0), "a cookie is set: %v", header)
	given := answer.Cookies()[index]
	again := func() Seen {
		_, seen, _ := w.get(shop, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: given.Name, Value: given.Value}) })
		return seen
	}
	for range 30 {
		w.Expect(again().Backend).To(Equal(first.Backend))
	}
	w.serve(w.pool(func(p *table.Pool) {
		p.Affinity = &table.Affinity{Cookie: "sticky"}
		p.Targets[slices.Index(w.both(), first.Backend)].Closed = true
	}))
	w.Expect(again().Backend).NotTo(Equal(first.Backend), "a closed target gets none of its clients either")
}

func addresses(w *world) {
	w.serve(w.pool(func(p *table.Pool) { p.Affinity = &table.Affinity{ClientIP: true} }))
	if w.unsupported(w.features.NoClientAffinity, "affinity") {
		return
	}
	_, first, _ := w.get(shop)
	for range 30 {
		_, seen, _ := w.get(shop, func(r *http.Request) { r.Close = true })
		w.Expect(seen.Backend).To(Equal(first.Backend))
	}
}

func rateLimit(w *world) {
	for _, perClient := range []bool{false, true} {
		w.serve(w.pool(func(p *table.Pool) {
			p.Name = fmt.Sprint("limited-", perClient)
			p.RateLimit = &table.RateLimit{Requests: 10, Period: time.Minute, PerClient: perClient}
		}))
		count := map[int]int{}
		for range 50 {
			status, _, _ := w.get(shop)
			count[status]++
		}
		w.Expect(count[http.StatusOK]).To(BeNumerically("~", 10, 1), "%v", count)
		w.Expect(count[http.StatusTooManyRequests]).To(Equal(50 - count[http.StatusOK]))
	}
}

func allowDeny(w *world) {
	for _, c := range []struct {
		reason      string
		allow, deny []string
		want        int
	}{
		{"nothing said", nil, nil, http.StatusOK},
		{"allowed", []string{"127.0.0.0/8"}, nil, http.StatusOK},
		{"not allowed", []string{"192.0.2.0/24"}, nil, http.StatusForbidden},
		{"denied", nil, []string{"127.0.0.1/32"}, http.StatusForbidden},
		{"deny goes first", []string{"127.0.0.0/8"}, []string{"127.0.0.0/8"}, http.StatusForbidden},
		{"others are denied", nil, []string{"192.0.2.0/24"}, http.StatusOK},
	} {
		w.serve(w.pool(func(p *table.Pool) { p.Allow, p.Deny = c.allow, c.deny }))
		status, _, _ := w.get(shop, set("X-Forwarded-For", "198.51.100.1"))
		w.Expect(status).To(Equal(c.want), c.reason)
	}
}

func networks(w *world) {
	w.serve(w.pool(func(p *table.Pool) {
		p.Networks = []table.Network{
			{Name: "n1", CIDRs: []string{"192.0.2.0/24", "127.0.0.0/8"}},
			{Name: "n2", CIDRs: []string{"192.0.2.0/24"}},
			{Name: "n3", CIDRs: []string{"127.0.0.1/32"}},
		}
	}))
	if w.unsupported(w.features.NoNetworks, "networks") {
		return
	}
	_, seen, _ := w.get(shop)
	w.Expect(seen.Client).To(Equal([]string{"n1", "n3"}), "one line each")
}

func faults(w *world) {
	w.serve(w.pool(func(p *table.Pool) {
		p.Fault = &table.Fault{
			Matches:      []table.Match{{Cookies: []table.ValueMatch{{Name: "user", Value: "jason"}}}},
			DelayPercent: 100, Delay: 300 * time.Millisecond, AbortPercent: 100, AbortStatus: http.StatusTeapot,
		}
	}))
	if w.unsupported(w.features.NoFault, "fault") {
		return
	}
	status, _, _ := w.get(shop)
	w.Expect(status).To(Equal(http.StatusOK), "others notice nothing")
	began := time.Now()
	status, _, _ = w.get(shop, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "user", Value: "jason"}) })
	w.Expect(status).To(Equal(http.StatusTeapot))
	w.Expect(time.Since(began)).To(BeNumerically(">=", 300*time.Millisecond))
}

func mistakes(w *world) {
	w.serve(
		w.pool(func(p *table.Pool) {
			p.Name, p.Hosts = "wrong", []string{"wrong.test"}
			p.Paths = []table.Path{{Type: table.PathRegex, Value: "(("}}
		}),
		w.pool(),
		w.pool(func(p *table.Pool) {
			p.Name, p.Hosts = "witty", []string{"witty.test"}
			p.Paths = []table.Path{{Type: table.PathRegex, Value: "^/\"{{ env \"HOME\" }}`; return 200; $uri"}, {Type: table.PathPrefix, Value: "/ok"}}
		}),
	)
	w.Expect(w.state().Unsupported).To(ContainElement(ContainSubstring("wrong")))
	for _, url := range []string{shop, "http://witty.test/ok"} {
		status, _, _ := w.get(url)
		w.Expect(status).To(Equal(http.StatusOK), url)
	}
}
