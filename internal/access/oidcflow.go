package access

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// stateCookie binds a sign-in at an issuer to the browser that began it.
	stateCookie = "__Host-yunfan-oidc"
	// stateLife is how long it may take, codeLife how long the command line may take to fetch its tokens after it.
	stateLife, codeLife = 10 * time.Minute, time.Minute
	maxReturn           = 1024
	// A code challenge is the SHA-256 of the verifier, as in PKCE.
	challengeLength = 43
)

// oidcState is what a browser keeps for us, sealed, while its user is at the issuer.
type oidcState struct {
	Directory string    `json:"d"`
	State     string    `json:"s"`
	Nonce     string    `json:"n"`
	Verifier  string    `json:"v"`
	Return    string    `json:"r,omitempty"`
	Port      int       `json:"p,omitempty"`
	Challenge string    `json:"c,omitempty"`
	Ends      time.Time `json:"e"`
}

// oidcCode is what the command line gets in place of tokens: good once, and only with the verifier it has.
type oidcCode struct {
	User      string    `json:"u"`
	UID       string    `json:"i"`
	Challenge string    `json:"c"`
	Ends      time.Time `json:"e"`
}

// startOIDC sends a browser to the issuer. With port and challenge it is the command line's: at the end the browser is
// sent to its listener on this machine.
func (s *Service) startOIDC(w http.ResponseWriter, r *http.Request) error {
	directory := &v1alpha1.Directory{}
	if err := s.directory(r.Context(), r.PathValue("directory"), v1alpha1.DirectoryOIDC, directory); err != nil {
		return err
	}
	state := oidcState{
		Directory: directory.Name, State: newSecret(), Nonce: newSecret(), Verifier: oauth2.GenerateVerifier(),
		Return: r.URL.Query().Get("return"), Ends: s.now().Add(stateLife),
	}
	if state.Return == "" {
		state.Return = "/"
	}
	if !ownPath(state.Return) {
		return apierrors.NewBadRequest("return: give a path of this server")
	}
	if port := r.URL.Query().Get("port"); port != "" {
		const lowest, highest = 1024, 65535
		var err error
		state.Port, err = strconv.Atoi(port)
		state.Challenge = r.URL.Query().Get("challenge")
		if err != nil || state.Port < lowest || state.Port > highest || len(state.Challenge) != challengeLength {
			return apierrors.NewBadRequest("port and challenge: give the port you listen on, and the SHA-256 of your verifier in base64url")
		}
	}
	p, err := s.oidc.provider(r.Context(), directory)
	if err != nil {
		return outside(r.Context(), directory.Name, err)
	}
	config, err := s.oidc.config(r.Context(), directory, p, s.callback(directory.Name))
	if err != nil {
		return outside(r.Context(), directory.Name, err)
	}
	sealed, err := s.seal(r.Context(), stateCookie, state)
	if err != nil {
		return err
	}
	// Lax: the browser comes back from the issuer's page.
	setCookie(w, stateCookie, sealed, int(stateLife.Seconds()), http.SameSiteLaxMode)
	http.Redirect(w, r, config.AuthCodeURL(state.State, oidc.Nonce(state.Nonce), oauth2.S256ChallengeOption(state.Verifier)), http.StatusFound)
	return nil
}

// callback is where the issuer sends browsers back to.
func (s *Service) callback(directory string) string {
	return s.url.JoinPath("api", "v1", "oidc", directory, "callback").String()
}

