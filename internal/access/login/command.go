package login

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientauthentication "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"yunfan.io/yunfan/internal/cli"
)

// Command is what the sub-commands that need a session share.
type Command struct {
	// Server whose session is used; that of the last sign-in if empty.
	Server string
	Output cli.Output
	In     io.Reader
	Out    io.Writer
}

func (c *Command) server(ctx context.Context) (*cli.Server, session, error) {
	store, err := openStore()
	if err != nil {
		return nil, session{}, err
	}
	one, err := store.fresh(ctx, c.Server)
	if err != nil {
		return nil, session{}, err
	}
	server, err := one.client(one.Token)
	return server, one, err
}

// Token prints a token for kubectl, as its credential plugins do.
func (c *Command) Token(ctx context.Context) error {
	_, one, err := c.server(ctx)
	if err != nil {
		return err
	}
	end := metav1.NewTime(one.TokenExpires.Add(-early))
	credential := clientauthentication.ExecCredential{
		TypeMeta: metav1.TypeMeta{APIVersion: clientauthentication.SchemeGroupVersion.String(), Kind: "ExecCredential"},
		Status:   &clientauthentication.ExecCredentialStatus{Token: one.Token, ExpirationTimestamp: &end},
	}
	if err := json.NewEncoder(c.Out).Encode(credential); err != nil {
		return fmt.Errorf("writing the credential: %w", err)
	}
	return nil
}

// Logout ends the session, at the server and here.
func (c *Command) Logout(ctx context.Context) error {
	server, one, err := c.server(ctx)
	if err == nil {
		err = server.Call(ctx, http.MethodDelete, "/api/v1/session", nil, nil, &struct{}{})
	}
	if usage, ok := errors.AsType[*cli.UsageError](err); ok {
		return usage
	}
	store, serr := openStore()
	if serr != nil {
		return errors.Join(err, serr)
	}
	address := one.Server
	serr = store.update(func(s *state) error {
		if address == "" {
			address = c.Server
		}
		if address == "" {
			address = s.Current
		}
		delete(s.Sessions, address)
		if s.Current == address {
			s.Current = ""
		}
		return nil
	})
	if serr != nil {
		return errors.Join(err, serr)
	}
	if err != nil && !apierrors.IsUnauthorized(err) {
		return fmt.Errorf("the session is forgotten here, but the server may keep it until it expires: %w", err)
	}
	fmt.Fprintf(c.Out, "Signed out of %s.\n", address)
	return nil
}

// who is what the server says of the user.
type who struct {
	User                   string    `json:"user"`
	KubernetesUser         string    `json:"kubernetesUser"`
	DisplayName            string    `json:"displayName,omitempty"`
	Directory              string    `json:"directory,omitempty"`
	Groups                 []string  `json:"groups"`
	PlatformAdministrator  bool      `json:"platformAdministrator,omitempty"`
	PasswordChangeRequired bool      `json:"passwordChangeRequired,omitempty"`
	SessionExpires         time.Time `json:"sessionExpires"`
}

// WhoAmI prints as whom the session acts.
func (c *Command) WhoAmI(ctx context.Context) error {
	server, one, err := c.server(ctx)
	if err != nil {
		return err
	}
	me := who{}
	if err := server.Call(ctx, http.MethodGet, "/api/v1/session", nil, nil, &me); err != nil {
		return fmt.Errorf("asking who you are: %w", err)
	}
	return c.Output.Print(c.Out, me, func(t *cli.Table) {
		slices.Sort(me.Groups)
		t.Header("USER", "DIRECTORY", "SERVER", "EXPIRES", "GROUPS")
		t.Row(me.User, me.Directory, one.Server, me.SessionExpires.Local().Format(time.DateTime), strings.Join(me.Groups, ","))
	})
}

// Password changes one's own password. The current one is read first, then the new one.
func (c *Command) Password(ctx context.Context) error {
	server, _, err := c.server(ctx)
	if err != nil {
		return err
	}
	lines := bufio.NewReader(c.In)
	current, err := readPassword(c.In, lines, c.Out, "Current password: ")
	if err != nil {
		return err
	}
	next, err := readPassword(c.In, lines, c.Out, "New password: ")
	if err != nil {
		return err
	}
	body := map[string]string{"current": current, "new": next}
	if err := server.Call(ctx, http.MethodPost, "/api/v1/password", nil, body, &struct{}{}); err != nil {
		return fmt.Errorf("changing the password: %w", err)
	}
	fmt.Fprintln(c.Out, "Your password is changed, and your other sessions are ended.")
	return nil
}

// SetPassword gives another user a generated password and prints it.
func (c *Command) SetPassword(ctx context.Context, user string) error {
	server, _, err := c.server(ctx)
	if err != nil {
		return err
	}
	told := struct {
		Password string `json:"password"`
	}{}
	if err := server.Call(ctx, http.MethodPost, "/api/v1/users/"+user+"/password", nil, struct{}{}, &told); err != nil {
		return fmt.Errorf("setting the password of user %s: %w", user, err)
	}
	fmt.Fprintf(c.Out, "The password of %s is now %s\nIt is not shown again, and must be changed at the first sign-in.\n", user, told.Password)
	return nil
}

// Scope narrows an access token.
type Scope struct {
	Tenant     string   `json:"tenant,omitempty"`
	Role       string   `json:"role,omitempty"`
	Partitions []string `json:"partitions,omitempty"`
}

// NewToken asks for an access token.
type NewToken struct {
	Description string `json:"description,omitempty"`
	Scope       Scope  `json:"scope"`
	Days        int    `json:"days,omitempty"`
}

type token struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Scope       Scope     `json:"scope"`
	Created     time.Time `json:"created"`
	Expires     time.Time `json:"expires"`
	Secret      string    `json:"secret,omitempty"`
}

// CreateToken makes an access token and prints it, alone, so that a script can keep it.
func (c *Command) CreateToken(ctx context.Context, asked NewToken) error {
	server, _, err := c.server(ctx)
	if err != nil {
		return err
	}
	made := token{}
	if err := server.Call(ctx, http.MethodPost, "/api/v1/tokens", nil, asked, &made); err != nil {
		return fmt.Errorf("making an access token: %w", err)
	}
	fmt.Fprintln(c.Out, made.Secret)
	return nil
}

// ListTokens prints one's own access tokens.
func (c *Command) ListTokens(ctx context.Context) error {
	server, _, err := c.server(ctx)
	if err != nil {
		return err
	}
	var rows []token
	if err := server.Call(ctx, http.MethodGet, "/api/v1/tokens", nil, nil, &rows); err != nil {
		return fmt.Errorf("listing access tokens: %w", err)
	}
	return c.Output.Print(c.Out, rows, func(t *cli.Table) {
		t.Header("NAME", "DESCRIPTION", "TENANT", "ROLE", "PARTITIONS", "EXPIRES")
		for _, row := range rows {
			t.Row(row.Name, row.Description, row.Scope.Tenant, row.Scope.Role, strings.Join(row.Scope.Partitions, ","), row.Expires.Local().Format(time.DateTime))
		}
	})
}

// DeleteToken revokes one of one's own.
func (c *Command) DeleteToken(ctx context.Context, name string) error {
	server, _, err := c.server(ctx)
	if err != nil {
		return err
	}
	if err := server.Call(ctx, http.MethodDelete, "/api/v1/tokens/"+name, nil, nil, &struct{}{}); err != nil {
		return fmt.Errorf("revoking the access token: %w", err)
	}
	fmt.Fprintf(c.Out, "Access token %s is revoked.\n", name)
	return nil
}
