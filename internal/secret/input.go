package secret

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	maxKeys  = 100
	maxBytes = 1 << 20 // what Kubernetes lets a Secret hold
)

// Input is what is written: values, or the credentials of a registry, or a certificate with its key.
type Input struct {
	// Name of the secret; in the path instead, but for POST.
	Name string `json:"name,omitempty"`
	// Type as in Kubernetes; it follows from what is given if it is empty.
	Type corev1.SecretType `json:"type,omitempty"`
	// Data are values in base64, StringData values as they are, as in a Kubernetes Secret. With PATCH, null removes one.
	Data       map[string]*string `json:"data,omitempty"`
	StringData map[string]*string `json:"stringData,omitempty"`
	Registry   *Registry          `json:"registry,omitempty"`
	TLS        *TLS               `json:"tls,omitempty"`
	// Publication and Partitions are those of the configuration; what is there stays if they are empty.
	Publication v1alpha1.Publication `json:"publication,omitempty"`
	Partitions  []string             `json:"partitions,omitempty"`
}

// Registry are credentials with which images are pulled.
type Registry struct {
	Server   string `json:"server"`
	Username string `json:"username"`
	Password string `json:"password"`
	Email    string `json:"email,omitempty"`
}

// TLS is a certificate, followed by those between it and its authority, and its key; both in PEM.
type TLS struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// content is an input that was checked.
type content struct {
	kind corev1.SecretType
	data map[string][]byte
	says map[string]string // annotations
}

var keyName = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

func refuse(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// content checks what is written over what is there. No message holds a value. kind is that of the secret there is.
func (in *Input) content(kind corev1.SecretType, there map[string][]byte) (*content, error) {
	wanted, err := in.kind()
	if err != nil {
		return nil, err
	}
	switch {
	case kind == "":
		kind = wanted
	case in.Type == "" && in.Registry == nil && in.TLS == nil:
	case kind != wanted:
		return nil, refuse("it is of type %s and cannot become %s: choose another name", kind, wanted)
	}
	c := &content{kind: kind, data: maps.Clone(there), says: map[string]string{}}
	if c.data == nil {
		c.data = map[string][]byte{}
	}
	if err := in.fill(c); err != nil {
		return nil, err
	}
	return c, c.check()
}

func (in *Input) kind() (corev1.SecretType, error) {
	given := in.Type
	switch {
	case given == corev1.SecretTypeServiceAccountToken:
		return "", refuse("type %s cannot be delivered: each cluster makes the tokens of its service accounts by itself, and one of another cluster is worth nothing there. "+
			"Pods get theirs by serviceAccountName", given)
	case in.Registry != nil && (given == "" || given == corev1.SecretTypeDockerConfigJson):
		return corev1.SecretTypeDockerConfigJson, nil
	case in.TLS != nil && (given == "" || given == corev1.SecretTypeTLS):
		return corev1.SecretTypeTLS, nil
	case in.Registry != nil || in.TLS != nil:
		return "", refuse("registry and tls are for a type of their own, not for %s: leave type out", given)
	case given == "":
		return corev1.SecretTypeOpaque, nil
	case given == corev1.SecretTypeOpaque || given == corev1.SecretTypeDockerConfigJson || given == corev1.SecretTypeTLS:
		return given, nil
	}
	return "", refuse("type %q is not known: there are %s, %s and %s", given, corev1.SecretTypeOpaque, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeTLS)
}

// fill puts what is given over what is there.
func (in *Input) fill(c *content) error {
	for _, name := range slices.Sorted(maps.Keys(in.Data)) {
		if in.Data[name] == nil {
			delete(c.data, name)
			continue
		}
		value, err := base64.StdEncoding.DecodeString(strings.TrimSpace(*in.Data[name]))
		if err != nil {
			return refuse("data of %s is not base64: use stringData for a value as it is", name)
		}
		c.data[name] = value
	}
	for name, value := range in.StringData {
		if value == nil {
			delete(c.data, name)
			continue
		}
		c.data[name] = []byte(*value)
	}
	if in.Registry != nil {
		r := *in.Registry
		if r.Server == "" || r.Username == "" || r.Password == "" || strings.Contains(r.Username, ":") {
			return refuse("registry needs server, username (without ':') and password")
		}
		text, err := json.Marshal(dockerConfig{Auths: map[string]dockerAuth{r.Server: {
			Username: r.Username, Password: r.Password, Email: r.Email, Auth: base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + r.Password)),
		}}})
		if err != nil {
			return fmt.Errorf("writing credentials: %w", err)
		}
		c.data = map[string][]byte{corev1.DockerConfigJsonKey: text}
	}
	if in.TLS != nil {
		c.data = map[string][]byte{corev1.TLSCertKey: []byte(in.TLS.Certificate), corev1.TLSPrivateKeyKey: []byte(in.TLS.Key)}
	}
	return nil
}

type dockerConfig struct {
	Auths map[string]dockerAuth `json:"auths"`
}

type dockerAuth struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Email    string `json:"email,omitempty"`
	Auth     string `json:"auth,omitempty"`
}

// check refuses what pods could not use.
func (c *content) check() error {
	if len(c.data) == 0 || len(c.data) > maxKeys {
		return refuse("a secret has 1 to %d values, this one would have %d", maxKeys, len(c.data))
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.data)) {
		if !keyName.MatchString(name) || name == "." || strings.HasPrefix(name, "..") {
			return refuse("the name of a value consists of letters, digits, '-', '_' and '.', and does not begin with '..': %q", name)
		}
		size += len(name) + len(c.data[name])
	}
	if size > maxBytes {
		return refuse("the values have %d KiB together, and at most 1024 KiB fit into one Secret", (size+1023)>>10) //nolint:mnd // KiB, rounded up
	}
	switch c.kind {
	case corev1.SecretTypeDockerConfigJson:
		return c.checkRegistry()
	case corev1.SecretTypeTLS:
		return c.checkTLS()
	default:
		return nil
	}
}

func (c *content) checkRegistry() error {
	var config dockerConfig
	if json.Unmarshal(c.data[corev1.DockerConfigJsonKey], &config) != nil || len(config.Auths) == 0 || len(c.data) != 1 {
		return refuse(`credentials of registries are one value, %s: {"auths": {SERVER: …}}, as 'docker login' writes it; or give registry`, corev1.DockerConfigJsonKey)
	}
	c.says[annotationRegistry] = strings.Join(slices.Sorted(maps.Keys(config.Auths)), ",")
	return nil
}

func (c *content) checkTLS() error {
	if len(c.data) != 2 { //nolint:mnd // certificate and key
		return refuse("a certificate with its key are two values, %s and %s; or give tls", corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	pair, err := tls.X509KeyPair(c.data[corev1.TLSCertKey], c.data[corev1.TLSPrivateKeyKey])
	if err != nil { // its message has no content
		return refuse("certificate and key do not go together: %v", err)
	}
	leaf := pair.Leaf
	if time.Now().After(leaf.NotAfter) {
		return refuse("the certificate has ended on %s", leaf.NotAfter.Format(time.DateOnly))
	}
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return refuse("the certificate names no host (subject alternative names): no client would accept it")
	}
	c.says[annotationEnd] = leaf.NotAfter.UTC().Format(time.RFC3339)
	c.says[annotationHosts] = strings.Join(names, ",")
	return nil
}
