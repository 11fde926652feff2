package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	ldapPort, ldapsPort = 389, 636
	defaultLDAPTimeout  = 10 * time.Second
	// defaultGroupFilter finds groups of the three usual kinds.
	defaultGroupFilter = "(|(member={dn})(uniqueMember={dn})(memberUid={user}))"
	// ldapAtOnce bounds what a directory that hangs can hold up.
	ldapAtOnce = 32
)

// ldapSlots are taken by sign-ins while they ask a directory.
var ldapSlots = make(chan struct{}, ldapAtOnce)

// directory finds one of a type.
func (s *Service) directory(ctx context.Context, name string, want v1alpha1.DirectoryType, into *v1alpha1.Directory) error {
	err := s.hub.Get(ctx, client.ObjectKey{Name: name}, into)
	if apierrors.IsNotFound(err) || err == nil && into.Spec.Type != want {
		return apierrors.NewBadRequest(fmt.Sprintf("there is no directory %.63q of type %s: GET /api/v1/directories lists them", name, want))
	}
	if err != nil {
		return fmt.Errorf("looking up directory %s: %w", name, err)
	}
	return nil
}

// proveLDAP asks a directory whether the password is the user's, and gives him as the directory knows him.
func (s *Service) proveLDAP(ctx context.Context, directory *v1alpha1.Directory, name, password string) (*v1alpha1.User, error) {
	select {
	case ldapSlots <- struct{}{}:
		defer func() { <-ldapSlots }()
	default:
		return nil, apierrors.NewTooManyRequests("too many sign-ins at once: try again in a few seconds", 2)
	}
	p, err := s.askLDAP(ctx, directory, name, password)
	if err != nil {
		return nil, outside(ctx, directory.Name, err)
	}
	return s.admit(ctx, directory, p)
}

func (s *Service) askLDAP(ctx context.Context, directory *v1alpha1.Directory, name, password string) (person, error) {
	l, err := s.dialLDAP(ctx, directory)
	if err != nil {
		return person{}, err
	}
	defer l.close()
	return l.find(name, password)
}

// outside is what somebody who is not signed in is told of a directory's trouble; the log has the rest.
func outside(ctx context.Context, directory string, err error) error {
	var waiting *reconcile.Waiting
	var stalled *reconcile.Stalled
	if !errors.As(err, &waiting) && !errors.As(err, &stalled) {
		return err
	}
	ctrl.LoggerFrom(ctx).Error(err, "A directory cannot be asked", "directory", directory)
	return apierrors.NewServiceUnavailable(fmt.Sprintf("directory %s cannot be asked now: try again, or ask an administrator to look at its status", directory))
}

// ldapConn is a connection to a directory, bound as the platform's account. All of it ends at one deadline.
type ldapConn struct {
	*ldap.Conn
	name     string
	spec     *v1alpha1.LDAPDirectory
	password string
	stop     func()
}

func (l *ldapConn) close() {
	l.stop()
	_ = l.Close() // nothing is left to be lost
}

