package access

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

// directoryOf makes a Directory for the server, with the account's Secret.
func (s *server) directoryOf(t *testing.T, l *openLDAP, change ...func(*v1alpha1.DirectorySpec)) *v1alpha1.Directory {
	t.Helper()
	name := testkit.Name(t)
	testkit.Create(t, hub.Client, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}, Data: map[string][]byte{passwordEntry: []byte(ldapPassword)},
	})
	d := &v1alpha1.Directory{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.DirectorySpec{Type: v1alpha1.DirectoryLDAP, LDAP: &v1alpha1.LDAPDirectory{
		Host: "127.0.0.1", Port: int32(l.plain), CA: l.ca, BindDN: ldapAccount, BindPasswordSecretRef: &v1alpha1.SecretReference{Name: name},
		BaseDN: "ou=people," + ldapBase, GroupBaseDN: "ou=groups," + ldapBase, TimeoutSeconds: 10,
	}}}
	for _, c := range change {
		c(&d.Spec)
	}
	testkit.Create(t, hub.Client, d)
	t.Cleanup(func() { _ = hub.Client.Delete(t.Context(), d) })
	s.seen(t, d)
	return d
}

// seen waits until the service knows a directory.
func (s *server) seen(t *testing.T, d *v1alpha1.Directory) {
	t.Helper()
	NewWithT(t).Eventually(func() error { return s.hub.Get(t.Context(), client.ObjectKeyFromObject(d), &v1alpha1.Directory{}) }).WithTimeout(patience).Should(Succeed())
}

func ldaps(l *openLDAP) func(*v1alpha1.DirectorySpec) {
	return func(d *v1alpha1.DirectorySpec) { d.LDAP.Security, d.LDAP.Port = v1alpha1.LDAPS, int32(l.secure) }
}

// forgetUsers makes room for users of the same names in the next directory.
func forgetUsers(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := client.IgnoreNotFound(hub.Client.Delete(t.Context(), &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name}})); err != nil {
			t.Fatal(err)
		}
	}
}

// at signs in at a directory.
func (s *server) at(t *testing.T, d *v1alpha1.Directory, user, password string) answer {
	t.Helper()
	return s.browser(t).do(t, "POST", "/api/v1/session", SignIn{User: user, Password: password, Directory: d.Name})
}

func TestSEC04_OpenLDAP(t *testing.T) {
	l := startOpenLDAP(t)
	s := serve(t, "")
	for name, tc := range map[string]struct {
		reason string
		change func(*v1alpha1.DirectorySpec)
		groups []string // without the directory's name
	}{
		"StartTLS": {"the default", func(*v1alpha1.DirectorySpec) {}, []string{"admins", "ops"}},
		"LDAPS":    {"TLS from the start", ldaps(l), []string{"admins", "ops"}},
		"Plain":    {"without TLS, for who wants that", func(d *v1alpha1.DirectorySpec) { d.LDAP.Security = v1alpha1.LDAPPlain }, []string{"admins", "ops"}},
		"MemberOf": {"groups from the user's own attribute only", func(d *v1alpha1.DirectorySpec) { d.LDAP.GroupBaseDN = "" }, []string{"admins", "ops"}},
		"Search":   {"groups by search only", func(d *v1alpha1.DirectorySpec) { d.LDAP.Attributes.Groups = "none" }, []string{"admins", "ops"}},
		"OwnFilter": {"a filter for groups", func(d *v1alpha1.DirectorySpec) {
			d.LDAP.Attributes.Groups, d.LDAP.GroupFilter = "none", "(&(cn=ops)(member={dn}))"
		}, []string{"ops"}},
	} {
		t.Run("SEC-04 "+name, func(t *testing.T) {
			forgetUsers(t, "lilei")
			d := s.directoryOf(t, l, tc.change)
			a := s.at(t, d, "lilei", "secret-of-LiLei") // another spelling than the directory's
			expect(t, a, 200, `"user":"lilei"`)
			user := &v1alpha1.User{}
			if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: "lilei"}, user); err != nil {
				t.Fatal(err)
			}
			want := []string{}
			for _, group := range tc.groups {
				want = append(want, d.Name+":"+group)
			}
			if diff := cmp.Diff(want, user.Status.DirectoryGroups); diff != "" {
				t.Errorf("%s: groups: -want +got:\n%s", tc.reason, diff)
			}
			if user.Spec.DisplayName != "李雷" || user.Spec.Email != "LiLei@example.com" || user.Spec.Directory != d.Name || len(user.Spec.ExternalID) != 36 || user.Spec.PlatformAdministrator {
				t.Errorf("%s: the user is %+v", tc.reason, user.Spec)
			}
			expect(t, s.at(t, d, "lilei", "secret-of-hanmeimei"), 401, errWrong.Error())
		})
	}
}

