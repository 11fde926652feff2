package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/secret/command"
)

func newSecretCommand(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Write secrets; values are never shown again"}
	cmd.AddCommand((&command.Set{Access: access}).Command(), command.List(access), command.Delete(access))
	return cmd
}
