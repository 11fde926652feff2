package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/request/command"
)

// newRequestsCommand lists requests; its sub-commands are about one of them.
func newRequestsCommand(access *cli.Access) *cobra.Command {
	cmd := view(access, cli.List{Path: "/api/v1/resource-requests", Columns: []string{
		"tenant", "name", "type", "partition", "cluster", "phase", "until", "user", "by", "createdAt", "message",
	}}, "requests", "List the resource requests of all tenants")
	one := func(use, short string, flags func(*cobra.Command, *command.Command), run func(*command.Command, *cobra.Command, string) error) {
		c := &command.Command{Access: access}
		sub := &cobra.Command{
			Use: use + " NAME", Short: short, Args: cli.Args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, args []string) error {
				c.Out = cmd.OutOrStdout()
				return run(c, cmd, args[0])
			},
		}
		access.Flags(sub.Flags())
		if flags != nil {
			flags(sub, c)
		}
		cmd.AddCommand(sub)
	}
	one("show", "Show a request with its steps and everything that became of it",
		func(sub *cobra.Command, c *command.Command) { c.Output.Flags(sub.Flags()) },
		func(c *command.Command, cmd *cobra.Command, name string) error { return c.Show(cmd.Context(), name) })
	one("withdraw", "Withdraw a request that nobody has decided on", nil,
		func(c *command.Command, cmd *cobra.Command, name string) error {
			return c.Withdraw(cmd.Context(), name)
		})
	lang := "zh"
	one("form", "Write the form of a request as an HTML page that can be printed",
		func(sub *cobra.Command, _ *command.Command) {
			sub.Flags().StringVar(&lang, "lang", lang, "language: zh or en")
			cli.Complete(sub, "lang", "zh", "en")
		},
		func(c *command.Command, cmd *cobra.Command, name string) error {
			return c.Form(cmd.Context(), name, lang)
		})
	return cmd
}

// newRequestCommand makes a request.
func newRequestCommand(access *cli.Access) *cobra.Command {
	c, wish, file := &command.Command{Access: access}, &command.Wish{}, ""
	cmd := &cobra.Command{
		Use: "request (-f FILE | --type TYPE --partition NAME …)", Short: "Ask for resources", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Out, c.In = cmd.OutOrStdout(), cmd.InOrStdin()
			return c.Make(cmd.Context(), file, wish)
		},
	}
	access.Flags(cmd.Flags())
	c.Output.Flags(cmd.Flags())
	flags := cmd.Flags()
	flags.StringVarP(&file, "filename", "f", "", "file with a ResourceRequest; - for standard input")
	flags.StringVar(&wish.Name, "name", "", "name of the request (default: one that is made up)")
	flags.StringVar(&wish.Type, "type", "New", "New, Change, Extend or Return")
	flags.StringVar(&wish.Partition, "partition", "", "partition that is wanted")
	flags.StringVar(&wish.Cluster, "cluster", "", "cluster that is wished for")
	flags.StringVar(&wish.Environment, "environment", "", "Production, Test or Development")
	flags.StringToStringVar(&wish.Quota, "quota", nil, "RESOURCE=AMOUNT,… such as requests.cpu=4,requests.memory=8Gi")
	flags.StringToStringVar(&wish.Items, "product", nil, "PRODUCT=COUNT,…")
	flags.StringVar(&wish.Until, "until", "", "end: a date, a time, or how long, such as 90d")
	form := &wish.Form
	flags.StringVar(&form.ProjectGroup, "project-group", "", "project group")
	flags.StringVar(&form.Applicant, "applicant", "", "name of the person who answers for it")
	flags.StringVar(&form.Phone, "phone", "", "phone of the applicant")
	flags.StringVar(&form.Email, "email", "", "e-mail address of the applicant")
	flags.StringVar(&form.Application, "application", "", "name and kind of the application")
	flags.StringSliceVar(&form.BaseServices, "base-service", nil, "base services needed, such as MySQL,Kafka")
	flags.StringVar(&form.Purpose, "purpose", "", "what the resources are for")
	flags.StringVar(&wish.ServerType, "server-type", "ApplicationHost", "ApplicationHost, MPP or Hadoop")
	flags.BoolVar(&form.Oracle, "oracle", false, "an Oracle database is needed")
	flags.StringVar(&wish.Storage, "storage", "", "storage space, such as 500Gi")
	flags.Int32Var(&form.Bandwidth, "bandwidth", 0, "bandwidth in Mbit/s")
	flags.StringVar(&form.Room, "room", "", "room")
	flags.Int32Var(&form.Machines, "machines", 1, "number of machines")
	flags.StringVar(&form.Remarks, "remarks", "", "remarks")
	cli.Complete(cmd, "type", "New", "Change", "Extend", "Return")
	cli.Complete(cmd, "environment", "Production", "Test", "Development")
	cli.Complete(cmd, "server-type", "ApplicationHost", "MPP", "Hadoop")
	return cmd
}

// newLedgerCommand shows or exports the ledger.
func newLedgerCommand(access *cli.Access) *cobra.Command {
	c, format, current := &command.Command{Access: access}, "", false
	filters := map[string]*string{}
	cmd := &cobra.Command{
		Use: "ledger", Short: "Show the ledger of resource requests: who asked, who granted how much, until when", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Out = cmd.OutOrStdout()
			query := url.Values{}
			for name, value := range filters {
				if *value != "" {
					query.Set(name, *value)
				}
			}
			if access.Namespace != "" {
				query.Set("tenant", access.Namespace)
			}
			if current {
				query.Set("current", "true")
			}
			return c.Ledger(cmd.Context(), format, query)
		},
	}
	access.Flags(cmd.Flags())
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table, json or csv")
	cli.Complete(cmd, "output", "table", "json", "csv")
	for name, help := range map[string]string{
		"event": "only this event, such as Approved", "partition": "only this partition", "cluster": "only this cluster",
		"request": "only this request", "applicant": "only requests of this user", "actor": "only what this user decided",
		"from": "not before this time or date", "to": "not after this time or date", "search": "only rows with this text",
	} {
		filters[name] = cmd.Flags().String(name, "", help)
	}
	cmd.Flags().BoolVar(&current, "current", false, "only what is given now")
	return cmd
}

func newProductsCommand(access *cli.Access) *cobra.Command {
	return view(access, cli.List{Path: "/api/v1/products", Columns: []string{
		"name", "displayName", "kind", "cpu", "memory", "available", "description",
	}}, "products", "List the products that can be asked for")
}
