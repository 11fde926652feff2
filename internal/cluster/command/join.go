// Package command is the command line's verbs for clusters.
package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/cli"
)

// maxKubeconfig bounds the file, in bytes.
const maxKubeconfig = 1 << 20

// Join makes the sub-command that joins a cluster.
func Join(access *cli.Access) *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use: "join NAME --cluster-kubeconfig FILE", Short: "Join a cluster, or give it new credentials",
		Long: `Join a cluster, or give it new credentials. The kubeconfig goes to the server and never comes back. It must hold everything
itself: kubectl config view --raw --minify --flatten`,
		Example: `  kubectl config view --raw --minify --flatten --context beijing | yunfan join beijing --cluster-kubeconfig -`,
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := read(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return join(cmd.Context(), access, args[0], text, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "cluster-kubeconfig", "", "kubeconfig of the cluster; - is standard input")
	access.Flags(cmd.Flags())
	return cmd
}

func read(file string, standardInput io.Reader) ([]byte, error) {
	if file == "" {
		return nil, cli.Usagef("give the cluster's kubeconfig with --cluster-kubeconfig FILE")
	}
	from := standardInput
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, cli.Usagef("reading the cluster's kubeconfig: %w", err)
		}
		defer opened.Close()
		from = opened
	}
	text, err := io.ReadAll(io.LimitReader(from, maxKubeconfig+1))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's kubeconfig: %w", err)
	}
	return text, nil
}

func join(ctx context.Context, access *cli.Access, name string, kubeconfig []byte, out io.Writer) error {
	server, err := access.Server(ctx)
	if err != nil {
		return err
	}
	var answer struct {
		Created bool `json:"created"`
	}
	body := map[string]string{"kubeconfig": string(kubeconfig)}
	if err := server.Call(ctx, http.MethodPut, "/api/v1/clusters/"+url.PathEscape(name)+"/kubeconfig", nil, body, &answer); err != nil {
		return err
	}
	if !answer.Created {
		fmt.Fprintf(out, "cluster %s has new credentials\n", name)
		return nil
	}
	fmt.Fprintf(out, "cluster %s joined: 'yunfan get clusters' says when it is ready\n", name)
	return nil
}
