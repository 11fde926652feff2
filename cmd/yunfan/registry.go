package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/audit"
	"yunfan.io/yunfan/internal/registry"
)

func newRegistryCommand() *cobra.Command {
	o, records := registry.Options{}, ""
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
			handler := slog.NewJSONHandler(cmd.ErrOrStderr(), nil)
			if records == "" {
				return registry.Run(cmd.Context(), o, slog.New(handler))
			}
			host, err := os.Hostname()
			if err != nil {
				return fmt.Errorf("finding this machine's name: %w", err)
			}
			outside := &audit.Outside{Location: records, Name: "registry " + host + "/" + o.Listen, Log: logr.FromSlogHandler(handler)}
			o.Audit = auditOfImages(outside)
			return errors.Join(registry.Run(cmd.Context(), o, slog.New(handler)), outside.Close())
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "directory that holds the images")
	cmd.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:5000", "address for pulls")
	cmd.Flags().StringVar(&o.PushListen, "push-listen", "", "address for pushes, unix:PATH or a loopback HOST:PORT (default unix:DIR/push.sock)")
	cmd.Flags().StringVar(&records, "records", "", "the server's database: changes of images have rows in its audit, and are refused without (default: no audit)")
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// auditOfImages writes rows for changes of images.
func auditOfImages(outside *audit.Outside) registry.Audit {
	return func(ctx context.Context, c registry.Change) (func(int, string), error) {
		action := "push"
		if c.Method == http.MethodDelete {
			action = "delete"
		}
		end, err := outside.Begin(ctx, audit.Intent{
			User: c.User, Origin: "machine", Via: "push socket", Address: c.Address, UserAgent: c.UserAgent,
			Action: action, Resource: "images", Name: c.Repository + ":" + c.Reference, Method: c.Method, Path: c.Path,
		})
		if err != nil {
			return nil, err
		}
		return func(code int, digest string) { end(audit.Outcome{Code: code, UID: digest}) }, nil
	}
}
