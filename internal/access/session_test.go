package access

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

func TestOPS11_SignInByCommandLine(t *testing.T) {
	s := serve(t, "")
	user := s.local(t)
	s.groups[user.Name] = []string{"yunfan:tenant:edu:viewer"}
	b := s.browser(t)
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 401, "show a client certificate")
	signed := b.signIn(t, SignIn{User: strings.ToUpper(user.Name), Password: goodPass})
	if signed.CSRFToken != "" || signed.RefreshToken == "" || time.Until(*signed.TokenExpires) > tokenLife {
		t.Errorf("got %+v", signed)
	}
	a := b.do(t, "GET", "/api/v1/anything", nil)
	got := rest.User{}
	a.read(t, &got)
	got.Extra = nil
	want := rest.User{Name: "yunfan:" + user.Name, UID: string(user.UID), Groups: []string{"yunfan:authenticated", "yunfan:tenant:edu:viewer", "system:authenticated"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the handler sees: -want +got:\n%s", diff)
	}
	who := Who{}
	b.do(t, "GET", "/api/v1/session", nil).read(t, &who)
	if who.User != user.Name || who.Kubernetes != "yunfan:"+user.Name || who.SessionExpires == nil {
		t.Errorf("got %+v", who)
	}
	if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(user), user); err != nil || user.Status.LastSignInTime == nil || user.Status.FailedAttempts != 0 {
		t.Errorf("the status does not tell of the sign-in: %+v %v", user.Status, err)
	}
	expect(t, b.do(t, "DELETE", "/api/v1/session", nil), 200, "signed out")
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 401, "ended")
	refreshed := b.do(t, "POST", "/api/v1/session/refresh", map[string]string{"refreshToken": signed.RefreshToken})
	expect(t, refreshed, 401, "not known")
}

func TestRefreshIsGoodOnce(t *testing.T) {
	s := serve(t, "")
	b := s.browser(t)
	refresh := func(token string) answer {
		return b.do(t, "POST", "/api/v1/session/refresh", map[string]string{"refreshToken": token})
	}
	first := b.signIn(t, SignIn{User: s.local(t).Name, Password: goodPass})
	second := Signed{}
	refresh(first.RefreshToken).read(t, &second)
	b.token = second.Token
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 200, "yunfan:")
	forged := strings.Split(second.RefreshToken, ".")[0] + "." + newSecret()
	expect(t, refresh(forged), 401, "not known")
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 200, "yunfan:") // a guess ends nobody's session

	expect(t, refresh(first.RefreshToken), 401, "somebody else has it")
	b.eventually(t, 401, time.Second)
	expect(t, refresh(second.RefreshToken), 401, "") // neither of the two goes on

	// Of many at the same instant at most one gets through.
	third := b.signIn(t, SignIn{User: s.local(t).Name, Password: goodPass})
	var mu sync.Mutex
	var all sync.WaitGroup
	good := 0
	for range 8 {
		all.Go(func() {
			if refresh(third.RefreshToken).code == 200 {
				mu.Lock()
				good++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if good > 1 {
		t.Errorf("one refresh token was good %d times", good)
	}
}

func TestCookies(t *testing.T) {
	s := serve(t, "")
	user := s.local(t)
	b := s.browser(t)
	a := b.do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: goodPass, Cookie: true})
	signed := Signed{}
	a.read(t, &signed)
	cookie := a.header.Get("Set-Cookie")
	for _, flag := range []string{"__Host-yunfan-session=", "HttpOnly", "Secure", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(cookie, flag) {
			t.Errorf("the cookie lacks %s: %s", flag, cookie)
		}
	}
	if signed.Token != "" || signed.RefreshToken != "" {
		t.Errorf("scripts in a page can read %+v", signed)
	}
	who := Who{}
	b.do(t, "GET", "/api/v1/session", nil).read(t, &who)
	if who.CSRFToken != signed.CSRFToken || who.User != user.Name {
		t.Errorf("got %+v", who)
	}
	other := s.browser(t)
	strange := other.signIn(t, SignIn{User: user.Name, Password: goodPass, Cookie: true}).CSRFToken
	for name, tc := range map[string]struct {
		reason, method string
		headers        []string
		code           int
	}{
		"Read":           {"reading changes nothing", "GET", nil, 200},
		"Missing":        {"a form of somebody else's page", "POST", nil, 403},
		"Wrong":          {"a guess", "POST", []string{csrfHeader, "guess"}, 403},
		"OfAnother":      {"a token of another session", "POST", []string{csrfHeader, strange}, 403},
		"Right":          {"our own page", "POST", []string{csrfHeader, signed.CSRFToken, "Origin", s.URL}, 200},
		"OtherOrigin":    {"somebody else's page that knows the token", "POST", []string{csrfHeader, signed.CSRFToken, "Origin", "https://evil.example.com"}, 403},
		"NullOrigin":     {"a frame without origin", "POST", []string{csrfHeader, signed.CSRFToken, "Origin", "null"}, 403},
		"ClearOrigin":    {"a page that came in the clear", "POST", []string{csrfHeader, signed.CSRFToken, "Origin", strings.Replace(s.URL, "https", "http", 1)}, 403},
		"CrossSite":      {"the browser says it", "GET", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"UpgradeNoWhere": {"a connection from nowhere", "GET", []string{"Upgrade", "websocket", "Connection", "Upgrade"}, 403},
		"UpgradeOther":   {"a connection from somebody else's page", "GET", []string{"Upgrade", "websocket", "Connection", "Upgrade", "Origin", "https://evil.example.com"}, 403},
		"UpgradeOwn":     {"a terminal in our page", "GET", []string{"Upgrade", "websocket", "Connection", "Upgrade", "Origin", s.URL}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			if a := b.do(t, tc.method, "/api/v1/anything", nil, tc.headers...); a.code != tc.code {
				t.Errorf("%s: got %d %s, want %d", tc.reason, a.code, a.body, tc.code)
			}
		})
	}
	expect(t, b.do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: goodPass, Cookie: true}, "Origin", "https://evil.example.com"), 403, "others")
	expect(t, b.do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: goodPass}, "Content-Type", "text/plain"), 415, "application/json")
	expect(t, b.do(t, "DELETE", "/api/v1/session", nil), 403, csrfHeader)
	expect(t, b.do(t, "DELETE", "/api/v1/session", nil, csrfHeader, signed.CSRFToken), 200, "")
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 401, "")
}

