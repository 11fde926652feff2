package haproxy

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	"yunfan.io/yunfan/internal/route/table"
)

// defaultCertificate is what clients get that ask for a host without a certificate.
const defaultCertificate = "certificates/default.pem"

// certificate is one as HAProxy gets it.
type certificate struct {
	file    string // its name in the site's folder
	content string // PEM: chain and key
	hosts   string // separated by spaces
}

func (c *certificate) line(s site) string { return s.dir + "/" + c.file + " " + c.hosts }

// addCertificates writes the list of certificates. One that cannot be used costs nobody else anything.
func (p *plan) addCertificates(t *table.Table, s site) {
	list := strings.Builder{}
	list.WriteString(s.dir + "/" + defaultCertificate + "\n")
	for _, c := range t.Certificates {
		made, err := prepare(c)
		if err != nil {
			p.unsupported = append(p.unsupported, fmt.Sprintf("certificate %q: %v", c.Name, err))
			continue
		}
		p.certificates = append(p.certificates, *made)
		p.files[made.file] = made.content
		list.WriteString(made.line(s) + "\n")
	}
	p.files[listFile] = list.String()
}

// prepare checks a certificate. Its text is written anew, so that nothing but PEM is in it, and no empty line.
func prepare(c table.Certificate) (*certificate, error) {
	if _, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key)); err != nil {
		return nil, fmt.Errorf("it does not fit its key: %w", err)
	}
	var usable []string
	for _, host := range c.Hosts {
		host = strings.ToLower(host)
		if hosts.MatchString(strings.TrimPrefix(host, "*.")) {
			usable = append(usable, host)
		}
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("it is for no host")
	}
	content := strings.Builder{}
	for rest := []byte(c.Chain + "\n" + c.Key); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		block.Headers = nil
		content.Write(pem.EncodeToMemory(block))
	}
	slices.Sort(usable)
	return &certificate{file: "certificates/" + digest(c.Name) + ".pem", content: content.String(), hosts: strings.Join(slices.Compact(usable), " ")}, nil
}

// lines are the keys of a set as the content of a map.
func lines(set map[string]bool) string {
	out := strings.Builder{}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		out.WriteString(key + " 1\n")
	}
	return out.String()
}
