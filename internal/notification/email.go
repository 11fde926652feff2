package notification

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/wneessen/go-mail"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Default ports of mail servers.
const (
	portStartTLS, portTLS, portPlain = 587, 465, 25
	// maxDialogue is how much a mail server may say, in bytes.
	maxDialogue = 1 << 20
)

// toUser finds out where a user is reached now.
func (s *Service) toUser(ctx context.Context, r row, e *envelope) error {
	user := &v1alpha1.User{}
	err := s.hub.Get(ctx, client.ObjectKey{Name: r.name}, user)
	switch {
	case apierrors.IsNotFound(err) || err == nil && string(user.UID) != r.uid:
		return permanent("there is no user %s any more", r.name)
	case err != nil:
		return fmt.Errorf("looking up user %s: %w", r.name, err)
	case user.Spec.Disabled:
		return permanent("user %s is disabled", r.name)
	}
	if e.Address = addressOf(user, r.channel); e.Address == "" {
		return permanent("user %s has no address for this channel any more", r.name)
	}
	e.Language = languageOf(user)
	return nil
}

// provider chooses the one to be used: the first by name, and with each attempt the next.
func (s *Service) provider(ctx context.Context, e *envelope, kind v1alpha1.NotificationProviderType) (*v1alpha1.NotificationProvider, error) {
	if e.Provider != nil {
		return e.Provider, nil
	}
	all, err := s.providers(ctx, kind)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, sick("there is no NotificationProvider of type %s: a platform administrator makes one", kind)
	}
	return all[int(e.Attempt-1)%len(all)], nil
}

// sendEmail hands a mail to a mail server.
func (s *Service) sendEmail(ctx context.Context, e *envelope) error {
	provider, err := s.provider(ctx, e, v1alpha1.ProviderEmail)
	if err != nil {
		return err
	}
	password, err := s.secretOf(ctx, provider)
	if err != nil {
		return err
	}
	if provider.Spec.Email.Username != "" && password == "" {
		return sick("provider %s has a username and no password: write it with PUT …/notification-providers/%s/secret", provider.Name, provider.Name)
	}
	message, err := s.mail(e, provider.Spec.Email.From)
	if err != nil {
		return permanent("writing the mail: %w", err)
	}
	if err := s.submit(ctx, provider.Spec.Email, password, message); err != nil {
		return scrubbed(judgeMail(fmt.Errorf("provider %s: %w", provider.Name, err)), password)
	}
	return nil
}

// mail writes a mail. Its Message-ID is the same in each attempt, and Auto-Submitted keeps programs from answering.
func (s *Service) mail(e *envelope, from string) (*mail.Msg, error) {
	if !isMail(e.Address) || !isMail(from) {
		return nil, errors.New("an address is none")
	}
	m := mail.NewMsg(mail.WithCharset(mail.CharsetUTF8), mail.WithNoDefaultUserAgent())
	if err := errors.Join(m.From(from), m.To(e.Address)); err != nil {
		return nil, errors.New("an address is none")
	}
	_, domain, _ := strings.Cut(from, "@")
	m.SetMessageIDWithValue(e.ID + "@" + domain)
	m.SetDateWithValue(e.Created)
	m.Subject(e.Texts.Title[e.Language])
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader("X-Auto-Response-Suppress", "All")
	m.SetGenHeader("X-Yunfan-Topic", e.Topic)
	if e.Tenant != "" {
		m.SetGenHeader("X-Yunfan-Tenant", e.Tenant)
	}
	text := e.Texts.Text[e.Language]
	if link := s.link(e); link != "" {
		text += "\n\n" + link
	}
	m.SetBodyString(mail.TypeTextPlain, text+"\n")
	return m, nil
}

// submit talks with a mail server. Whatever it does, it ends with ctx.
func (s *Service) submit(ctx context.Context, p *v1alpha1.EmailProvider, password string, message *mail.Msg) error {
	roots, err := rootsOf(p.CABundle)
	if err != nil {
		return fmt.Errorf("reading caBundle: %w", err)
	}
	attempt := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	settings := &tls.Config{ServerName: p.Host, RootCAs: roots, MinVersion: tls.VersionTLS12}
	dial := func(dialing context.Context, _, address string) (net.Conn, error) {
		connection, err := s.Policy.Dial(dialing, address)
		if err != nil {
			return nil, err
		}
		opened := &dialogue{Conn: connection, left: maxDialogue}
		// Go-mail sets its own deadline for each step, and leaves connections open where a step fails: one that is closed
		// with the attempt ends all of them.
		context.AfterFunc(ctx, func() { _ = opened.Close() })
		if p.Security != v1alpha1.EmailTLS {
			return opened, nil
		}
		secure := tls.Client(opened, settings)
		if err := secure.HandshakeContext(dialing); err != nil {
			return nil, fmt.Errorf("beginning TLS: %w", err)
		}
		return secure, nil
	}
	options := []mail.Option{
		mail.WithPort(portOf(p)), mail.WithDialContextFunc(dial), mail.WithTLSConfig(settings), mail.WithTimeout(s.Schedule.Attempt),
		mail.WithoutNoop(), mail.WithoutRset(),
	}
	switch p.Security {
	case v1alpha1.EmailTLS:
		options = append(options, mail.WithSSL())
	case v1alpha1.EmailPlain:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if p.Username != "" {
		options = append(options, mail.WithUsername(p.Username), mail.WithPassword(password),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthPlain, mail.SMTPAuthLogin))
	}
	server, err := mail.NewClient(p.Host, options...)
	if err != nil {
		return fmt.Errorf("preparing to talk with the mail server: %w", err)
	}
	err = server.DialAndSendWithContext(ctx, message)
	if message.IsDelivered() {
		return nil // what went wrong afterwards does not bring it back
	}
	if err != nil && attempt.Err() != nil {
		return fmt.Errorf("the mail server did not answer in time: %w", err)
	}
	return err
}

func portOf(p *v1alpha1.EmailProvider) int {
	switch {
	case p.Port != 0:
		return int(p.Port)
	case p.Security == v1alpha1.EmailTLS:
		return portTLS
	case p.Security == v1alpha1.EmailPlain:
		return portPlain
	}
	return portStartTLS
}

// judgeMail says what an error means: the mail server's last word on this mail, or something that may pass.
func judgeMail(err error) error {
	refused, ok := errors.AsType[*mail.SendError](err)
	if !ok {
		return &failure{error: err, sick: true}
	}
	const lasting = 500
	f := &failure{error: err}
	switch refused.Reason {
	case mail.ErrSMTPRcptTo, mail.ErrSMTPData, mail.ErrSMTPDataClose, mail.ErrSMTPMailFrom:
		f.permanent = refused.ErrorCode() >= lasting
	default:
	}
	return f
}

// dialogue is a connection on which the other side may say only so much.
type dialogue struct {
	net.Conn

	left int
}

// Read fails once the other side has said too much.
func (d *dialogue) Read(p []byte) (int, error) {
	if d.left <= 0 {
		return 0, errors.New("the mail server says too much")
	}
	n, err := d.Conn.Read(p[:min(len(p), d.left)])
	d.left -= n
	return n, err //nolint:wrapcheck // io.EOF must stay what it is
}
