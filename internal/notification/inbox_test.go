package notification

import (
	"net/http"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/testkit"
)

func checkInbox(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	p := start(t, location)
	li, han := p.user(), p.user()
	for _, name := range []string{"a", "b", "c"} {
		p.send(p.message(name, outbound.Recipient{User: li.Name}))
	}
	p.send(p.message("d", outbound.Recipient{User: han.Name}))
	var page Inbox
	p.must(as(li), "GET", "/api/v1/me/messages?pageSize=2", "", &page)
	g.Expect([]int{page.Total, page.Unread, len(page.Items)}).To(Equal([]int{3, 3, 2}))
	first := page.Items[0]
	g.Expect(first.Title[v1alpha1.Chinese]).To(HavePrefix("申请"))
	g.Expect(first.Path).To(HavePrefix("/console/requests/"))
	g.Expect(first.Read).To(BeFalse())
	var left Marked
	p.must(as(han), "POST", "/api/v1/me/messages/read", `{"ids": ["`+first.ID+`"]}`, &left)
	p.must(as(li), "GET", "/api/v1/me/messages?unread=true&page=2&pageSize=2&topic="+topicLeave+"&tenant="+p.tenant, "", &page)
	g.Expect([]int{page.Total, page.Unread, len(page.Items)}).To(Equal([]int{3, 3, 1}), "nobody marks another's")
	p.must(as(li), "POST", "/api/v1/me/messages/read", `{"ids": ["`+first.ID+`"]}`, &left)
	g.Expect(left.Unread).To(Equal(2))
	p.must(as(li), "POST", "/api/v1/me/messages/read", `{"all": true}`, &left)
	g.Expect(left.Unread).To(Equal(0))
	p.must(as(li), "GET", "/api/v1/me/messages?unread=true", "", &page)
	g.Expect(page.Total).To(Equal(0))

	g.Expect(hub.Client.Delete(t.Context(), li)).To(Succeed())
	old := as(li)
	g.Eventually(func() error { return p.hub.Get(t.Context(), client.ObjectKeyFromObject(li), &v1alpha1.User{}) }, wait).ShouldNot(Succeed())
	li.ResourceVersion, li.UID = "", ""
	p.create(li)
	p.must(as(li), "GET", "/api/v1/me/messages", "", &page)
	g.Expect(page.Total).To(Equal(0), "another person with that name reads none of them")
	code, _ := p.ask(old, "GET", "/api/v1/me/messages", "")
	g.Expect(code).To(Equal(http.StatusUnauthorized))
	for path, want := range map[string]int{"?page=0": 400, "?pageSize=501": 400, "?color=red": 400, "": 200} {
		code, _ := p.ask(as(li), "GET", "/api/v1/me/messages"+path, "")
		g.Expect(code).To(Equal(want), path)
	}
	code, says := p.ask(admin, "GET", "/api/v1/me/messages", "")
	g.Expect(code).To(Equal(http.StatusBadRequest), says)
}

func TestOPS06_Preferences(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	u := p.user(mailTo("old@example.com"), func(u *v1alpha1.User) { u.Spec.PlatformAdministrator = true })
	const path = "/api/v1/me/notifications"
	var got Preferences
	p.must(as(u), "GET", path, "", &got)
	g.Expect(got).To(Equal(Preferences{
		Email: "old@example.com", Language: v1alpha1.Chinese, Channels: []v1alpha1.NotificationChannel{v1alpha1.ChannelEmail}, MutedTopics: []string{},
	}))
	for body, says := range map[string]string{
		`{"email": "a@example.com\r\nBcc: b@example.com"}`:          "one plain address",
		`{"email": "Me <a@example.com>"}`:                           "one plain address",
		`{"email": "a@example.com, b@example.com"}`:                 "one plain address",
		`{"email": "` + strings.Repeat("a", 300) + `@example.com"}`: "one plain address",
		`{"phone": "110"}`:             "international form",
		`{"phone": "+8613800138000;"}`: "international form",
		`{"language": "fr"}`:           "zh or en",
		`{"channels": ["Pigeon"]}`:     "Email and SMS",
		`{"channels": ["SMS"]}`:        "needs a phone",
		`{"mutedTopics": ["a b"]}`:     "mutedTopics",
		`{"directory": "corp"}`:        "cannot be changed",
		`{"platformAdministrator": 1}`: "unknown field",
		``:                             "no body",
	} {
		code, answer := p.ask(as(u), "PUT", path, body)
		g.Expect(code).To(BeElementOf(http.StatusBadRequest, http.StatusUnprocessableEntity), body)
		g.Expect(answer).To(ContainSubstring(says), body)
	}
	p.must(as(u), "PUT", path, `{"email": "new@example.com", "phone": "13800138000", "language": "en", "channels": ["SMS", "Email", "SMS"], "mutedTopics": ["request.*"]}`, &got)
	fresh := &v1alpha1.User{}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(u), fresh)).To(Succeed())
	channels := []v1alpha1.NotificationChannel{v1alpha1.ChannelEmail, v1alpha1.ChannelSMS}
	g.Expect(fresh.Spec).To(Equal(v1alpha1.UserSpec{
		DisplayName: "李雷", Email: "new@example.com", Phone: "13800138000", PlatformAdministrator: true,
		Notifications: &v1alpha1.UserNotifications{Language: v1alpha1.English, Channels: &channels, MutedTopics: []string{"request.*"}},
	}), "nothing else is changed")
	p.must(as(u), "PUT", path, `{"email": "new@example.com", "channels": []}`, &got)
	g.Expect(got.Channels).To(BeEmpty())
	g.Expect(got.MutedTopics).To(BeEmpty())

	corp := p.user(mailTo("corp@example.com"), func(u *v1alpha1.User) { u.Spec.Directory = "corp" })
	code, answer := p.ask(as(corp), "PUT", path, `{"email": "other@example.com"}`)
	g.Expect(code).To(Equal(http.StatusBadRequest))
	g.Expect(answer).To(ContainSubstring("directory corp"))
	p.must(as(corp), "PUT", path, `{"email": "corp@example.com", "language": "zh"}`, &got)
}

