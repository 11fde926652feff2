// Package command is the command line's verbs for secrets: values go to the server and never come back.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"yunfan.io/yunfan/internal/cli"
)

// maxFile bounds a value that is read from a file, in bytes: a Secret holds no more.
const maxFile = 1 << 20

// Set writes a secret.
type Set struct {
	Access *cli.Access

	literals, files                    []string
	server, username, certificate, key string
	passwordStdin, replace             bool
	standardInput                      io.Reader
	publication                        string
	partitions                         []string
}

// Command makes the sub-command.
func (s *Set) Command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Write values of a secret; they are never shown again", Args: cli.Args(cobra.ExactArgs(1)),
		Long: `Write values of a secret. Values that are not named stay as they are, unless --replace is given.

A value on the command line can be seen by others on this machine while the command runs: use --from-file KEY=- to read it
from standard input.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.standardInput = cmd.InOrStdin()
			return s.run(cmd.Context(), args[0], cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&s.literals, "from-literal", nil, "KEY=VALUE (repeatable)")
	flags.StringArrayVar(&s.files, "from-file", nil, "[KEY=]FILE, the content of a file; - is standard input (repeatable)")
	flags.StringVar(&s.server, "registry", "", "credentials of this registry, with --username and --password-stdin")
	flags.StringVar(&s.username, "username", "", "user of the registry")
	flags.BoolVar(&s.passwordStdin, "password-stdin", false, "read the password of the registry from standard input")
	flags.StringVar(&s.certificate, "cert", "", "file of a TLS certificate, followed by those between it and its authority")
	flags.StringVar(&s.key, "key", "", "file of the certificate's key")
	flags.BoolVar(&s.replace, "replace", false, "remove values that are not named")
	flags.StringVar(&s.publication, "publication", "", "where applications may use it: All, Selected (with --partition) or None")
	flags.StringArrayVar(&s.partitions, "partition", nil, "a partition in which applications may use it (repeatable)")
	s.Access.Flags(flags)
	cli.Complete(cmd, "publication", "All", "Selected", "None")
	return cmd
}

func (s *Set) run(ctx context.Context, name string, out io.Writer) error {
	body, err := s.body()
	if err != nil {
		return err
	}
	server, err := s.Access.Server(ctx)
	if err != nil {
		return err
	}
	path, err := where(s.Access, name)
	if err != nil {
		return err
	}
	var row map[string]any
	method := http.MethodPatch
	if s.replace || s.server != "" || s.certificate != "" {
		method = http.MethodPut
	}
	err = server.Call(ctx, method, path, nil, body, &row)
	if method == http.MethodPatch && apierrors.IsNotFound(err) {
		err = server.Call(ctx, http.MethodPut, path, nil, body, &row)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "secret %s written: %v\n", name, row["keys"])
	return nil
}

func (s *Set) body() (map[string]any, error) {
	body := map[string]any{}
	if s.publication != "" {
		body["publication"], body["partitions"] = s.publication, s.partitions
	}
	kinds := 0
	for _, given := range []bool{len(s.literals)+len(s.files) > 0, s.server != "", s.certificate != "" || s.key != ""} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, cli.Usagef("give values (--from-literal, --from-file), a registry (--registry), or a certificate (--cert, --key), and one of them only")
	}
	switch {
	case s.server != "":
		if s.username == "" || !s.passwordStdin {
			return nil, cli.Usagef("--registry needs --username and --password-stdin")
		}
		password, err := s.read("-")
		if err != nil {
			return nil, err
		}
		body["registry"] = map[string]string{"server": s.server, "username": s.username, "password": strings.TrimRight(string(password), "\r\n")}
	case s.certificate != "" || s.key != "":
		certificate, err1 := s.read(s.certificate)
		key, err2 := s.read(s.key)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		body["tls"] = map[string]string{"certificate": string(certificate), "key": string(key)}
	default:
		values, err := s.values()
		if err != nil {
			return nil, err
		}
		body["data"] = values
	}
	return body, nil
}

// values are encoded in base64 on their way.
func (s *Set) values() (map[string][]byte, error) {
	values := map[string][]byte{}
	for _, literal := range s.literals {
		key, value, ok := strings.Cut(literal, "=")
		if !ok || key == "" {
			return nil, cli.Usagef("--from-literal: write KEY=VALUE")
		}
		values[key] = []byte(value)
	}
	for _, file := range s.files {
		key, path, ok := strings.Cut(file, "=")
		if !ok {
			key, path = filepath.Base(file), file
		}
		content, err := s.read(path)
		if err != nil {
			return nil, err
		}
		values[key] = content
	}
	return values, nil
}

func (s *Set) read(path string) ([]byte, error) {
	in := s.standardInput
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading a value: %w", err)
		}
		defer file.Close()
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading a value: %w", err)
	}
	if len(content) > maxFile {
		return nil, cli.Usagef("%s has more than 1 MiB, which no secret holds", path)
	}
	return content, nil
}

// Delete deletes a secret.
func Delete(access *cli.Access) *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a secret once no application runs with it", Args: cli.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := access.Server(cmd.Context())
			if err != nil {
				return err
			}
			path, err := where(access, args[0])
			if err != nil {
				return err
			}
			var row map[string]any
			if err := server.Call(cmd.Context(), http.MethodDelete, path, nil, nil, &row); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "secret %s deleted\n", args[0])
			return nil
		},
	}
	access.Flags(cmd.Flags())
	return cmd
}

// List shows secrets without their values.
func List(access *cli.Access) *cobra.Command {
	list := cli.List{Access: access, Columns: []string{"name", "type", "keys", "version", "writtenAt", "writtenBy", "ready", "message"}}
	cmd := &cobra.Command{
		Use: "list", Short: "List secrets: names, types and who wrote them, never values", Args: cli.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := access.Config(); err != nil { // it says which tenant
				return err
			}
			path, err := where(access, "")
			if err != nil {
				return err
			}
			list.Path = path
			return list.Run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	access.Flags(cmd.Flags())
	list.Flags(cmd)
	return cmd
}

func where(access *cli.Access, name string) (string, error) {
	tenant, err := access.Tenant()
	if err != nil {
		return "", err
	}
	path := "/api/v1/tenants/" + url.PathEscape(tenant) + "/secrets"
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path, nil
}
