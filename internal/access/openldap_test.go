package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	. "github.com/onsi/gomega"
)

const (
	ldapBase     = "dc=example,dc=com"
	ldapRoot     = "cn=root," + ldapBase
	ldapAccount  = "cn=yunfan," + ldapBase
	ldapPassword = "the-account-of-yunfan"
)

// openLDAP is Debian's slapd with data, ports and a CA of its own.
type openLDAP struct {
	plain, secure int
	ca, root      string // root is the password of ldapRoot
}

func (l *openLDAP) plainText() string { return strconv.Itoa(l.plain) }

// slapdConfig serves one small company. Binds without a password are allowed, as by many servers: who takes them for a
// proof lets everybody in.
const slapdConfig = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
allow bind_anon_cred bind_anon_dn
pidfile %[1]s/slapd.pid
argsfile %[1]s/slapd.args
TLSCACertificateFile %[1]s/ca.pem
TLSCertificateFile %[1]s/server.pem
TLSCertificateKeyFile %[1]s/server.key
database mdb
suffix "dc=example,dc=com"
rootdn "cn=root,dc=example,dc=com"
rootpw %[2]s
directory %[1]s/data
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=yunfan,dc=example,dc=com" read by * none
`

// startOpenLDAP starts one, which ends with the test.
func startOpenLDAP(t *testing.T) *openLDAP {
	t.Helper()
	const program = "/usr/sbin/slapd"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("OpenLDAP is missing: run make test-deps, or install Debian's slapd: %v", err)
	}
	dir := t.TempDir()
	server := &openLDAP{plain: freePort(t), secure: freePort(t)}
	server.ca = writeCertificates(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	server.root = rand.Text()
	if err := os.WriteFile(filepath.Join(dir, "slapd.conf"), fmt.Appendf(nil, slapdConfig, dir, server.root), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-f", filepath.Join(dir, "slapd.conf"), "-d", "0",
		"-h", fmt.Sprintf("ldap://127.0.0.1:%d ldaps://127.0.0.1:%d", server.plain, server.secure))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting OpenLDAP: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("slapd: %s", log.String())
		}
	})
	var conn *ldap.Conn
	NewWithT(t).Eventually(func() (err error) {
		conn, err = ldap.DialURL(fmt.Sprintf("ldap://127.0.0.1:%d", server.plain))
		return err
	}).WithTimeout(patience).Should(Succeed())
	defer conn.Close()
	if err := conn.Bind(ldapRoot, server.root); err != nil {
		t.Fatal(err)
	}
	fill(t, conn)
	return server
}

// entry adds one; attributes come as name=value.
func entry(t *testing.T, conn *ldap.Conn, dn string, attributes ...string) {
	t.Helper()
	add, values := ldap.NewAddRequest(dn, nil), map[string][]string{}
	for _, a := range attributes {
		name, value, _ := strings.Cut(a, "=")
		values[name] = append(values[name], value)
	}
	for name, all := range values {
		add.Attribute(name, all)
	}
	if err := conn.Add(add); err != nil {
		t.Fatalf("adding %s: %v", dn, err)
	}
}

func fill(t *testing.T, conn *ldap.Conn) {
	t.Helper()
	people, groups := "ou=people,"+ldapBase, "ou=groups,"+ldapBase
	entry(t, conn, ldapBase, "objectClass=dcObject", "objectClass=organization", "dc=example", "o=Example")
	entry(t, conn, people, "objectClass=organizationalUnit", "ou=people")
	entry(t, conn, groups, "objectClass=organizationalUnit", "ou=groups")
	entry(t, conn, "ou=elsewhere,"+ldapBase, "objectClass=organizationalUnit", "ou=elsewhere")
	entry(t, conn, ldapAccount, "objectClass=organizationalRole", "objectClass=simpleSecurityObject", "cn=yunfan", "userPassword="+ldapPassword)
	person := func(uid, name string) string {
		dn := "uid=" + uid + "," + people
		entry(t, conn, dn, "objectClass=inetOrgPerson", "uid="+uid, "cn="+name, "sn="+name, "mail="+strings.ReplaceAll(uid, " ", "")+"@example.com", "userPassword=secret-of-"+uid)
		return dn
	}
	li, han := person("LiLei", "李雷"), person("hanmeimei", "韩梅梅")
	person("zhang_san", "张三")
	person("twice", "One")
	entry(t, conn, "cn=Other,"+people, "objectClass=inetOrgPerson", "uid=twice", "cn=Other", "sn=Other", "userPassword=secret-of-twice")
	entry(t, conn, "cn=ops,"+groups, "objectClass=groupOfNames", "cn=ops", "member="+li, "member="+han)
	entry(t, conn, "cn=admins,"+groups, "objectClass=groupOfNames", "cn=admins", "member="+li)
	entry(t, conn, "cn=system:masters,"+groups, "objectClass=groupOfNames", "cn=system:masters", "member="+li)
	entry(t, conn, "cn=yunfan:platform-admin,"+groups, "objectClass=groupOfNames", "cn=yunfan:platform-admin", "member="+li)
	entry(t, conn, "cn=posix,"+groups, "objectClass=posixGroup", "cn=posix", "gidNumber=1000", "memberUid=hanmeimei")
	// A group of the same name in a place that is not asked.
	entry(t, conn, "cn=admins,ou=elsewhere,"+ldapBase, "objectClass=groupOfNames", "cn=admins", "member="+han)
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// writeCertificates makes a CA and the certificate of a server at 127.0.0.1 in dir, and gives the CA.
func writeCertificates(t *testing.T, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	sign := func(template *x509.Certificate) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	authority := sign(ca)
	for name, text := range map[string][]byte{
		"ca.pem": authority, "server.pem": sign(leaf), "server.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return string(authority)
}

func port(t *testing.T, address string) int32 {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return int32(number)
}
