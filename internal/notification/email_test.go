package notification

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/testkit"
)

const password = "geheimes-passwort-4711"

// mailbox is a mail server.
type mailbox struct {
	host string
	port int32

	mu     sync.Mutex
	mails  []received
	refuse []error // of DATA, one after the other
	rcpt   []error
	auth   bool
}

type received struct {
	from, to string
	secure   bool
	text     string
}

func (m *mailbox) got() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]received{}, m.mails...)
}

func (m *mailbox) next(list *[]error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(*list) == 0 {
		return nil
	}
	err := (*list)[0]
	*list = (*list)[1:]
	return err
}

// newMailbox starts a mail server with a certificate that the CA given back has made.
func newMailbox(t *testing.T, security v1alpha1.EmailSecurity) (m *mailbox, ca string) {
	t.Helper()
	certificate, ca := selfSigned(t)
	m = &mailbox{}
	server := smtp.NewServer(m)
	server.Domain, server.ErrorLog = "mail.example.com", quiet{}
	settings := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.host, m.port = "127.0.0.1", int32(listener.Addr().(*net.TCPAddr).Port)
	switch security {
	case v1alpha1.EmailStartTLS:
		server.TLSConfig = settings
	case v1alpha1.EmailTLS:
		listener = tls.NewListener(listener, settings)
	case v1alpha1.EmailPlain:
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return m, ca
}

// quiet drops what servers say of broken connections.
type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// NewSession begins with a client.
func (m *mailbox) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, secure := c.TLSConnectionState()
	return &session{m: m, secure: secure}, nil
}

type session struct {
	m            *mailbox
	secure, in   bool
	from, sendTo string
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, given string) error {
		if user != "yunfan" || given != password {
			// Some servers repeat what they were shown.
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no user " + user + " with " + given}
		}
		s.in = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.m.auth && !s.in {
		return smtp.ErrAuthRequired
	}
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.sendTo = to
	return s.m.next(&s.m.rcpt)
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.m.mu.Lock()
	s.m.mails = append(s.m.mails, received{s.from, s.sendTo, s.secure, string(text)})
	s.m.mu.Unlock()
	return s.m.next(&s.m.refuse)
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

// mailServer makes a provider, with its password.
func (p *platform) mailServer(m *mailbox, security v1alpha1.EmailSecurity, ca, secret string) *v1alpha1.NotificationProvider {
	p.t.Helper()
	o := &v1alpha1.NotificationProvider{
		ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(p.t)},
		Spec: v1alpha1.NotificationProviderSpec{Type: v1alpha1.ProviderEmail, Email: &v1alpha1.EmailProvider{
			Host: m.host, Port: m.port, Security: security, From: "yunfan@example.com", CABundle: ca,
		}},
	}
	if secret != "" {
		o.Spec.Email.Username = "yunfan"
	}
	p.create(o)
	if secret != "" {
		var written SecretWritten
		p.must(admin, "PUT", "/api/v1/notification-providers/"+o.Name+"/secret", `{"secret": "`+secret+`"}`, &written)
	}
	return o
}