func TestSessionFixation(t *testing.T) {
	s := serve(t, "")
	attacker := s.browser(t)
	attackers := attacker.do(t, "POST", "/api/v1/session", SignIn{User: s.local(t).Name, Password: goodPass, Cookie: true})
	planted, _, _ := strings.Cut(attackers.header.Get("Set-Cookie"), ";")
	victim := s.browser(t)
	a := victim.do(t, "POST", "/api/v1/session", SignIn{User: s.local(t).Name, Password: goodPass, Cookie: true}, "Cookie", planted)
	got, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	if a.code != 200 || got == planted || got == "" {
		t.Errorf("the victim's session is the one that was planted: %d %s", a.code, got)
	}
	// Two cookies of the name: one of them is planted, and nobody knows which.
	expect(t, s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Cookie", planted+"; "+got), 401, "")
	// A cookie's secret is no bearer token, and the other way round.
	_, value, _ := strings.Cut(got, "=")
	expect(t, s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Authorization", "Bearer "+value), 401, "")
	signed := s.browser(t).signIn(t, SignIn{User: s.local(t).Name, Password: goodPass})
	expect(t, s.browser(t).do(t, "GET", "/api/v1/anything", nil, "Cookie", sessionCookie+"="+signed.RefreshToken), 401, "")
	expect(t, s.browser(t).do(t, "POST", "/api/v1/session/refresh", map[string]string{"refreshToken": value}), 401, "")
}

func TestRightsEndAtOnce(t *testing.T) {
	s := serve(t, "")
	sign := func(t *testing.T) (*browser, *v1alpha1.User, string) {
		t.Helper()
		user, b := s.local(t), s.browser(t)
		b.signIn(t, SignIn{User: user.Name, Password: goodPass})
		who := rest.User{}
		b.do(t, "GET", "/api/v1/anything", nil).read(t, &who)
		return b, user, who.Extra[extraSession][0]
	}
	t.Run("the session is deleted", func(t *testing.T) {
		b, _, session := sign(t)
		if err := hub.Client.Delete(t.Context(), &v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Name: session}}); err != nil {
			t.Fatal(err)
		}
		b.eventually(t, 401, time.Second)
	})
	t.Run("the user is disabled", func(t *testing.T) {
		b, user, session := sign(t)
		was := rest.User{Name: "yunfan:" + user.Name, UID: string(user.UID), Extra: map[string][]string{extraSession: {session}}}
		if _, still := s.Still(t.Context(), was); !still {
			t.Error("what is open ends though nothing has changed")
		}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(user), user); err != nil {
			t.Fatal(err)
		}
		user.Spec.Disabled = true
		if err := hub.Client.Update(t.Context(), user); err != nil {
			t.Fatal(err)
		}
		b.eventually(t, 401, time.Second)
		if _, still := s.Still(t.Context(), was); still {
			t.Error("what is open goes on")
		}
		expect(t, b.do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: goodPass}), 401, errWrong.Error())
	})
	t.Run("the user is made anew", func(t *testing.T) {
		b, user, _ := sign(t)
		if err := hub.Client.Delete(t.Context(), user); err != nil {
			t.Fatal(err)
		}
		testkit.Create(t, hub.Client, &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: user.Name}})
		b.eventually(t, 401, time.Second)
		expect(t, b.do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: goodPass}), 401, errWrong.Error())
	})
	t.Run("the session expires", func(t *testing.T) {
		b, _, session := sign(t)
		o := &v1alpha1.Session{}
		if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: session}, o); err != nil {
			t.Fatal(err)
		}
		o.Spec.ExpirationTime = metav1.NewTime(time.Now().Add(-time.Minute))
		if err := hub.Client.Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		b.eventually(t, 401, time.Second)
		NewWithT(t).Eventually(func() error {
			return client.IgnoreNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o))
		}).Should(Succeed())
		if err := s.clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); client.IgnoreNotFound(err) != nil || err == nil {
			t.Errorf("the session is still kept: %v", err)
		}
	})
}

