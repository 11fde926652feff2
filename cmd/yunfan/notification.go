package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/notification/command"
)

func newNotificationsCommand(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{Use: "notifications", Short: "Messages to people and programs: what is sent, what you were told and how"}
	cmd.AddCommand(
		(&command.List{Access: access}).Command(), (&command.Inbox{Access: access}).Command(), (&command.Me{Access: access}).Command(),
		command.Key(access), command.Test(access), command.Secret(access))
	return cmd
}