func TestOPS06_Mail(t *testing.T) {
	for name, tc := range map[string]struct {
		security v1alpha1.EmailSecurity
		secret   string
		language v1alpha1.NotificationLanguage
	}{
		"StartTLS": {v1alpha1.EmailStartTLS, password, v1alpha1.Chinese},
		"TLS":      {v1alpha1.EmailTLS, password, v1alpha1.English},
		"Plain":    {v1alpha1.EmailPlain, "", v1alpha1.Chinese},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			p := start(t, sqlite(t))
			p.lead()
			box, ca := newMailbox(t, tc.security)
			box.auth = tc.secret != ""
			p.mailServer(box, tc.security, ca, tc.secret)
			u := p.user(mailTo("li@example.com"), func(u *v1alpha1.User) { u.Spec.Notifications = &v1alpha1.UserNotifications{Language: tc.language} })
			p.send(p.message("a", outbound.Recipient{User: u.Name}))
			p.eventually("", stateSent, 2)
			row := p.rows("&channel=Email")[0]
			g.Expect(box.got()).To(HaveLen(1))
			got := box.got()[0]
			g.Expect([]string{got.from, got.to}).To(Equal([]string{"yunfan@example.com", "li@example.com"}))
			g.Expect(got.secure).To(Equal(tc.security != v1alpha1.EmailPlain))
			m, err := mail.ReadMessage(strings.NewReader(got.text))
			g.Expect(err).NotTo(HaveOccurred())
			subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
			g.Expect(err).NotTo(HaveOccurred())
			body := decoded(t, m)
			if tc.language == v1alpha1.Chinese {
				g.Expect(m.Header.Get("Subject")).To(HavePrefix("=?UTF-8?"))
				g.Expect(subject).To(Equal("申请 a 已批准"))
				g.Expect(body).To(ContainSubstring("申请 a：可以"))
			} else {
				g.Expect(subject).To(Equal("Request a is approved"))
				g.Expect(body).To(ContainSubstring("Request a: 可以"))
			}
			g.Expect(body).To(ContainSubstring("https://yunfan.example.com/console/requests/a"))
			g.Expect(m.Header.Get("Message-Id")).To(Equal("<" + row.ID + "@example.com>"))
			g.Expect(m.Header.Get("Auto-Submitted")).To(Equal("auto-generated"))
			_, err = m.Header.Date()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(m.Header.Get("Content-Type")).To(ContainSubstring("text/plain; charset=UTF-8"))
		})
	}
}

// A certificate that nobody trusts, or for somebody else, gets neither mail nor password.
func TestOPS06_MailServerIsTheOneMeant(t *testing.T) {
	for name, security := range map[string]v1alpha1.EmailSecurity{"StartTLS": v1alpha1.EmailStartTLS, "TLS": v1alpha1.EmailTLS} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			p := start(t, sqlite(t))
			box, _ := newMailbox(t, security)
			_, other := selfSigned(t)
			provider := p.mailServer(box, security, other, password)
			var tried Tried
			p.must(admin, "POST", "/api/v1/notification-providers/"+provider.Name+"/test", `{"to": "li@example.com"}`, &tried)
			g.Expect(tried.Sent).To(BeFalse())
			g.Expect(tried.Error).To(ContainSubstring("certificate"))
			g.Expect(box.got()).To(BeEmpty())
		})
	}
	t.Run("No StartTLS", func(t *testing.T) {
		g := NewWithT(t)
		p := start(t, sqlite(t))
		box, ca := newMailbox(t, v1alpha1.EmailPlain)
		provider := p.mailServer(box, v1alpha1.EmailStartTLS, ca, password)
		var tried Tried
		p.must(admin, "POST", "/api/v1/notification-providers/"+provider.Name+"/test", `{"to": "li@example.com"}`, &tried)
		g.Expect(tried.Error).To(ContainSubstring("STARTTLS"))
		g.Expect(box.got()).To(BeEmpty())
	})
}

