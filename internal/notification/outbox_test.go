package notification

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/record"
)

// A server that is killed after it has sent something and before it could write that down sends that once more with the
// same ID, and nothing else twice.
func checkKilledInTheMiddle(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	p := start(t, location)
	nms := newHook(t, nil)
	p.receiver(nms.URL)
	stop := p.lead()
	p.send(p.message("before"))
	p.eventually("", stateSent, 1)
	stop()
	p.send(p.message("twice"))
	p.send(p.message("after"))
	killed := &sender{Service: p.Service, lanes: map[string]bool{}, groups: map[string]int{}}
	rows, err := killed.due(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(rows).To(HaveLen(1), "the first of the lane")
	claimed, err := killed.claim(t.Context(), rows)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(claimed).To(HaveLen(1))
	e, err := p.envelope(t.Context(), rows[0])
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.sendWebhook(t.Context(), e)).To(Succeed())
	claimed, err = killed.claim(t.Context(), rows)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(claimed).To(Equal(map[string]bool{rows[0].id: false}), "nobody else gets it meanwhile")

	p.lead()
	p.eventually("", stateSent, 3)
	g.Expect(nms.names()).To(Equal([]string{"before", "twice", "twice", "after"}))
	calls := nms.got()
	g.Expect(calls[1].header.Get("Webhook-Id")).To(Equal(calls[2].header.Get("Webhook-Id")))
}

// Of two servers that both believe to lead, each delivery is sent by one.
func checkTwoSenders(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	p := start(t, location)
	nms := newHook(t, nil)
	for range 3 {
		p.receiver(nms.URL)
	}
	// What each takes from those before it was taken: two that begin one after the other may both send what is under way.
	p.run(&sender{Service: p.Service, released: true})
	p.run(&sender{Service: p.Service, released: true})
	const messages = 20
	var group sync.WaitGroup
	for i := range messages {
		group.Go(func() {
			if err := p.Send(t.Context(), p.message(fmt.Sprint("m", i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	p.eventually("", stateSent, 3*messages)
	ids := map[string]int{}
	for _, c := range nms.got() {
		ids[c.header.Get("Webhook-Id")]++
	}
	g.Expect(ids).To(HaveLen(3 * messages))
	for id, n := range ids {
		g.Expect(n).To(Equal(1), id)
	}
}

func checkRecipients(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	p := start(t, location)
	smtp, ca := newMailbox(t, v1alpha1.EmailStartTLS)
	p.mailServer(smtp, v1alpha1.EmailStartTLS, ca, "")
	no := []v1alpha1.NotificationChannel{}
	with := mailTo("a@example.com")
	adminOne, muted, none, disabled, grouped, corp, limited, other := p.user(with), p.user(with), p.user(with), p.user(with), p.user(with), p.user(with), p.user(with), p.user(with)
	p.change(muted, func() {
		muted.Spec.Notifications = &v1alpha1.UserNotifications{MutedTopics: []string{"request.*"}}
	})
	p.change(none, func() { none.Spec.Notifications = &v1alpha1.UserNotifications{Channels: &no} })
	p.change(disabled, func() { disabled.Spec.Disabled = true })
	corp.Status.DirectoryGroups = []string{"corp:ops"}
	g.Expect(hub.Client.Status().Update(t.Context(), corp)).To(Succeed())
	g.Eventually(func() []string {
		u := &v1alpha1.User{}
		_ = p.hub.Get(t.Context(), client.ObjectKeyFromObject(corp), u)
		return u.Status.DirectoryGroups
	}, wait).ShouldNot(BeEmpty())
	p.create(&v1alpha1.UserGroup{ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant, Name: "ops"}, Spec: v1alpha1.UserGroupSpec{Users: []string{grouped.Name, "nobody"}}})
	for name, m := range map[string]v1alpha1.MembershipSpec{
		"one":      {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: adminOne.Name}, Role: v1alpha1.RoleAdmin},
		"muted":    {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: muted.Name}, Role: v1alpha1.RoleAdmin},
		"none":     {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: none.Name}, Role: v1alpha1.RoleAdmin},
		"disabled": {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: disabled.Name}, Role: v1alpha1.RoleAdmin},
		"group":    {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectGroup, Name: "ops"}, Role: v1alpha1.RoleAdmin},
		"corp":     {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectGroup, Name: "corp:ops"}, Role: v1alpha1.RoleAdmin},
		"other":    {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: other.Name}, Role: v1alpha1.RoleOperator},
		"limited":  {Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: limited.Name}, Role: v1alpha1.RoleOperator, Partitions: []string{"prod"}},
	} {
		p.create(&v1alpha1.Membership{ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant, Name: name}, Spec: m})
	}
	chief := p.user(func(u *v1alpha1.User) { u.Spec.PlatformAdministrator = true })
	hook := newHook(t, nil)
	all, _ := p.receiver(hook.URL)
	byTopic, _ := p.receiver(hook.URL, func(r *v1alpha1.NotificationReceiver) { r.Spec.Topics = []string{"request.*"} })
	byName, _ := p.receiver(hook.URL, func(r *v1alpha1.NotificationReceiver) { r.Spec.Topics = []string{"workflow.*"} })
	p.receiver(hook.URL, func(r *v1alpha1.NotificationReceiver) { r.Spec.Suspended = true })
	mails, _ := p.receiver("", func(r *v1alpha1.NotificationReceiver) {
		r.Spec.Type, r.Spec.URL, r.Spec.Addresses = v1alpha1.ReceiverEmail, "", []string{"b@example.com", "a@example.com"}
	})
	p.receiver("", func(r *v1alpha1.NotificationReceiver) { // no gateway is there
		r.Spec.Type, r.Spec.URL, r.Spec.Phones = v1alpha1.ReceiverSMS, "", []string{"13800138000"}
	})
	p.send(p.message("a", outbound.Recipient{Role: v1alpha1.RoleAdmin}, outbound.Recipient{User: adminOne.Name},
		outbound.Recipient{User: "yunfan:" + grouped.Name}, outbound.Recipient{User: "who"}, outbound.Recipient{PlatformAdministrators: true}, outbound.Recipient{Receiver: byName.Name}))
	var got []string
	for _, row := range p.rows("") {
		got = append(got, row.Channel+" "+row.User+row.Receiver+" "+row.Address)
	}
	want := []string{
		"Inbox " + adminOne.Name + " ", "Email " + adminOne.Name + " ", "Inbox " + muted.Name + " ", "Inbox " + none.Name + " ",
		"Inbox " + grouped.Name + " ", "Email " + grouped.Name + " ", "Inbox " + corp.Name + " ", "Email " + corp.Name + " ", "Inbox " + chief.Name + " ",
		"Webhook " + all.Name + " ", "Webhook " + byTopic.Name + " ", "Webhook " + byName.Name + " ", "Email " + mails.Name + " a@example.com", "Email " + mails.Name + " b@example.com",
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	err := p.Send(t.Context(), p.message("b", outbound.Recipient{Receiver: "none"}))
	g.Expect(err).To(MatchError(ContainSubstring("not found")))
	g.Expect(p.Send(t.Context(), outbound.Message{Key: "x", Topic: topicLeave, To: []outbound.Recipient{{Role: v1alpha1.RoleAdmin}}})).To(MatchError(ContainSubstring("in a tenant")))
	g.Expect(p.Send(t.Context(), outbound.Message{Key: "x", Topic: "no.such"})).To(MatchError(ContainSubstring("no topic")))
	g.Expect(p.Send(t.Context(), outbound.Message{Topic: topicLeave})).To(MatchError(ContainSubstring("key")))
}

