package main

import (
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/registry"
)

func newRegistryCommand() *cobra.Command {
	o := registry.Options{}
	cmd := &cobra.Command{
		Use:   "registry --dir DIR --listen HOST:PORT",
		Short: "Serve container images to every node",
		Long: `Serve container images to every node.

Anybody who reaches --listen may pull; nobody may change anything there. Images are pushed through --push-listen, which is
a Unix socket that only the owner of the process can open, or a loopback address.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.PushListen == "" {
				o.PushListen = "unix:" + filepath.Join(o.Dir, "push.sock")
			}
			return registry.Run(cmd.Context(), o, slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "directory that holds the images")
	cmd.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:5000", "address for pulls")
	cmd.Flags().StringVar(&o.PushListen, "push-listen", "", "address for pushes, unix:PATH or a loopback HOST:PORT (default unix:DIR/push.sock)")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}
