package main

import (
	"context"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/access/login"
	"yunfan.io/yunfan/internal/cli"
)

func newLoginCommand(access *cli.Access) *cobra.Command {
	l := &login.Login{Access: access}
	cmd := &cobra.Command{
		Use:   "login [--server URL]",
		Short: "Sign in, for kubectl and for this command line",
		Long: `Sign in to the platform and write a kubeconfig with which kubectl reaches the hub and, below /clusters/NAME, the
members, with the rights of the user. The password is read from the terminal, or from standard input.`,
		Example: "  yunfan login --server https://yunfan.example.com:8443 --ca ca.pem --user li\n  yunfan login --directory corp",
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.In, l.Out = cmd.InOrStdin(), cmd.OutOrStdout()
			return l.Run(cmd.Context())
		},
	}
	access.Flags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVar(&l.Server, "server", "", "URL of the server (default: that of the hub that --kubeconfig or --data-dir name)")
	flags.StringVar(&l.User, "user", "", "name of the user (default: it is asked for)")
	flags.StringVar(&l.Directory, "directory", "", "directory that knows the user (default: accounts of the platform)")
	flags.StringVar(&l.CA, "ca", "", "file with the CA of the server's certificate (default: those of this machine)")
	flags.StringVar(&l.Kubeconfig, "write-kubeconfig", "", "kubeconfig to write (default: kubeconfig in $YUNFAN_CONFIG or ~/.yunfan)")
	return cmd
}

// session makes a sub-command that needs somebody who is signed in.
func session(use, short string, args cobra.PositionalArgs, run func(c *login.Command, ctx context.Context, args []string) error) *cobra.Command {
	c := &login.Command{}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cli.Args(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.In, c.Out = cmd.InOrStdin(), cmd.OutOrStdout()
			return run(c, cmd.Context(), args)
		},
	}
	cmd.Flags().StringVar(&c.Server, "server", "", "URL of the server (default: that of the last sign-in)")
	c.Output.Flags(cmd.Flags())
	return cmd
}

func newLogoutCommand() *cobra.Command {
	return session("logout", "Sign out", cobra.NoArgs, func(c *login.Command, ctx context.Context, _ []string) error { return c.Logout(ctx) })
}

func newWhoAmICommand() *cobra.Command {
	return session("whoami", "Show who is signed in, and the groups in which he acts", cobra.NoArgs, func(c *login.Command, ctx context.Context, _ []string) error { return c.WhoAmI(ctx) })
}

func newTokenCommand() *cobra.Command {
	cmd := session(cli.TokenCommand, "Print a token for kubectl, which calls this by itself", cobra.NoArgs, func(c *login.Command, ctx context.Context, _ []string) error { return c.Token(ctx) })
	cmd.Hidden = true
	return cmd
}

func newPasswordCommand() *cobra.Command {
	return session("password [USER]", "Change your password, or give another user a new one (administrators)", cobra.MaximumNArgs(1), func(c *login.Command, ctx context.Context, args []string) error {
		if len(args) == 1 {
			return c.SetPassword(ctx, args[0])
		}
		return c.Password(ctx)
	})
}

func newTokensCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "tokens", Short: "Access tokens, with which machines act for you"}
	asked := login.NewToken{}
	create := session("create", "Make an access token; it is printed once", cobra.NoArgs, func(c *login.Command, ctx context.Context, _ []string) error { return c.CreateToken(ctx, asked) })
	flags := create.Flags()
	flags.StringVar(&asked.Description, "description", "", "what it is for")
	flags.StringVar(&asked.Scope.Tenant, "tenant", "", "the only tenant in which it acts (default: all of yours)")
	flags.StringVar(&asked.Scope.Role, "role", "", "the highest role it has: Admin, Operator or Viewer (default: yours)")
	flags.StringSliceVar(&asked.Scope.Partitions, "partition", nil, "the only partitions of the tenant in which it acts (default: all of yours)")
	flags.IntVar(&asked.Days, "days", 0, "days until it ends (default 90, at most 366)")
	cmd.AddCommand(create,
		session("list", "List your access tokens", cobra.NoArgs, func(c *login.Command, ctx context.Context, _ []string) error { return c.ListTokens(ctx) }),
		session("delete NAME", "Revoke an access token", cobra.ExactArgs(1), func(c *login.Command, ctx context.Context, args []string) error {
			return c.DeleteToken(ctx, args[0])
		}))
	return cmd
}

func newFirstPasswordCommand(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "first-password",
		Short: "Show the first administrator's generated password, once (administrators of the hub)",
		Args:  cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			hub, err := access.Client()
			if err != nil {
				return err
			}
			return login.FirstPassword(cmd.Context(), hub, cmd.OutOrStdout())
		},
	}
	access.Flags(cmd.Flags())
	return cmd
}