// A flood is told of once, and does not go on.
func checkStorm(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	now := time.Date(2026, 1, 31, 12, 30, 0, 0, time.UTC)
	p := start(t, location, func(o *Options) {
		o.Limits.Outside, o.Limits.Inside = 10, 15
		o.Now = func() time.Time { return now }
	})
	hook := newHook(t, nil)
	p.receiver(hook.URL)
	u := p.user()
	p.create(&v1alpha1.Membership{ObjectMeta: metav1.ObjectMeta{Namespace: p.tenant, Name: "a"}, Spec: v1alpha1.MembershipSpec{
		Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: u.Name}, Role: v1alpha1.RoleAdmin,
	}})
	for i := range 40 {
		p.send(p.message(fmt.Sprint("m", i), outbound.Recipient{User: u.Name}))
	}
	g.Expect(p.rows("&channel=Webhook&topic=" + topicLeave)).To(HaveLen(10))
	g.Expect(p.rows("&channel=Inbox&topic="+topicLeave)).To(HaveLen(14), "the one that tells of it counts")
	storm := p.rows("&topic=" + topicStorm)
	g.Expect(storm).To(HaveLen(2), "one for the webhook, one for the inbox")
	g.Expect(storm[0].Title).To(ContainSubstring(p.tenant))
	now = now.Add(time.Hour)
	p.send(p.message("later", outbound.Recipient{User: u.Name}))
	g.Expect(p.rows("&channel=Webhook&topic=" + topicLeave)).To(HaveLen(11))
}

