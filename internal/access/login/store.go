package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"yunfan.io/yunfan/internal/cli"
)

const (
	sessionsFile = "sessions.json"
	lockFile     = "sessions.lock"
	// early is how long before its end a token is renewed, for clocks that differ and requests that take a while.
	early    = 30 * time.Second
	secretly = 0o600
)

// session is one sign-in to one server.
type session struct {
	Server         string    `json:"server"`
	CA             string    `json:"ca,omitempty"`
	User           string    `json:"user"`
	Token          string    `json:"token"`
	TokenExpires   time.Time `json:"tokenExpires"`
	RefreshToken   string    `json:"refreshToken"`
	SessionExpires time.Time `json:"sessionExpires"`
}

func (s *session) take(a answer) {
	s.Token, s.TokenExpires, s.RefreshToken, s.SessionExpires = a.Token, a.TokenExpires, a.RefreshToken, a.SessionExpires
}

// state is what the file holds.
type state struct {
	// Current is the server of the last sign-in.
	Current  string             `json:"current"`
	Sessions map[string]session `json:"sessions"`
}

// store keeps sessions in a file that only its user can read.
type store struct{ folder string }

func openStore() (*store, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	const private = 0o700
	if err := os.MkdirAll(dir, private); err != nil {
		return nil, fmt.Errorf("making the folder for the session: %w", err)
	}
	return &store{dir}, nil
}

// update changes the file while no other process does: a refresh token that two show at once ends the session.
func (s *store) update(change func(*state) error) error {
	lock, err := os.OpenFile(filepath.Join(s.folder, lockFile), os.O_CREATE|os.O_RDWR, secretly)
	if err != nil {
		return fmt.Errorf("locking the session: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking the session: %w", err)
	}
	current, err := s.read()
	if err != nil {
		return err
	}
	if err := change(current); err != nil {
		return err
	}
	text, err := json.Marshal(current)
	if err != nil {
		return fmt.Errorf("keeping the session: %w", err)
	}
	return writeSecretly(filepath.Join(s.folder, sessionsFile), text)
}

func (s *store) read() (*state, error) {
	current := &state{Sessions: map[string]session{}}
	text, err := os.ReadFile(filepath.Join(s.folder, sessionsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return current, nil
	}
	if err == nil {
		err = json.Unmarshal(text, current)
	}
	if err != nil || current.Sessions == nil {
		return nil, fmt.Errorf("reading %s (delete it and sign in again): %w", filepath.Join(s.folder, sessionsFile), err)
	}
	return current, nil
}

// writeSecretly replaces a file in one step.
func writeSecretly(path string, text []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".yunfan-*") // readable by its owner only
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(text)
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// fresh gives a session whose token is good for a while, and renews it if need be. An empty server means the current one.
func (s *store) fresh(ctx context.Context, server string) (session, error) {
	var found session
	err := s.update(func(current *state) error {
		if server == "" {
			server = current.Current
		}
		one, ok := current.Sessions[server]
		if !ok {
			return notSignedIn(server)
		}
		if time.Until(one.TokenExpires) < early {
			c, err := one.client("")
			if err != nil {
				return err
			}
			next := answer{}
			if err := c.Call(ctx, http.MethodPost, "/api/v1/session/refresh", nil, map[string]string{"refreshToken": one.RefreshToken}, &next); err != nil {
				return fmt.Errorf("renewing the session at %s (sign in again with 'yunfan login --server %s'): %w", server, server, err)
			}
			one.take(next)
			current.Sessions[server] = one
		}
		found = one
		return nil
	})
	return found, err
}

func notSignedIn(server string) error {
	if server == "" {
		return cli.Usagef("nobody is signed in: yunfan login")
	}
	return cli.Usagef("nobody is signed in at %s: yunfan login --server %s", server, server)
}

// client of the session's server, with its token or another.
func (s session) client(token string) (*cli.Server, error) {
	return cli.NewServer(&rest.Config{Host: s.Server, BearerToken: token, UserAgent: "yunfan", TLSClientConfig: rest.TLSClientConfig{CAData: []byte(s.CA)}})
}

// writeKubeconfig makes a kubeconfig whose token comes from the token command, so that no secret is in it. It gives the
// file's name.
func writeKubeconfig(file, folder string, s session) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	if file == "" {
		file = filepath.Join(folder, "kubeconfig")
	}
	plugin := &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", Command: self, Args: []string{cli.TokenCommand, "--server", s.Server},
		InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
	}
	if dir := os.Getenv("YUNFAN_CONFIG"); dir != "" {
		plugin.Env = []clientcmdapi.ExecEnvVar{{Name: "YUNFAN_CONFIG", Value: dir}}
	}
	const name = "yunfan"
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: s.Server, CertificateAuthorityData: []byte(s.CA)}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Exec: plugin}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
	if err != nil {
		return "", fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return file, writeSecretly(file, text)
}