func TestOPS06_MailIsRefused(t *testing.T) {
	grey := &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "greylisted, come again"}
	nobody := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	content := &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "no"}
	for name, tc := range map[string]struct {
		reason     string
		rcpt, data []error
		state      string
		attempts   int
		says       string
	}{
		"Greylisted":  {"Later it is taken", []error{grey, grey}, nil, stateSent, 3, ""},
		"Busy":        {"Also at the end", nil, []error{grey}, stateSent, 2, ""},
		"No such":     {"Trying again is of no use", []error{nobody}, nil, stateDead, 1, "no such user"},
		"Not wanted":  {"", nil, []error{content}, stateDead, 1, "554"},
		"Broken off":  {"", nil, []error{errors.New("broken")}, stateDead, 1, "554"},
		"Grey, never": {"", []error{grey, nobody}, nil, stateDead, 2, "550"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			p := start(t, sqlite(t))
			box, ca := newMailbox(t, v1alpha1.EmailStartTLS)
			box.rcpt, box.refuse = tc.rcpt, tc.data
			p.mailServer(box, v1alpha1.EmailStartTLS, ca, password)
			u := p.user(mailTo("li@example.com"))
			p.lead()
			p.send(p.message("a", outbound.Recipient{User: u.Name}))
			row := p.eventually("&channel=Email", tc.state, 1)[0]
			g.Expect(row.Attempts).To(BeEquivalentTo(tc.attempts), tc.reason)
			g.Expect(row.Error).To(ContainSubstring(tc.says))
			ids := map[string]bool{}
			for _, one := range box.got() {
				m, err := mail.ReadMessage(strings.NewReader(one.text))
				g.Expect(err).NotTo(HaveOccurred())
				ids[m.Header.Get("Message-Id")] = true
			}
			g.Expect(len(ids)).To(BeNumerically("<=", 1), "one mail, however often it is sent")
		})
	}
}

// A wrong password is told without being repeated, wherever one looks, and the mail waits for the right one.
func TestSEC09_OPS06_PasswordIsNeverShown(t *testing.T) {
	g := NewWithT(t)
	const wrong = "falsches-passwort-0815"
	p := start(t, sqlite(t))
	p.lead()
	box, ca := newMailbox(t, v1alpha1.EmailStartTLS)
	box.auth = true
	provider := p.mailServer(box, v1alpha1.EmailStartTLS, ca, wrong)
	u := p.user(mailTo("li@example.com"))
	p.send(p.message("a", outbound.Recipient{User: u.Name}))
	var row Row
	g.Eventually(func() string {
		row = p.rows("&channel=Email")[0]
		return row.Error
	}, wait).Should(ContainSubstring("535"))
	g.Expect(row.State).To(Equal(statePending))
	_, shown := p.ask(admin, "GET", "/api/v1/notifications", "")
	g.Expect(shown).NotTo(ContainSubstring(wrong))
	code, shown := p.ask(admin, "POST", "/api/v1/notification-providers/"+provider.Name+"/test", `{"to": "li@example.com"}`)
	g.Expect(code).To(Equal(200))
	g.Expect(shown).To(And(ContainSubstring("535"), Not(ContainSubstring(wrong))))
	for _, bad := range []string{`{"secret": "` + wrong, `{"secret": {"a": "` + wrong + `"}}`, `{"secret": "` + wrong + `\r\nRCPT"}`, `{"secret": ""}`, `{"password": "` + wrong + `"}`} {
		code, shown := p.ask(admin, "PUT", "/api/v1/notification-providers/"+provider.Name+"/secret", bad)
		g.Expect(code).To(Equal(400), bad)
		g.Expect(shown).NotTo(ContainSubstring(wrong))
	}
	code, shown = p.ask(admin, "PUT", "/api/v1/notification-providers/"+provider.Name+"/secret", `{"secret": "`+password+`"}`)
	g.Expect(code).To(Equal(200))
	g.Expect(shown).To(And(ContainSubstring(`"writtenBy":"root"`), Not(ContainSubstring(password))))
	p.eventually("&channel=Email", stateSent, 1)
	secret := &corev1.Secret{}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: testkit.PlatformNamespace, Name: providerSecret(provider.Name)}, secret)).To(Succeed())
	g.Expect(secret.OwnerReferences).To(HaveLen(1), "it goes with its provider")
}