func checkBoundedAndTrimmed(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	now := time.Now()
	p := start(t, location, func(o *Options) {
		o.Limits.Waiting, o.Limits.Messages, o.Limits.Age = 3, 4, 24*time.Hour
		o.Now = func() time.Time { return now }
	})
	hook := newHook(t, nil)
	p.receiver(hook.URL)
	for i := range 5 {
		m := p.message(fmt.Sprint("m", i))
		for k := range 200 {
			m.Data[fmt.Sprint("long", k)] = string(make([]rune, 100_000))
		}
		p.send(m)
		now = now.Add(time.Millisecond)
	}
	dead := p.rows("&state=Dead")
	g.Expect(dead).To(HaveLen(2), "no more than three wait")
	g.Expect(dead[0].Error).To(ContainSubstring("wait for this target already"))
	var size int
	g.Expect(p.Records.View(t.Context(), func(tx *record.Tx) error {
		_, err := tx.One(t.Context(), []any{&size}, `SELECT MAX(LENGTH(data)) FROM notification_messages`)
		return err
	})).To(Succeed())
	g.Expect(size).To(BeNumerically("<", 2*maxPieces*maxValue))
	g.Expect(p.trim(t.Context())).To(Succeed())
	g.Expect(p.rows("")).To(HaveLen(4), "the oldest has gone, with its delivery")
	now = now.Add(25 * time.Hour)
	p.send(p.message("new"))
	g.Expect(p.trim(t.Context())).To(Succeed())
	g.Expect(p.rows("")).To(HaveLen(1))
}

// What has failed for a day is kept with its reason, and an administrator can have it sent after all.
func checkDeadAndRetried(t *testing.T, location string) {
	t.Helper()
	g := NewWithT(t)
	p := start(t, location, func(o *Options) { o.Schedule.GiveUp = time.Millisecond })
	p.lead()
	var mu sync.Mutex
	works := false
	hook := newHook(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		mu.Lock()
		defer mu.Unlock()
		if !works {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	p.receiver(hook.URL)
	p.send(p.message("a"))
	row := p.eventually("", stateDead, 1)[0]
	g.Expect(row.Error).To(ContainSubstring("502"))
	g.Expect(row.Finished).NotTo(BeNil())
	path := "/api/v1/notifications/" + row.ID + "/retry"
	code, _ := p.ask(as(p.user()), "POST", path, "")
	g.Expect(code).To(Equal(http.StatusNotFound), "others do not even learn that it is there")
	mu.Lock()
	works = true
	mu.Unlock()
	var again Row
	p.must(admin, "POST", path, "", &again)
	g.Expect(again.State).To(Equal(statePending))
	p.eventually("", stateSent, 1)
	code, says := p.ask(admin, "POST", path, "")
	g.Expect(code).To(Equal(http.StatusBadRequest), says)
}

// What has changed since a message was handed over counts when it is sent.
func TestOPS06_ChangedMeanwhile(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	box, ca := newMailbox(t, v1alpha1.EmailStartTLS)
	p.mailServer(box, v1alpha1.EmailStartTLS, ca, "")
	moved, left := p.user(mailTo("old@example.com")), p.user(mailTo("left@example.com"))
	hook := newHook(t, nil)
	r, _ := p.receiver(hook.URL)
	p.send(p.message("a", outbound.Recipient{User: moved.Name}, outbound.Recipient{User: left.Name}))
	p.change(moved, func() { moved.Spec.Email = "new@example.com" })
	p.change(left, func() { left.Spec.Disabled = true })
	p.change(r, func() { r.Spec.Suspended = true })
	p.lead()
	g.Expect(p.eventually("&channel=Email&name="+moved.Name, stateSent, 1)).To(HaveLen(1))
	g.Expect(box.got()[0].to).To(Equal("new@example.com"))
	g.Expect(p.eventually("&channel=Email&name="+left.Name, stateDead, 1)[0].Error).To(ContainSubstring("disabled"))
	g.Expect(p.eventually("&channel=Webhook", stateDead, 1)[0].Error).To(ContainSubstring("suspended"))
	g.Expect(hook.got()).To(BeEmpty())
}

// Without its database the platform does not say that a message is safe.
func TestOPS06_SendNeedsTheRecords(t *testing.T) {
	p := start(t, sqlite(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Send(ctx, p.message("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := p.Records.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Send(t.Context(), p.message("a")); err == nil {
		t.Error("a message was taken that is kept nowhere")
	}
}
