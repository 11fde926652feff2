package controlplane

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"yunfan.io/engine/topology"
)

// auditPolicy keeps who wrote what, never the content. What components write every few seconds about themselves, and
// questions that are asked by creating an object, are no changes anybody looks for.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
  - {group: authentication.k8s.io}
  - {group: authorization.k8s.io}
- level: None
  userGroups: ["system:nodes"]
  verbs: [update, patch]
  resources: [{group: "", resources: [nodes/status, pods/status]}]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection, connect]
- level: Metadata
  resources: [{group: "", resources: [pods/exec, pods/attach, pods/portforward, pods/proxy, services/proxy, nodes/proxy]}]
- level: None
`

// Bounds of the audit log: megabytes of a file, older files kept.
const (
	auditMegabytes = "50"
	auditBackups   = "4"
)

// AuditLog is where the API server writes who changed what, one JSON object a line.
func (c Config) AuditLog() string {
	return filepath.Join(c.Paths.ControlPlane(c.Cluster.Name), "log", "audit.log")
}

func (c Config) auditPolicy() string {
	return filepath.Join(c.Paths.ControlPlane(c.Cluster.Name), "audit-policy.yaml")
}

func (c Config) audit() []string {
	return []string{"--audit-policy-file=" + c.auditPolicy(), "--audit-log-path=" + c.AuditLog(), "--audit-log-mode=blocking",
		"--audit-log-maxsize=" + auditMegabytes, "--audit-log-maxbackup=" + auditBackups}
}

// Encryption is the part of an EncryptionConfiguration that the engine uses. The first key encrypts, the others are
// for what was written with them; identity is for what was written before there was a key.
type Encryption struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"`
	Resources  []encryptedResources `json:"resources"`
}

type encryptedResources struct {
	Resources []string   `json:"resources"`
	Providers []provider `json:"providers"`
}

type provider struct {
	Secretbox *keyring  `json:"secretbox,omitempty"`
	Identity  *struct{} `json:"identity,omitempty"`
}

type keyring struct {
	Keys []key `json:"keys"`
}

type key struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
}

func (c Config) encryption() string {
	return filepath.Join(c.Paths.PKI(c.Cluster.Name), "encryption.yaml")
}

// rewritten names the key with which everything in etcd is known to be encrypted.
func (c Config) rewritten() string {
	return filepath.Join(c.Paths.PKI(c.Cluster.Name), "encryption-key-in-use")
}

// prepareSecurity writes the audit policy and, unless there is one, makes the key that encrypts Secrets. Nothing is
// there yet to be encrypted anew in a cluster that has no data.
func (c Config) prepareSecurity() error {
	if err := topology.WriteFile(c.auditPolicy(), []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	keys, err := c.loadKeys()
	if err != nil {
		return err
	}
	if len(keys) > 1 && c.encryptedWith() == keys[0].Name { // nothing needs the older ones any more
		return c.saveKeys(keys[:1])
	}
	if len(keys) > 0 {
		return nil
	}
	if c.encryptedWith() != "" {
		return fmt.Errorf("the encryption keys of %s are gone: restore %s from a backup; without it no Secret of the cluster can be read", c.Cluster.Name, c.encryption())
	}
	first, err := newKey()
	if err != nil {
		return err
	}
	if err := c.saveKeys([]key{first}); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.Paths.ControlPlane(c.Cluster.Name), "etcd", "member")); errors.Is(err, fs.ErrNotExist) {
		return c.KeyInUse(first.Name)
	}
	return nil
}

// RotateKey puts a new key before the others. It is used once the API server has started anew.
func (c Config) RotateKey() error {
	keys, err := c.loadKeys()
	if err != nil {
		return err
	}
	first, err := newKey()
	if err != nil {
		return err
	}
	return c.saveKeys(append([]key{first}, keys...))
}

// Stale names the key that encrypts from now on if something in etcd may still be encrypted with another one, or not at
// all; it is empty otherwise.
func (c Config) Stale() (string, error) {
	keys, err := c.loadKeys()
	if err != nil || len(keys) == 0 || keys[0].Name == c.encryptedWith() {
		return "", err
	}
	return keys[0].Name, nil
}

// KeyInUse records that everything is encrypted with the key.
func (c Config) KeyInUse(name string) error {
	return topology.WriteFile(c.rewritten(), []byte(name+"\n"), 0o600)
}

func (c Config) encryptedWith() string {
	data, err := os.ReadFile(c.rewritten())
	if err != nil {
		return "" // then everything is written anew, which harms nothing
	}
	return strings.TrimSpace(string(data))
}

func (c Config) loadKeys() ([]key, error) {
	data, err := os.ReadFile(c.encryption())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the encryption keys of %s: %w", c.Cluster.Name, err)
	}
	var e Encryption
	if err := yaml.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("parsing the encryption keys of %s: not shown, since it holds them", c.Cluster.Name)
	}
	for _, r := range e.Resources {
		for _, p := range r.Providers {
			if p.Secretbox != nil && len(p.Secretbox.Keys) > 0 {
				return p.Secretbox.Keys, nil
			}
		}
	}
	return nil, fmt.Errorf("reading the encryption keys of %s: no secretbox key in %s: restore the file from a backup", c.Cluster.Name, c.encryption())
}

func (c Config) saveKeys(keys []key) error {
	data, err := yaml.Marshal(Encryption{APIVersion: "apiserver.config.k8s.io/v1", Kind: "EncryptionConfiguration",
		Resources: []encryptedResources{{Resources: []string{"secrets"}, Providers: []provider{{Secretbox: &keyring{keys}}, {Identity: &struct{}{}}}}}})
	if err != nil {
		return fmt.Errorf("writing the encryption keys of %s: %w", c.Cluster.Name, err)
	}
	return topology.WriteFile(c.encryption(), data, 0o600)
}

func newKey() (key, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return key{}, fmt.Errorf("making an encryption key: %w", err)
	}
	return key{Name: time.Now().UTC().Format("key-20060102-150405.000"), Secret: base64.StdEncoding.EncodeToString(secret)}, nil
}
