package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/cluster/command"
)

func newJoinCommand(access *cli.Access) *cobra.Command { return command.Join(access) }