// A mail server that stops talking at any point holds its own mail up, and nothing else.
func TestOPS06_MailServerHangs(t *testing.T) {
	for _, stage := range []string{"banner", "EHLO", "STARTTLS", "handshake", "MAIL", "RCPT", "DATA", "end"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			p := start(t, sqlite(t), func(o *Options) { o.Schedule.Attempt = time.Second })
			box, ca := hangs(t, stage)
			provider := p.mailServer(box, v1alpha1.EmailStartTLS, ca, "")
			began := time.Now()
			var tried Tried
			p.must(admin, "POST", "/api/v1/notification-providers/"+provider.Name+"/test", `{"to": "li@example.com"}`, &tried)
			if took := time.Since(began); tried.Sent || took > 20*time.Second {
				t.Errorf("took %s: %+v", took, tried)
			}
		})
	}
}

// hangs is a mail server that says nothing more from a stage on.
func hangs(t *testing.T, stage string) (*mailbox, string) {
	t.Helper()
	certificate, ca := selfSigned(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				talk(c, stage, certificate)
				<-done
			}()
		}
	}()
	return &mailbox{host: "127.0.0.1", port: int32(listener.Addr().(*net.TCPAddr).Port)}, ca
}

func talk(c net.Conn, stage string, certificate tls.Certificate) {
	if stage == "banner" {
		return
	}
	fmt.Fprint(c, "220 hello\r\n")
	lines := bufio.NewReader(c)
	inData := false
	for {
		line, err := lines.ReadString('\n')
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		word = strings.ToUpper(word)
		switch {
		case err != nil || word == stage || inData && strings.TrimSpace(line) == "." && stage == "end":
			return
		case inData:
		case word == "EHLO":
			fmt.Fprint(c, "250-mail\r\n250 STARTTLS\r\n")
		case word == "STARTTLS":
			fmt.Fprint(c, "220 go on\r\n")
			if stage == "handshake" {
				return
			}
			secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
			c, lines = secure, bufio.NewReader(secure)
		case word == "DATA":
			inData = true
			fmt.Fprint(c, "354 go on\r\n")
		default:
			fmt.Fprint(c, "250 ok\r\n")
		}
	}
}

func TestOPS06_HeadersCannotBeInjected(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	p.lead()
	box, ca := newMailbox(t, v1alpha1.EmailStartTLS)
	p.mailServer(box, v1alpha1.EmailStartTLS, ca, "")
	u, evil := p.user(mailTo("li@example.com")), p.user(mailTo("li@example.com\r\nBcc: all@example.com"))
	m := p.message("a", outbound.Recipient{User: u.Name}, outbound.Recipient{User: evil.Name})
	m.Data["name"] = "x\r\nBcc: all@example.com\r\n\r\n.\r\nMAIL FROM:<a@b>"
	m.Data["comment"] = "a\r\n.\r\nRCPT TO:<all@example.com>\r\n\x00\x1b[31m"
	p.send(m)
	p.eventually("&channel=Email", stateSent, 1)
	g.Expect(box.got()).To(HaveLen(1))
	got, err := mail.ReadMessage(strings.NewReader(box.got()[0].text))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.Header).NotTo(HaveKey("Bcc"))
	g.Expect(box.got()[0].to).To(Equal("li@example.com"))
	g.Expect(decoded(t, got)).To(And(ContainSubstring("RCPT TO:<all@example.com>"), Not(ContainSubstring("\x1b"))), "it is text and nothing else")
}

// The next provider is used where the first does not work.
func TestOPS06_SecondMailServer(t *testing.T) {
	p := start(t, sqlite(t))
	p.lead()
	dead, ca := newMailbox(t, v1alpha1.EmailStartTLS)
	dead.port = 1
	p.mailServer(dead, v1alpha1.EmailStartTLS, ca, "")
	box, ca := newMailbox(t, v1alpha1.EmailStartTLS)
	p.mailServer(box, v1alpha1.EmailStartTLS, ca, "")
	p.send(p.message("a", outbound.Recipient{User: p.user(mailTo("li@example.com")).Name}))
	p.eventually("&channel=Email", stateSent, 1)
	if got := box.got(); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}