func TestSEC04_WhoIsLetIn(t *testing.T) {
	l := startOpenLDAP(t)
	s := serve(t, "")
	forgetUsers(t, "lilei")
	d := s.directoryOf(t, l, func(d *v1alpha1.DirectorySpec) { d.PlatformAdministratorGroups = []string{"admins", "system:masters"} })
	t.Run("groups make administrators", func(t *testing.T) {
		expect(t, s.at(t, d, "LiLei", "secret-of-LiLei"), 200, "lilei")
		expect(t, s.at(t, d, "hanmeimei", "secret-of-hanmeimei"), 200, "hanmeimei")
		got := map[string]bool{}
		groups := map[string][]string{}
		for _, name := range []string{"lilei", "hanmeimei"} {
			user := &v1alpha1.User{}
			if err := hub.Client.Get(t.Context(), client.ObjectKey{Name: name}, user); err != nil {
				t.Fatal(err)
			}
			got[name], groups[name] = user.Spec.PlatformAdministrator, user.Status.DirectoryGroups
		}
		// The group admins of hanmeimei is another one, elsewhere.
		if diff := cmp.Diff(map[string]bool{"lilei": true, "hanmeimei": false}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if diff := cmp.Diff([]string{d.Name + ":ops", d.Name + ":posix"}, groups["hanmeimei"]); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
	t.Run("hostile", func(t *testing.T) {
		for reason, tc := range map[string]struct {
			user, password string
			code           int
			says           string
		}{
			"no password must not be a bind as nobody": {"lilei", "", 400, "a password"},
			"a filter in the name":                     {"*)(uid=*", "secret-of-LiLei", 401, errWrong.Error()},
			"a star for everybody":                     {"*", "secret-of-LiLei", 401, errWrong.Error()},
			"a name that ends the filter":              {"lilei)(|(uid=*", "secret-of-LiLei", 401, errWrong.Error()},
			"a name with a null":                       {"lilei\x00", "secret-of-LiLei", 401, errWrong.Error()},
			"blanks that the directory does not mind":  {"l i lei", "secret-of-LiLei", 401, errWrong.Error()},
			"unknown":                             {"nobody", "secret", 401, errWrong.Error()},
			"the platform's account is no person": {"yunfan", ldapPassword, 401, errWrong.Error()},
			"a name that cannot be one here":      {"zhang_san", "secret-of-zhang_san", 403, "cannot be a name here"},
			"two people of one name":              {"twice", "secret-of-twice", 403, "several users"},
		} {
			a := s.at(t, d, tc.user, tc.password)
			if a.code != tc.code || !strings.Contains(a.body, tc.says) {
				t.Errorf("%s: got %d %s", reason, a.code, a.body)
			}
		}
		// What is sent to the service without a password ends before the directory is asked.
		if _, err := s.askLDAP(t.Context(), d, "lilei", ""); err == nil {
			t.Error("a bind without password was taken for a proof")
		}
	})
	t.Run("nobody inherits a name", func(t *testing.T) {
		forgetUsers(t, "lilei")
		local := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: "lilei"}}
		testkit.Create(t, hub.Client, local)
		expect(t, s.at(t, d, "lilei", "secret-of-LiLei"), 403, "belongs to an account that is not of directory")
		forgetUsers(t, "lilei")
		testkit.Create(t, hub.Client, &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: "lilei"}, Spec: v1alpha1.UserSpec{Directory: d.Name, ExternalID: "somebody-of-before"}})
		expect(t, s.at(t, d, "lilei", "secret-of-LiLei"), 403, "belonged to somebody else")
		forgetUsers(t, "lilei")
		testkit.Create(t, hub.Client, &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: "lilei"}, Spec: v1alpha1.UserSpec{Directory: d.Name, Disabled: true}})
		expect(t, s.at(t, d, "lilei", "secret-of-LiLei"), 403, "disabled")
	})
	t.Run("accounts made beforehand only", func(t *testing.T) {
		forgetUsers(t, "lilei")
		no := false
		d := s.directoryOf(t, l, func(d *v1alpha1.DirectorySpec) { d.CreateUsers = &no })
		expect(t, s.at(t, d, "lilei", "secret-of-LiLei"), 403, "no account here")
		testkit.Create(t, hub.Client, &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: "lilei"}, Spec: v1alpha1.UserSpec{Directory: d.Name}})
		expect(t, s.at(t, d, "lilei", "secret-of-LiLei"), 200, "lilei")
	})
	t.Run("locked like everybody", func(t *testing.T) {
		forgetUsers(t, "hanmeimei")
		for range userBackoff.free {
			expect(t, s.at(t, d, "hanmeimei", "wrong"), 401, "")
		}
		expect(t, s.at(t, d, "hanmeimei", "secret-of-hanmeimei"), 429, "")
	})
}

