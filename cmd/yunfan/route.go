package main

import (
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/route/command"
)

func newRoutesCommand(access *cli.Access) *cobra.Command { return command.Routes(access) }

func newEdgesCommand(access *cli.Access) *cobra.Command { return command.Edges(access) }
