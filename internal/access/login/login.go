// Package login signs people in on the command line: it keeps their session in a file of theirs, and makes the kubeconfig
// with which kubectl and every other program of Kubernetes reach hub and members through the platform.
package login

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/internal/cli"
)

// browserPatience is how long somebody may take at his issuer's page.
const browserPatience = 5 * time.Minute

// Login are the flags of a sign-in.
type Login struct {
	// Server is the platform's URL; that of the hub that Access reaches if empty.
	Server string
	// User and Directory say who signs in. Without a directory it is an account of the platform's own.
	User, Directory string
	// CA is a file with the certificates by which the server's is checked.
	CA string
	// Kubeconfig is the file that is written.
	Kubeconfig string
	// Access is the way to a hub on this machine.
	Access *cli.Access
	// In is where the password is read, and Out where questions and answers go.
	In  io.Reader
	Out io.Writer
}

// answer is what the server says to a sign-in.
type answer struct {
	User                   string    `json:"user"`
	Token                  string    `json:"token"`
	TokenExpires           time.Time `json:"tokenExpires"`
	RefreshToken           string    `json:"refreshToken"`
	SessionExpires         time.Time `json:"sessionExpires"`
	PasswordChangeRequired bool      `json:"passwordChangeRequired"`
}

// Run signs in.
func (l *Login) Run(ctx context.Context) error {
	address, ca, err := l.where(ctx)
	if err != nil {
		return err
	}
	server, err := cli.NewServer(&rest.Config{Host: address, TLSClientConfig: rest.TLSClientConfig{CAData: ca}})
	if err != nil {
		return err
	}
	kind, err := l.kind(ctx, server)
	if err != nil {
		return err
	}
	var asked map[string]any
	if kind == "OIDC" {
		asked, err = l.byBrowser(ctx, server)
	} else {
		asked, err = l.byPassword()
	}
	if err != nil {
		return err
	}
	signed := answer{}
	if err := server.Call(ctx, http.MethodPost, "/api/v1/session", nil, asked, &signed); err != nil {
		return fmt.Errorf("signing in: %w", err)
	}
	store, err := openStore()
	if err != nil {
		return err
	}
	current := session{Server: server.URL.String(), CA: string(ca), User: signed.User}
	current.take(signed)
	if err := store.update(func(s *state) error {
		s.Current, s.Sessions[current.Server] = current.Server, current
		return nil
	}); err != nil {
		return err
	}
	file, err := writeKubeconfig(l.Kubeconfig, store.folder, current)
	if err != nil {
		return err
	}
	fmt.Fprintf(l.Out, "Signed in to %s as %s until %s.\n", current.Server, signed.User, signed.SessionExpires.Local().Format(time.DateTime))
	if signed.PasswordChangeRequired {
		fmt.Fprintln(l.Out, "Change your password before anything else: yunfan password")
	}
	fmt.Fprintf(l.Out, "kubectl and yunfan use it with: export KUBECONFIG=%s\n", file)
	return nil
}

// where is the server, and the CA of its certificate.
func (l *Login) where(ctx context.Context) (string, []byte, error) {
	if l.Server == "" {
		server, err := l.Access.Server(ctx)
		if err != nil {
			return "", nil, fmt.Errorf("looking for the server (--server names one): %w", err)
		}
		return server.URL.String(), server.Config.CAData, nil
	}
	if l.CA == "" {
		return l.Server, nil, nil
	}
	ca, err := os.ReadFile(l.CA)
	if err != nil {
		return "", nil, cli.Usagef("reading --ca: %w", err)
	}
	return l.Server, ca, nil
}

// kind is the type of the directory asked for.
func (l *Login) kind(ctx context.Context, server *cli.Server) (string, error) {
	if l.Directory == "" {
		return "Local", nil
	}
	var rows []struct{ Name, Type string }
	if err := server.Call(ctx, http.MethodGet, "/api/v1/directories", nil, nil, &rows); err != nil {
		return "", fmt.Errorf("asking for directories: %w", err)
	}
	names := make([]string, 0, len(rows))
	for _, row := range rows {
		if row.Name == l.Directory {
			return row.Type, nil
		}
		names = append(names, row.Name)
	}
	return "", cli.Usagef("there is no directory %q: choose from %s", l.Directory, strings.Join(names, ", "))
}

func (l *Login) byPassword() (map[string]any, error) {
	reader := bufio.NewReader(l.In)
	name := l.User
	if name == "" {
		fmt.Fprint(l.Out, "User: ")
		line, err := readLine(reader)
		if err != nil {
			return nil, err
		}
		name = line
	}
	password, err := readPassword(l.In, reader, l.Out, "Password: ")
	if err != nil {
		return nil, err
	}
	return map[string]any{"user": name, "password": password, "directory": l.Directory}, nil
}

// byBrowser lets the user's browser sign in at the issuer, and gets the code from it on a port of this machine.
func (l *Login) byBrowser(ctx context.Context, server *cli.Server) (map[string]any, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the browser: %w", err)
	}
	defer listener.Close()
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	start := server.URL.JoinPath("api", "v1", "oidc", l.Directory, "start")
	start.RawQuery = url.Values{
		"port":      {strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)},
		"challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}.Encode()
	fmt.Fprintf(l.Out, "Open this address in a browser on this machine:\n\n  %s\n\n", start)
	codes := make(chan string, 1)
	web := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := r.URL.Query().Get("code")
		if code == "" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintln(w, "You are signed in: go back to the command line.")
		select {
		case codes <- code:
		default:
		}
	})}
	go func() { _ = web.Serve(listener) }() // ends with Close
	defer func() { _ = web.Shutdown(context.WithoutCancel(ctx)) }()
	timer := time.NewTimer(browserPatience)
	defer timer.Stop()
	select {
	case code := <-codes:
		return map[string]any{"code": code, "verifier": verifier}, nil
	case <-timer.C:
		return nil, &cli.TimeoutError{Err: errors.New("nobody signed in there: start again")}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readPassword reads one from the terminal without showing it, or a line of what is piped in. It never is an argument:
// every user of a machine sees those.
func readPassword(in io.Reader, lines *bufio.Reader, out io.Writer, prompt string) (string, error) {
	if file, ok := in.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		fmt.Fprint(out, prompt)
		password, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(out)
		if err != nil {
			return "", fmt.Errorf("reading the password: %w", err)
		}
		return string(password), nil
	}
	return readLine(lines)
}

func readLine(lines *bufio.Reader) (string, error) {
	const most = 1024
	line, err := lines.ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" || len(line) > most {
		return "", cli.Usagef("a line of text was expected on standard input: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return line, nil
}

// folder is where sessions are kept.
func folder() (string, error) {
	if dir := os.Getenv("YUNFAN_CONFIG"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the folder for the session (set YUNFAN_CONFIG): %w", err)
	}
	return filepath.Join(home, ".yunfan"), nil
}