func (s *Service) dialLDAP(ctx context.Context, directory *v1alpha1.Directory) (*ldapConn, error) {
	spec := directory.Spec.LDAP
	password, err := s.secret(ctx, spec.BindPasswordSecretRef, passwordEntry)
	if err != nil {
		return nil, reconcile.Wait(v1alpha1.ReasonCredentialsInvalid, time.Minute, "the account of directory %s: %w", directory.Name, err)
	}
	config, err := ldapTLS(spec)
	if err != nil {
		return nil, err
	}
	timeout := defaultLDAPTimeout
	if spec.TimeoutSeconds > 0 {
		timeout = time.Duration(spec.TimeoutSeconds) * time.Second
	}
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	port := int(spec.Port)
	if port == 0 {
		port = ldapPort
		if spec.Security == v1alpha1.LDAPS {
			port = ldapsPort
		}
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(spec.Host, strconv.Itoa(port)))
	if err != nil {
		cancel()
		return nil, unreachable(directory.Name, err)
	}
	// A directory that accepts and never answers, or stops in the middle, is given up in time whatever it is asked.
	if err := raw.SetDeadline(deadline); err != nil {
		cancel()
		raw.Close()
		return nil, unreachable(directory.Name, err)
	}
	if spec.Security == v1alpha1.LDAPS {
		secured := tls.Client(raw, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			cancel()
			raw.Close()
			return nil, unreachable(directory.Name, err)
		}
		raw = secured
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn := ldap.NewConn(raw, spec.Security == v1alpha1.LDAPS)
	conn.SetTimeout(timeout)
	conn.Start()
	l := &ldapConn{Conn: conn, name: directory.Name, spec: spec, password: password, stop: func() { stop(); cancel() }}
	if spec.Security == v1alpha1.LDAPStartTLS || spec.Security == "" {
		if err := conn.StartTLS(config); err != nil {
			l.close()
			return nil, unreachable(directory.Name, err)
		}
	}
	if err := l.bindAccount(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func ldapTLS(spec *v1alpha1.LDAPDirectory) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: spec.Host}
	if spec.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(spec.CA)) {
			return nil, reconcile.Stall(v1alpha1.ReasonInvalid, "the directory's ca holds no certificate in PEM: put it right")
		}
	}
	return config, nil
}

// unreachable is what somebody is told whose directory does not answer.
func unreachable(directory string, err error) error {
	return reconcile.Wait(v1alpha1.ReasonUnreachable, time.Minute, "directory %s does not answer as it should, try again or ask an administrator: %w", directory, err)
}

// bindAccount makes the connection the platform's account's again.
func (l *ldapConn) bindAccount() error {
	if l.spec.BindDN == "" {
		if err := l.UnauthenticatedBind(""); err != nil {
			return unreachable(l.name, err)
		}
		return nil
	}
	if err := l.Bind(l.spec.BindDN, l.password); wrongCredentials(err) {
		return reconcile.Wait(v1alpha1.ReasonCredentialsInvalid, time.Minute, "directory %s refuses the platform's account %s: an administrator must put its password right", l.name, l.spec.BindDN)
	} else if err != nil {
		return unreachable(l.name, err)
	}
	return nil
}

func wrongCredentials(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultInsufficientAccessRights, ldap.ErrorEmptyPassword)
}

// find searches for a user and tries his password. Referrals to other servers are not followed: they would get it.
func (l *ldapConn) find(name, password string) (person, error) {
	if password == "" {
		return person{}, errWrong // a bind without password succeeds, as nobody
	}
	a := attributes(l.spec.Attributes)
	filter := l.spec.Filter
	if filter == "" {
		filter = "(objectClass=person)"
	}
	const atMost = 2 // one more than may be found
	result, err := l.Search(ldap.NewSearchRequest(l.spec.BaseDN, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, atMost, 0, false,
		fmt.Sprintf("(&%s(%s=%s))", filter, a.User, ldap.EscapeFilter(name)),
		[]string{a.User, a.ID, a.Name, a.Surname, a.Mail, a.Groups}, nil))
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject), err == nil && len(result.Entries) == 0:
		return person{}, errWrong
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded), err == nil && len(result.Entries) > 1:
		return person{}, refused("directory %s has several users with this name: an administrator must give a narrower baseDN or filter", l.name)
	case err != nil:
		return person{}, unreachable(l.name, err)
	}
	entry := result.Entries[0]
	if err := l.Bind(entry.DN, password); wrongCredentials(err) {
		return person{}, errWrong
	} else if err != nil {
		return person{}, unreachable(l.name, err)
	}
	p := person{
		name: name, id: identifier(entry, a.ID), fullName: entry.GetEqualFoldAttributeValue(a.Name), mail: entry.GetEqualFoldAttributeValue(a.Mail),
	}
	if !slices.ContainsFunc(entry.GetEqualFoldAttributeValues(a.User), func(v string) bool { return strings.EqualFold(v, name) }) {
		// Servers compare with rules of their own: what is not the name letter by letter may be somebody else's.
		return person{}, errWrong
	}
	if p.fullName == "" {
		p.fullName = entry.GetEqualFoldAttributeValue(a.Surname)
	}
	p.groups, err = l.groups(entry, name, a)
	return p, err
}