// Whoever may change the receivers of a tenant sees its deliveries, and no others.
func TestOPS06_Rights(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	hook := newHook(t, nil)
	r, _ := p.receiver(hook.URL)
	other := testkit.Namespace(t, hub.Client)
	p.create(&v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: other}})
	u, viewer := p.user(), p.user()
	for user, verbs := range map[*v1alpha1.User][]string{u: {"get", "list", "update"}, viewer: {"get", "list"}} {
		testkit.Create(t, hub.Client,
			&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant, Name: user.Name}, Rules: []rbacv1.PolicyRule{{
				APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{receivers}, Verbs: verbs,
			}}},
			&rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant, Name: user.Name},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user.Name},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: v1alpha1.UserPrefix + user.Name}},
			})
	}
	nms := &v1alpha1.NotificationReceiver{
		ObjectMeta: metav1.ObjectMeta{Namespace: testkit.PlatformNamespace, Name: testkit.Name(t)},
		Spec:       v1alpha1.NotificationReceiverSpec{Type: v1alpha1.ReceiverWebhook, URL: hook.URL, Topics: []string{"*"}},
	}
	p.create(nms)
	m := p.message("other", outbound.Recipient{User: viewer.Name})
	m.Tenant = other
	p.send(m)
	p.send(outbound.Message{Key: p.tenant + "/platform", Topic: topicLeave, To: []outbound.Recipient{{User: viewer.Name}}})
	p.send(p.message("mine", outbound.Recipient{User: viewer.Name}))
	var page rest.Page[Row]
	g.Eventually(func() int { // the hub takes a moment for new roles
		p.must(as(u), "GET", "/api/v1/notifications", "", &page)
		return page.Total
	}, wait).Should(Equal(2))
	for _, row := range page.Items {
		g.Expect(row.Tenant).To(Equal(p.tenant))
	}
	p.must(admin, "GET", "/api/v1/notifications?name="+nms.Name, "", &page)
	g.Expect(page.Total).To(Equal(3), "the platform's receiver is told of all tenants and of the platform")
	code, _ := p.ask(as(u), "POST", "/api/v1/notifications/"+page.Items[0].ID+"/retry", "")
	g.Expect(code).To(Equal(http.StatusNotFound))
	p.must(as(u), "GET", "/api/v1/notifications?tenant="+other, "", &page)
	g.Expect(page.Total).To(Equal(0))
	p.must(as(viewer), "GET", "/api/v1/notifications", "", &page)
	g.Expect(page.Total).To(Equal(0))
	base := "/api/v1/tenants/" + p.tenant + "/notification-receivers/" + r.Name
	for path, method := range map[string]string{
		base + "/key": "POST", base + "/test": "POST", "/api/v1/notification-providers/x/test": "POST", "/api/v1/notification-providers/x/secret": "PUT",
	} {
		code, answer := p.ask(as(viewer), method, path, `{"secret": "x"}`)
		g.Expect(code).To(Equal(http.StatusForbidden), path+answer)
	}
	code, answer := p.ask(as(u), "POST", base+"/test", "")
	g.Expect(code).To(Equal(http.StatusOK), answer)
	g.Expect(hook.got()).To(HaveLen(1))
	code, _ = p.ask(as(u), "PUT", "/api/v1/notification-providers/x/secret", `{"secret": "x"}`)
	g.Expect(code).To(Equal(http.StatusForbidden))
	var all rest.Page[TopicRow]
	p.must(as(viewer), "GET", "/api/v1/notification-topics", "", &all)
	g.Expect(all.Items).To(Equal([]TopicRow{{topicStorm}, {topicTest}, {topicLeave}}))
}