// finishOIDC signs in whom the issuer sent back.
func (s *Service) finishOIDC(w http.ResponseWriter, r *http.Request) error {
	ctx, query := r.Context(), r.URL.Query()
	facts := rest.FactsOf(ctx)
	facts.Resource, facts.Action = "sessions", "signIn"
	state := oidcState{}
	cookies := r.CookiesNamed(stateCookie)
	if len(cookies) != 1 || s.unseal(ctx, stateCookie, cookies[0].Value, &state) != nil || state.Ends.Before(s.now()) ||
		state.Directory != r.PathValue("directory") || !same(state.State, query.Get("state")) {
		return apierrors.NewUnauthorized("this sign-in was not begun in this browser, or took too long: start again")
	}
	setCookie(w, stateCookie, "", -1, http.SameSiteLaxMode) // good once
	if problem := query.Get("error"); problem != "" {
		return apierrors.NewUnauthorized(fmt.Sprintf("the issuer of directory %s says %.200q: start again, or ask an administrator", state.Directory, problem))
	}
	directory := &v1alpha1.Directory{}
	if err := s.directory(ctx, state.Directory, v1alpha1.DirectoryOIDC, directory); err != nil {
		return err
	}
	p, err := s.oidc.exchange(ctx, directory, s.callback(directory.Name), query.Get("code"), state)
	if err != nil {
		return outside(ctx, directory.Name, err)
	}
	facts.User = p.name
	user, err := s.admit(ctx, directory, p)
	if err != nil {
		return err
	}
	if err := s.succeeded(ctx, user); err != nil {
		return err
	}
	if state.Port != 0 {
		return s.toCommandLine(w, r, user, state)
	}
	session, credential, err := s.open(ctx, r, user, v1alpha1.SessionBrowser, "")
	if err != nil {
		return err
	}
	setCookie(w, sessionCookie, credential, int(session.Spec.ExpirationTime.Sub(s.now()).Seconds()), http.SameSiteStrictMode)
	http.Redirect(w, r, state.Return, http.StatusSeeOther)
	return nil
}

// toCommandLine sends the browser to the listener of the command line, with a code for which that gets its tokens.
func (s *Service) toCommandLine(w http.ResponseWriter, r *http.Request, user *v1alpha1.User, state oidcState) error {
	code, err := s.seal(r.Context(), "code", oidcCode{User: user.Name, UID: string(user.UID), Challenge: state.Challenge, Ends: s.now().Add(codeLife)})
	if err != nil {
		return err
	}
	listener := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(state.Port)), Path: "/", RawQuery: url.Values{"code": {code}}.Encode()}
	http.Redirect(w, r, listener.String(), http.StatusSeeOther)
	return nil
}

// redeem gives the command line its tokens for the code, once: the session's name is made from the code.
func (s *Service) redeem(w http.ResponseWriter, r *http.Request, asked SignIn) error {
	ctx := r.Context()
	facts := rest.FactsOf(ctx)
	facts.Resource, facts.Action = "sessions", "signIn"
	code := oidcCode{}
	if len(asked.Code) > maxToken || s.unseal(ctx, "code", asked.Code, &code) != nil || code.Ends.Before(s.now()) || !same(challenge(asked.Verifier), code.Challenge) {
		return apierrors.NewUnauthorized("the code is not good, or not any more: start again")
	}
	facts.User = code.User
	user, err := s.user(ctx, code.User, code.UID)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(asked.Code))
	session, credential, err := s.open(ctx, r, user, v1alpha1.SessionCLI, hex.EncodeToString(sum[:nameBytes]))
	if apierrors.IsAlreadyExists(err) {
		return apierrors.NewUnauthorized("the code was used before: start again")
	}
	if err != nil {
		return err
	}
	return s.answer(w, r, user, session, credential)
}

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ownPath says whether a browser that is sent there stays with us.
func ownPath(path string) bool {
	if len(path) > maxReturn || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsFunc(path, func(c rune) bool { return c == '\\' || c <= ' ' }) {
		return false
	}
	u, err := url.Parse(path)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil
}

// seal gives v as a text that only the platform's servers can read or make. Purpose keeps one use from another.
func (s *Service) seal(ctx context.Context, purpose string, v any) (string, error) {
	aead, err := s.sealer(ctx)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, text, []byte(purpose))), nil
}

func (s *Service) unseal(ctx context.Context, purpose, sealed string, into any) error {
	aead, err := s.sealer(ctx)
	if err != nil {
		return err
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil || len(raw) < aead.NonceSize() {
		return fmt.Errorf("unsealing: it is too short, or not base64")
	}
	text, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], []byte(purpose))
	if err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	return nil
}

func (s *Service) sealer(ctx context.Context) (cipher.AEAD, error) {
	key, err := s.keys.sealing(ctx)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making the seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making the seal: %w", err)
	}
	return aead, nil
}