// groups of a user: those that he names himself, and those that name him.
func (l *ldapConn) groups(entry *ldap.Entry, name string, a v1alpha1.LDAPAttributes) ([]string, error) {
	var found []string
	below, _ := ldap.ParseDN(l.spec.GroupBaseDN)
	for _, value := range entry.GetEqualFoldAttributeValues(a.Groups) {
		dn, err := ldap.ParseDN(value)
		switch {
		case err != nil || len(dn.RDNs) == 0:
			found = append(found, value)
		case l.spec.GroupBaseDN != "" && (below == nil || !below.AncestorOfFold(dn)):
			// Only groups of that place count: one of the same name elsewhere is another.
		default:
			found = append(found, dn.RDNs[0].Attributes[0].Value)
		}
	}
	if l.spec.GroupBaseDN == "" {
		return found, nil
	}
	if err := l.bindAccount(); err != nil {
		return nil, err
	}
	filter := l.spec.GroupFilter
	if filter == "" {
		filter = defaultGroupFilter
	}
	filter = strings.NewReplacer("{dn}", ldap.EscapeFilter(entry.DN), "{user}", ldap.EscapeFilter(name)).Replace(filter)
	result, err := l.Search(ldap.NewSearchRequest(l.spec.GroupBaseDN, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, maxGroups, 0, false,
		filter, []string{a.GroupName}, nil))
	if err != nil && !ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded) {
		return nil, unreachable(l.name, err)
	}
	for _, group := range result.Entries {
		found = append(found, group.GetEqualFoldAttributeValue(a.GroupName))
	}
	return found, nil
}

// identifier gives an attribute as text; objectGUID, for one, is bytes.
func identifier(entry *ldap.Entry, attribute string) string {
	raw := entry.GetEqualFoldRawAttributeValue(attribute)
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if strings.EqualFold(attribute, "objectGUID") || !utf8.Valid(raw) || strings.ContainsFunc(string(raw), unprintable) {
		return hex.EncodeToString(raw)
	}
	return string(raw)
}

// attributes fills in the defaults, which only the API server knows otherwise.
func attributes(a v1alpha1.LDAPAttributes) v1alpha1.LDAPAttributes {
	for _, field := range []struct {
		name     *string
		standard string
	}{
		{&a.User, "uid"}, {&a.ID, "entryUUID"}, {&a.Name, "cn"}, {&a.Surname, "sn"}, {&a.Mail, "mail"}, {&a.Groups, "memberOf"}, {&a.GroupName, "cn"},
	} {
		if *field.name == "" {
			*field.name = field.standard
		}
	}
	return a
}

// probeLDAP says whether a directory answers, knows the platform's account and has the place where users are.
func (s *Service) probeLDAP(ctx context.Context, directory *v1alpha1.Directory) error {
	l, err := s.dialLDAP(ctx, directory)
	if err != nil {
		return err
	}
	defer l.close()
	for _, base := range []string{directory.Spec.LDAP.BaseDN, directory.Spec.LDAP.GroupBaseDN} {
		if base == "" {
			continue
		}
		result, err := l.Search(ldap.NewSearchRequest(base, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)", []string{"1.1"}, nil))
		if ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax) || err == nil && len(result.Entries) == 0 {
			return reconcile.Wait(v1alpha1.ReasonInvalid, time.Minute, "the directory has no %s, or the account may not see it: put baseDN or groupBaseDN right", base)
		}
		if err != nil {
			return unreachable(directory.Name, err)
		}
	}
	for _, filter := range []string{directory.Spec.LDAP.Filter, directory.Spec.LDAP.GroupFilter} {
		if _, err := ldap.CompileFilter(strings.NewReplacer("{dn}", "x", "{user}", "x").Replace(filter)); filter != "" && err != nil {
			return reconcile.Stall(v1alpha1.ReasonInvalid, "the filter %s cannot be read: %w", filter, err)
		}
	}
	return nil
}
