// Package command is the command line's part of notifications: what is sent, what one was told and how, keys and secrets.
package command

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
)

// preferences is the path of how one is told.
const preferences = "/api/v1/me/notifications"

// Me shows or changes how the user is told.
type Me struct {
	Access *cli.Access

	output                 cli.Output
	email, phone, language string
	channels, muted        []string
}

// Command makes the sub-command.
func (m *Me) Command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "me", Short: "Show where and how you are told of things, or change it", Args: cli.Args(cobra.NoArgs),
		Example: `  yunfan notifications me
  yunfan notifications me --email li@example.com --language en --mute 'request.*'
  yunfan notifications me --channel ''          # nothing but the inbox`,
		RunE: func(cmd *cobra.Command, _ []string) error { return m.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&m.email, "email", "", "address of mail")
	flags.StringVar(&m.phone, "phone", "", "phone for text messages, such as +8613800138000")
	flags.StringVar(&m.language, "language", "", "language of mails and text messages: zh or en")
	flags.StringSliceVar(&m.channels, "channel", nil, "Email or SMS, beside the inbox (repeatable; '' for none)")
	flags.StringSliceVar(&m.muted, "mute", nil, "topic that stays in the inbox, such as request.* (repeatable; '' for none)")
	m.output.Flags(flags)
	m.Access.Flags(flags)
	cli.Complete(cmd, "language", "zh", "en")
	cli.Complete(cmd, "channel", "Email", "SMS")
	return cmd
}

func (m *Me) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	server, err := m.Access.Server(ctx)
	if err != nil {
		return err
	}
	var now map[string]any
	if err := server.Call(ctx, http.MethodGet, preferences, nil, nil, &now); err != nil {
		return fmt.Errorf("reading how you are told: %w", err)
	}
	changed := false
	for flag, field := range map[string]struct {
		name  string
		value any
	}{
		"email": {"email", m.email}, "phone": {"phone", m.phone}, "language": {"language", m.language},
		"channel": {"channels", filled(m.channels)}, "mute": {"mutedTopics", filled(m.muted)},
	} {
		if cmd.Flags().Changed(flag) {
			now[field.name], changed = field.value, true
		}
	}
	if changed {
		if err := server.Call(ctx, http.MethodPut, preferences, nil, now, &now); err != nil {
			return fmt.Errorf("changing how you are told: %w", err)
		}
	}
	return m.output.Print(cmd.OutOrStdout(), now, func(t *cli.Table) {
		t.Header("EMAIL", "PHONE", "LANGUAGE", "CHANNELS", "MUTED")
		t.Row(now["email"], now["phone"], now["language"], joined(now["channels"]), joined(now["mutedTopics"]))
	})
}

// filled leaves out what is empty, and is never nil: none is an answer.
func filled(values []string) []string {
	out := []string{}
	for _, value := range values {
		if value != "" {
			out = append(out, value)
		}
	}
	return out
}

func joined(values any) string {
	list, _ := values.([]any)
	texts := make([]string, 0, len(list))
	for _, value := range list {
		texts = append(texts, fmt.Sprint(value))
	}
	return strings.Join(texts, ",")
}

// Inbox shows what the user was told.
type Inbox struct {
	Access *cli.Access

	output cli.Output
	unread bool
	read   bool
	en     bool
}

// Command makes the sub-command.
func (i *Inbox) Command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "inbox", Short: "Show the newest messages to you", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return i.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&i.unread, "unread", false, "only those that were not read")
	flags.BoolVar(&i.read, "mark-read", false, "mark all as read afterwards")
	flags.BoolVar(&i.en, "english", false, "titles in English")
	i.output.Flags(flags)
	i.Access.Flags(flags)
	return cmd
}

func (i *Inbox) run(ctx context.Context, out io.Writer) error {
	server, err := i.Access.Server(ctx)
	if err != nil {
		return err
	}
	var page struct {
		Items []struct {
			ID     string            `json:"id"`
			Topic  string            `json:"topic"`
			Tenant string            `json:"tenant"`
			Time   string            `json:"time"`
			Read   bool              `json:"read"`
			Title  map[string]string `json:"title"`
			Text   map[string]string `json:"text"`
			Path   string            `json:"path"`
		} `json:"items"`
		Total  int `json:"total"`
		Unread int `json:"unread"`
	}
	query := url.Values{}
	if i.unread {
		query.Set("unread", "true")
	}
	if err := server.Call(ctx, http.MethodGet, "/api/v1/me/messages", query, nil, &page); err != nil {
		return fmt.Errorf("reading the inbox: %w", err)
	}
	language := "zh"
	if i.en {
		language = "en"
	}
	err = i.output.Print(out, page, func(t *cli.Table) {
		t.Header("TIME", "READ", "TENANT", "TOPIC", "TITLE")
		for _, item := range page.Items {
			t.Row(item.Time, item.Read, item.Tenant, item.Topic, item.Title[language])
		}
	})
	if err != nil || !i.read {
		return err
	}
	var left map[string]any
	return server.Call(ctx, http.MethodPost, "/api/v1/me/messages/read", nil, map[string]bool{"all": true}, &left)
}

