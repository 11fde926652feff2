// Package cli is the frame of the command line: the way to hub and server, output as table, JSON or YAML, progress
// while waiting, and exit codes. It knows no capability.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Exit codes. They are documented in docs/cli.md and stay as they are: scripts use them.
const (
	ExitFailed      = 1 // anything else
	ExitUsage       = 2 // wrong flags or arguments
	ExitTimeout     = 3 // what was waited for did not come in time
	ExitNotFound    = 4 // there is no such object
	ExitForbidden   = 5 // not signed in, or not allowed
	ExitUnreachable = 6 // hub or server do not answer
	ExitInvalid     = 7 // the object was refused as wrong
)

// DefaultDataDir is where the default instance of the embedded clusters lives.
const DefaultDataDir = "/var/lib/yunfan/default"

// UsageError is a mistake in flags or arguments.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// TimeoutError says that what was waited for did not come in time.
type TimeoutError struct{ Err error }

func (e *TimeoutError) Error() string { return e.Err.Error() }
func (e *TimeoutError) Unwrap() error { return e.Err }

// ExitCode gives the exit code for an error; 0 for nil.
func ExitCode(err error) int {
	var usage *UsageError
	var timeout *TimeoutError
	var refused *url.Error
	var network *net.OpError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &timeout):
		return ExitTimeout
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return ExitNotFound
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return ExitForbidden
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), statusCode(err) == 422:
		return ExitInvalid
	case apierrors.IsServiceUnavailable(err), errors.As(err, &refused), errors.As(err, &network):
		return ExitUnreachable
	}
	return ExitFailed
}

func statusCode(err error) int32 {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return known.Status().Code
	}
	return 0
}

// Access is the way to the hub, from the flags every command has.
type Access struct {
	kubeconfig string
	dataDir    string
	// Namespace is the tenant asked for.
	Namespace string
}

// Flags adds the flags to a command and those below it.
func (a *Access) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig of the hub (default: that of --data-dir if given, $KUBECONFIG, or that of the default instance)")
	flags.StringVar(&a.dataDir, "data-dir", "", "data directory of an instance started by 'yunfan up'")
	flags.StringVarP(&a.Namespace, "tenant", "n", "", "tenant (default: the namespace of the kubeconfig's context)")
}

// path is the kubeconfig file to use.
func (a *Access) path() (string, error) {
	embedded := HubKubeconfig(DefaultDataDir)
	switch {
	case a.kubeconfig != "":
		return a.kubeconfig, nil
	case a.dataDir != "":
		return HubKubeconfig(a.dataDir), nil
	case os.Getenv("KUBECONFIG") != "":
		return os.Getenv("KUBECONFIG"), nil
	}
	if _, err := os.Stat(embedded); err != nil {
		return "", Usagef("no hub is known: start one with 'yunfan up', or give --kubeconfig FILE (%w)", err)
	}
	return embedded, nil
}

// missing is an error if no file of a list is there: client-go would take that for an empty kubeconfig.
func missing(list string) error {
	var err error
	for _, file := range filepath.SplitList(list) {
		if _, err = os.Stat(file); err == nil {
			return nil
		}
	}
	return Usagef("reading the kubeconfig: %w: start a hub with 'yunfan up', or give --kubeconfig FILE", err)
}

// Records is the database of the instance that was asked for.
func (a *Access) Records() string {
	return filepath.Join(cmp.Or(a.dataDir, DefaultDataDir), "records", "records.db")
}

// HubKubeconfig is the file with the way to the hub of an embedded instance.
func HubKubeconfig(dataDir string) string {
	return filepath.Join(dataDir, "kubeconfig", "hub.kubeconfig")
}

// Config is the way to the hub.
func (a *Access) Config() (*rest.Config, error) {
	path, err := a.path()
	if err != nil {
		return nil, err
	}
	if err := missing(path); err != nil {
		return nil, err
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(path)}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, Usagef("reading the kubeconfig %s: %w", path, err)
	}
	if a.Namespace == "" {
		if a.Namespace, _, err = loader.Namespace(); err != nil {
			return nil, Usagef("reading the kubeconfig %s: %w", path, err)
		}
	}
	config.QPS, config.UserAgent = -1, "yunfan"
	return config, nil
}

// Client is a client of the hub for Yunfan's and Kubernetes' own kinds.
func (a *Access) Client() (client.WithWatch, error) {
	config, err := a.Config()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to the hub: %w", err)
	}
	return c, nil
}

// Tenant is the tenant asked for; one must have been.
func (a *Access) Tenant() (string, error) {
	if a.Namespace == "" || a.Namespace == "default" {
		return "", Usagef("which tenant? Give --tenant NAME ('yunfan get tenants' lists them)")
	}
	return a.Namespace, nil
}

// Execute runs the root command and gives the exit code. Errors go to stderr, as one line.
func Execute(ctx context.Context, root *cobra.Command, stderr io.Writer) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &UsageError{err} })
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "yunfan: %v\n", err)
		if hint := hint(err); hint != "" {
			fmt.Fprintln(stderr, hint)
		}
	}
	return ExitCode(err)
}

func hint(err error) string {
	switch ExitCode(err) {
	case ExitUnreachable:
		return "Is it running? 'yunfan up' starts an embedded hub; --kubeconfig or --data-dir choose another."
	case ExitUsage:
		return "See 'yunfan --help' and 'yunfan COMMAND --help'."
	}
	return ""
}

// Args makes an argument check's error a UsageError.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return Usagef("%s: %w", cmd.UseLine(), err)
		}
		return nil
	}
}
