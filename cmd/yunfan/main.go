// Command yunfan is the platform's one program: server, registry, embedded clusters and command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	ctrl "sigs.k8s.io/controller-runtime"

	"yunfan.io/yunfan/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Execute(ctx, newRootCommand(), os.Stderr)
	stop()
	os.Exit(code)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "yunfan",
		Short:   "Container-cloud platform over many Kubernetes clusters",
		Version: version,
		Long: `Yunfan deploys, scales, watches and protects applications over many Kubernetes clusters.

Exit codes: 0 done, 1 failed, 2 wrong flags or arguments, 3 what was waited for did not come in time, 4 not found,
5 not signed in or not allowed, 6 hub or server do not answer, 7 refused as invalid.`,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			if cmd.Name() != serverCommand { // the others tell what they do themselves; a logger is set once only
				ctrl.SetLogger(logr.Discard())
			}
		},
	}
	access := &cli.Access{}
	root.AddGroup(
		&cobra.Group{ID: "platform", Title: "The platform:"},
		&cobra.Group{ID: "people", Title: "Signing in:"},
		&cobra.Group{ID: "applications", Title: "Applications, over all their partitions at once:"},
		&cobra.Group{ID: "workflows", Title: "Workflows and decisions:"},
		&cobra.Group{ID: "requests", Title: "Asking for resources:"},
		&cobra.Group{ID: "look", Title: "Looking around:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	add("platform",
		newUpCommand(), newDownCommand(), newKubeconfigCommand(), newServerCommand(), newRegistryCommand(), newEdgeCommand(), newImageCommand(), newJoinCommand(access))
	add("people",
		newLoginCommand(access), newLogoutCommand(), newWhoAmICommand(), newPasswordCommand(), newTokensCommand(), newTokenCommand(), newFirstPasswordCommand(access), newCanICommand(access))
	add("applications",
		newStatusCommand(access), newPreviewCommand(access), newLogsCommand(access), newScaleCommand(access),
		newStopCommand(access), newStartCommand(access), newRestartCommand(access), newRevisionsCommand(access), newRollbackCommand(access), newSecretCommand(access))
	add("workflows", newRunCommand(access), newRunsCommand(access), newApprovalsCommand(access), newApproveCommand(access), newRejectCommand(access))
	add("workflows", newSteeringCommands(access)...)
	add("applications", newRolloutsCommand(access), newRolloutCommand(access))
	add("requests", newRequestCommand(access), newRequestsCommand(access), newLedgerCommand(access), newProductsCommand(access))
	add("look",
		newGetCommand(access), newTenantsCommand(access), newPartitionsCommand(access), newPodsCommand(access), newUsageCommand(access), newNodesCommand(access), newPortsCommand(access), newRoutesCommand(access), newEdgesCommand(access),
		newHealthCommand(access), newCertificatesCommand(access), newAuditCommand(access), newNotificationsCommand(access))
	return root
}