func TestSessionsOfOneUserAreBounded(t *testing.T) {
	s := serve(t, "")
	user := s.local(t)
	for range maxSessions + 5 {
		s.browser(t).signIn(t, SignIn{User: user.Name, Password: goodPass})
	}
	NewWithT(t).Eventually(func() int {
		list := &v1alpha1.SessionList{}
		if err := s.hub.List(t.Context(), list, client.MatchingFields{userField: user.Name}); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) > maxSessions {
			s.endOldest(t.Context(), user.Name)
		}
		return len(list.Items)
	}).WithTimeout(patience).Should(BeNumerically("<=", maxSessions))
}

func TestFirstAdministrator(t *testing.T) {
	// The hub of all tests has users: what is tested is what the leader does when it has none, or was stopped half-way.
	s := serve(t, "")
	read := func() string {
		written := &corev1.Secret{}
		if err := hub.Client.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: FirstSecret}, written); err != nil {
			return ""
		}
		return string(written.Data[passwordEntry])
	}
	testkit.Create(t, hub.Client, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: FirstSecret},
		Data:       map[string][]byte{userEntry: []byte(FirstUser), passwordEntry: []byte("written-before-it-stopped")},
	})
	for range 2 { // the second time nothing is left to be done; the server that was started does the same
		NewWithT(t).Eventually(func() error { return s.firstAdministrator(context.WithoutCancel(t.Context())) }).WithTimeout(patience).Should(Succeed())
	}
	b := s.browser(t)
	signed := b.signIn(t, SignIn{User: FirstUser, Password: read()})
	if !signed.PasswordChangeRequired {
		t.Error("the first password need not be changed")
	}
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 403, "change your password first")
	expect(t, b.do(t, "POST", "/api/v1/tokens", NewToken{}), 403, "change your password first")
	expect(t, b.do(t, "GET", "/api/v1/session", nil), 200, `"passwordChangeRequired":true`)
	change := func(current, next string) answer {
		return b.do(t, "POST", "/api/v1/password", map[string]string{"current": current, "new": next})
	}
	expect(t, change("wrong password", goodPass), 403, "current password is wrong")
	expect(t, change(read(), "short"), 400, "too short")
	expect(t, change(read(), read()), 400, "choose another")
	expect(t, change(read(), "my-admin-password"), 400, "user's name")
	expect(t, change(read(), goodPass), 200, "changed")
	expect(t, b.do(t, "GET", "/api/v1/anything", nil), 200, v1alpha1.GroupPlatformAdmin)
	expect(t, b.do(t, "POST", "/api/v1/session", SignIn{User: FirstUser, Password: read()}), 401, errWrong.Error())
	b.signIn(t, SignIn{User: FirstUser, Password: goodPass})

	if err := hub.Client.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: FirstSecret}}); err != nil {
		t.Fatal(err)
	}
	if err := s.firstAdministrator(t.Context()); err != nil || read() != "" {
		t.Errorf("there is a second first administrator: %v", err)
	}
}

func TestAdministratorsSetPasswords(t *testing.T) {
	s := serve(t, "")
	admin, plain := s.browser(t), s.browser(t)
	admin.signIn(t, SignIn{User: s.local(t, administrator).Name, Password: goodPass})
	user := s.local(t)
	plain.signIn(t, SignIn{User: user.Name, Password: goodPass})
	path := "/api/v1/users/" + user.Name + "/password"
	expect(t, plain.do(t, "POST", path, map[string]string{}), 403, "lacks the verb")
	expect(t, admin.do(t, "POST", path, map[string]string{"password": "short"}), 400, "too short")
	a := admin.do(t, "POST", path, map[string]string{})
	expect(t, a, 200, "must change")
	told := map[string]string{}
	a.read(t, &told)
	plain.eventually(t, http.StatusUnauthorized, time.Second) // his sessions are ended
	if signed := plain.signIn(t, SignIn{User: user.Name, Password: told["password"]}); !signed.PasswordChangeRequired {
		t.Error("the password of an administrator need not be changed")
	}
	expect(t, admin.do(t, "POST", "/api/v1/users/nobody/password", map[string]string{}), 404, "not found")
	ofDirectory := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}, Spec: v1alpha1.UserSpec{Directory: "corp"}}
	testkit.Create(t, hub.Client, ofDirectory)
	expect(t, admin.do(t, "POST", "/api/v1/users/"+ofDirectory.Name+"/password", map[string]string{}), 400, "of directory corp")
	// He cannot get in by a local password either, had somebody written one for him.
	if err := s.keepPassword(t.Context(), ofDirectory, goodPass); err != nil {
		t.Fatal(err)
	}
	expect(t, plain.do(t, "POST", "/api/v1/session", SignIn{User: ofDirectory.Name, Password: goodPass}), 401, errWrong.Error())
}
