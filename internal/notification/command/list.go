package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
)

// List shows what was and will be sent.
type List struct {
	Access *cli.Access

	output                       cli.Output
	state, channel, topic, named string
	limit                        int
}

// Command makes the sub-command.
func (l *List) Command() *cobra.Command {
	const byDefault = 50
	cmd := &cobra.Command{
		Use: "list", Short: "List what was and will be sent, the newest first", Args: cli.Args(cobra.NoArgs),
		Example: `  yunfan notifications list -n edu --state Dead`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&l.state, "state", "", "only Pending, Sent or Dead")
	flags.StringVar(&l.channel, "channel", "", "only Inbox, Email, SMS or Webhook")
	flags.StringVar(&l.topic, "topic", "", "only this topic")
	flags.StringVar(&l.named, "name", "", "only to this user or receiver")
	flags.IntVar(&l.limit, "limit", byDefault, "how many, at most 500")
	l.output.Flags(flags)
	l.Access.Flags(flags)
	cli.Complete(cmd, "state", "Pending", "Sent", "Dead")
	cli.Complete(cmd, "channel", "Inbox", "Email", "SMS", "Webhook")
	return cmd
}

func (l *List) run(ctx context.Context, out io.Writer) error {
	server, err := l.Access.Server(ctx)
	if err != nil {
		return err
	}
	query := url.Values{"pageSize": {strconv.Itoa(l.limit)}}
	for field, value := range map[string]string{"tenant": l.Access.Namespace, "state": l.state, "channel": l.channel, "topic": l.topic, "name": l.named} {
		if value != "" && value != "default" {
			query.Set(field, value)
		}
	}
	var page struct {
		Items []map[string]any `json:"items"`
		Total int              `json:"total"`
	}
	if err := server.Call(ctx, http.MethodGet, "/api/v1/notifications", query, nil, &page); err != nil {
		return fmt.Errorf("reading what was sent: %w", err)
	}
	return l.output.Print(out, page, func(t *cli.Table) {
		t.Header("ID", "CREATED", "TENANT", "TOPIC", "CHANNEL", "TO", "STATE", "ATTEMPTS", "ERROR")
		for _, row := range page.Items {
			to := row["user"]
			if to == nil {
				to = row["receiver"]
			}
			t.Row(row["id"], row["created"], row["tenant"], row["topic"], row["channel"], to, row["state"], row["attempts"], row["error"])
		}
	})
}
