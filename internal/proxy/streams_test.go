package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/internal/rest"
)

// people says who may do what now; tests change it.
type people struct {
	mu    sync.Mutex
	now   map[string][]string
	asked int
}

func (p *people) Now(_ context.Context, user rest.User) ([]string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	groups, still := p.now[user.Name]
	return groups, still
}

func (p *people) set(user string, groups ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if groups == nil {
		delete(p.now, user)
	} else {
		p.now[user] = groups
	}
}

// hold begins a request that is open until it is ended, and gives what ended it.
func hold(t *testing.T, o *Open, user rest.User) <-chan error {
	t.Helper()
	begun, ended := make(chan struct{}), make(chan error, 1)
	handler := o.Wrap(func(_ http.ResponseWriter, r *http.Request) error {
		close(begun)
		<-r.Context().Done()
		return context.Cause(r.Context())
	})
	r := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), http.MethodGet, "/api/v1/pods?watch=true", nil)
	go func() { ended <- handler(httptest.NewRecorder(), r) }()
	<-begun
	return ended
}

func TestSEC03_WhatIsOpenEndsWithItsRight(t *testing.T) {
	edu, art := "yunfan:tenant:edu:viewer", "yunfan:tenant:art:admin"
	p := &people{now: map[string][]string{"yunfan:li": {edu, art}, "yunfan:wang": {edu}, "yunfan:zhao": {edu}}}
	o := NewOpen(p.Now)
	go func() { _ = o.Start(t.Context()) }()
	// Groups of Kubernetes are not the platform's to take away.
	li := hold(t, o, rest.User{Name: "yunfan:li", Groups: []string{edu, art, "system:authenticated"}})
	li2 := hold(t, o, rest.User{Name: "yunfan:li", Groups: []string{edu}})
	wang := hold(t, o, rest.User{Name: "yunfan:wang", Groups: []string{edu}})
	zhao := hold(t, o, rest.User{Name: "yunfan:zhao", Groups: []string{edu}})
	hub := hold(t, o, rest.User{Name: "system:admin", Groups: []string{"system:masters"}})
	g := NewWithT(t)

	p.set("yunfan:wang", edu, art) // more than before
	o.look()
	g.Consistently(wang, "500ms").ShouldNot(Receive(), "who has more loses nothing")
	p.set("yunfan:li", edu)
	p.set("yunfan:zhao")
	began := time.Now()
	for range 100 {
		o.look()
	}
	g.Eventually(li, "5s").Should(Receive(MatchError(errLost)), "a group is gone")
	g.Eventually(zhao, "5s").Should(Receive(MatchError(errLost)), "the session is gone")
	if late := time.Since(began); late > 4*time.Second {
		t.Errorf("ended only after %s", late)
	}
	g.Consistently(li2, "300ms").ShouldNot(Receive(), "did not need the group")
	g.Expect(wang).NotTo(Receive())
	g.Expect(hub).NotTo(Receive())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked > 30 {
		t.Errorf("asked %d times: changes that come together are one look, and users are asked about once", p.asked)
	}
}

func TestOpenIsBounded(t *testing.T) {
	p := &people{now: map[string][]string{}}
	o := NewOpen(p.Now)
	user := rest.User{Name: "yunfan:li"}
	for range maxOpen {
		hold(t, o, user)
	}
	refused := o.Wrap(func(http.ResponseWriter, *http.Request) error { return errors.New("got through") })
	r := httptest.NewRequestWithContext(rest.WithUser(t.Context(), user), http.MethodGet, "/", nil)
	if err := refused(httptest.NewRecorder(), r); !apierrors.IsTooManyRequests(err) {
		t.Errorf("one more than may be: %v", err)
	}
	hold(t, o, rest.User{Name: "yunfan:wang"}) // others have their own
	o.review(t.Context())
	NewWithT(t).Eventually(func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.requests) + len(o.users)
	}, "10s").Should(BeZero(), "everything that has ended is forgotten")
}