// receiver is the path of a receiver of the tenant.
func receiver(access *cli.Access, name, verb string) (string, error) {
	tenant, err := access.Tenant()
	if err != nil {
		return "", err
	}
	return "/api/v1/tenants/" + url.PathEscape(tenant) + "/notification-receivers/" + url.PathEscape(name) + "/" + verb, nil
}

// Key makes a signing key of a receiver and prints it, and nothing else, to standard output.
func Key(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key RECEIVER", Short: "Make the key that a receiver's webhooks are signed with; it is shown once", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := access.Server(cmd.Context())
			if err != nil {
				return err
			}
			path, err := receiver(access, args[0], "key")
			if err != nil {
				return err
			}
			var made struct {
				Key   string `json:"key"`
				Until string `json:"formerKeyUntil"`
			}
			if err := server.Call(cmd.Context(), http.MethodPost, path, nil, nil, &made); err != nil {
				return fmt.Errorf("making a key: %w", err)
			}
			if made.Until != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "Until %s webhooks are signed with the former key, too.\n", made.Until)
			}
			fmt.Fprintln(cmd.OutOrStdout(), made.Key)
			return nil
		},
	}
	access.Flags(cmd.Flags())
	return cmd
}

// Test sends a test message to a receiver, or through a provider.
func Test(access *cli.Access) *cobra.Command {
	var provider, to string
	cmd := &cobra.Command{
		Use: "test [RECEIVER]", Short: "Send a test message to a receiver of the tenant, or through a provider", Args: cli.Args(cobra.MaximumNArgs(1)),
		Example: `  yunfan notifications test nms -n edu
  yunfan notifications test --provider mail --to me@example.com`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (provider != "") || (provider != "") != (to != "") {
				return cli.Usagef("name a receiver, or give --provider and --to")
			}
			server, err := access.Server(cmd.Context())
			if err != nil {
				return err
			}
			path, body := "/api/v1/notification-providers/"+url.PathEscape(provider)+"/test", any(map[string]string{"to": to})
			if provider == "" {
				body = nil
				if path, err = receiver(access, args[0], "test"); err != nil {
					return err
				}
			}
			var tried struct {
				Sent  bool   `json:"sent"`
				Error string `json:"error"`
			}
			if err := server.Call(cmd.Context(), http.MethodPost, path, nil, body, &tried); err != nil {
				return fmt.Errorf("sending a test message: %w", err)
			}
			if !tried.Sent {
				return fmt.Errorf("the test message was not taken: %s", tried.Error)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The test message was taken.")
			return nil
		},
	}
	cmd.Flags().StringVar(&provider, "provider", "", "the NotificationProvider to be tried")
	cmd.Flags().StringVar(&to, "to", "", "address of mail or phone that the message goes to")
	access.Flags(cmd.Flags())
	return cmd
}

// maxSecret bounds what is read as a password, in bytes.
const maxSecret = 8 << 10

// Secret writes a provider's password or token, which is read from standard input.
func Secret(access *cli.Access) *cobra.Command {
	set := &cobra.Command{
		Use: "set PROVIDER", Short: "Write the password of a mail server, or the token of a gateway, read from standard input", Args: cli.Args(cobra.ExactArgs(1)),
		Example: `  yunfan notifications secret set mail < password`,
		RunE: func(cmd *cobra.Command, args []string) error {
			line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxSecret)).ReadString('\n')
			if err != nil && line == "" {
				return cli.Usagef("give the password on standard input")
			}
			server, err := access.Server(cmd.Context())
			if err != nil {
				return err
			}
			var written map[string]any
			body := map[string]string{"secret": strings.TrimRight(line, "\r\n")}
			if err := server.Call(cmd.Context(), http.MethodPut, "/api/v1/notification-providers/"+url.PathEscape(args[0])+"/secret", nil, body, &written); err != nil {
				return fmt.Errorf("writing the secret: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "secret of provider %s written\n", args[0])
			return nil
		},
	}
	access.Flags(set.Flags())
	cmd := &cobra.Command{Use: "secret", Short: "Write passwords and tokens of providers; they are never shown again"}
	cmd.AddCommand(set)
	return cmd
}