func TestSEC04_LDAPTrouble(t *testing.T) {
	l := startOpenLDAP(t)
	s := serve(t, "")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts by its queue, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	other := t.TempDir()
	strange := writeCertificates(t, other)
	for name, tc := range map[string]struct {
		reason, condition string
		change            func(*v1alpha1.DirectorySpec)
	}{
		"Silent": {"it accepts and never answers", v1alpha1.ReasonUnreachable, func(d *v1alpha1.DirectorySpec) {
			d.LDAP.Port, d.LDAP.TimeoutSeconds = port(t, silent.Addr().String()), 1
		}},
		"SilentTLS": {"it does not even shake hands", v1alpha1.ReasonUnreachable, func(d *v1alpha1.DirectorySpec) {
			d.LDAP.Port, d.LDAP.TimeoutSeconds, d.LDAP.Security = port(t, silent.Addr().String()), 1, v1alpha1.LDAPS
		}},
		"Gone":         {"nobody listens", v1alpha1.ReasonUnreachable, func(d *v1alpha1.DirectorySpec) { d.LDAP.Port = int32(freePort(t)) }},
		"StrangeCA":    {"somebody else's certificate", v1alpha1.ReasonUnreachable, func(d *v1alpha1.DirectorySpec) { d.LDAP.CA = strange }},
		"StrangeLDAPS": {"the same from the start", v1alpha1.ReasonUnreachable, func(d *v1alpha1.DirectorySpec) { ldaps(l)(d); d.LDAP.CA = strange }},
		"NoCA":         {"a CA that the machine does not know", v1alpha1.ReasonUnreachable, func(d *v1alpha1.DirectorySpec) { d.LDAP.CA = "" }},
		"Account":      {"the account's password is wrong", v1alpha1.ReasonCredentialsInvalid, func(d *v1alpha1.DirectorySpec) { d.LDAP.BindDN = "cn=nobody," + ldapBase }},
		"Secret":       {"the account's Secret is not there", v1alpha1.ReasonCredentialsInvalid, func(d *v1alpha1.DirectorySpec) { d.LDAP.BindPasswordSecretRef.Name = "missing" }},
		"Base":         {"there is no such place", v1alpha1.ReasonInvalid, func(d *v1alpha1.DirectorySpec) { d.LDAP.BaseDN = "ou=nowhere," + ldapBase }},
		"Filter":       {"a filter that cannot be read", v1alpha1.ReasonInvalid, func(d *v1alpha1.DirectorySpec) { d.LDAP.Filter = "(&(objectClass=person)" + "(x)" }},
	} {
		t.Run(name, func(t *testing.T) {
			d := s.directoryOf(t, l, tc.change)
			began := time.Now()
			a := s.browser(t).do(t, "POST", "/api/v1/session", SignIn{User: testkit.Name(t), Password: "secret-of-LiLei", Directory: d.Name})
			if tc.condition != v1alpha1.ReasonInvalid && (a.code != 503 || strings.Contains(a.body, ldapAccount)) {
				t.Errorf("%s: got %d %s", tc.reason, a.code, a.body)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("%s: answered after %s", tc.reason, took)
			}
			NewWithT(t).Eventually(func() string {
				if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
					return err.Error()
				}
				if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionReady); c != nil {
					return c.Reason
				}
				return ""
			}).WithTimeout(patience).Should(Equal(tc.condition), tc.reason)
		})
	}
	good := s.directoryOf(t, l)
	NewWithT(t).Eventually(func() bool {
		return hub.Client.Get(t.Context(), client.ObjectKeyFromObject(good), good) == nil && meta.IsStatusConditionTrue(good.Status.Conditions, v1alpha1.ConditionReady)
	}).WithTimeout(patience).Should(BeTrue(), "so the others are not ready for what is wrong with them")

	t.Run("trouble locks nobody out", func(t *testing.T) {
		d := s.directoryOf(t, l, func(d *v1alpha1.DirectorySpec) { d.LDAP.Port = int32(freePort(t)) })
		user := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(t)}, Spec: v1alpha1.UserSpec{Directory: d.Name}}
		testkit.Create(t, hub.Client, user)
		for range userBackoff.free + 2 {
			expect(t, s.browser(t).do(t, "POST", "/api/v1/session", SignIn{User: user.Name, Password: "any", Directory: d.Name}), 503, "cannot be asked")
		}
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(user), user); err != nil || user.Status.FailedAttempts != 0 {
			t.Errorf("%d attempts count: %v", user.Status.FailedAttempts, err)
		}
	})
}

func TestSEC04_ReferralsAreNotFollowed(t *testing.T) {
	l := startOpenLDAP(t)
	s := serve(t, "")
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	var visits atomic.Int32
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			conn.Close()
		}
	}()
	conn, err := ldap.DialURL("ldap://127.0.0.1:" + l.plainText())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Bind(ldapRoot, l.root); err != nil {
		t.Fatal(err)
	}
	entry(t, conn, "ou=far,ou=people,"+ldapBase, "objectClass=referral", "objectClass=extensibleObject", "ou=far", "ref=ldap://"+trap.Addr().String()+"/dc=evil")
	d := s.directoryOf(t, l)
	sign := func(user, password string) answer {
		return s.browser(t).do(t, "POST", "/api/v1/session", SignIn{User: user, Password: password, Directory: d.Name})
	}
	expect(t, sign("far-away", "secret"), 401, errWrong.Error())
	forgetUsers(t, "lilei")
	expect(t, sign("lilei", "secret-of-LiLei"), 200, "lilei")
	if visits.Load() != 0 {
		t.Errorf("the other server was asked %d times", visits.Load())
	}
}
