package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
)

// maxFile bounds what is read of a file, in bytes: the hub takes no larger object.
const maxFile = 4 << 20

// Preview is what an Application would do in each partition.
type Preview struct {
	// Revision it would run.
	Revision string `json:"revision"`
	// Approval are the partitions that it reaches only after somebody else has approved it.
	Approval   []string           `json:"approval,omitempty"`
	Partitions []PartitionPreview `json:"partitions"`
}

// PartitionPreview is what it would do in one.
type PartitionPreview struct {
	Partition string `json:"partition"`
	Cluster   string `json:"cluster"`
	// Explanation of the numbers of replicas.
	Explanation []string `json:"explanation,omitempty"`
	Changes     []Change `json:"changes,omitempty"`
	// Removed says that the application would leave the partition.
	Removed bool `json:"removed,omitempty"`
	// Error says why it cannot be told.
	Error string `json:"error,omitempty"`
}

// Change is one object that would be created, changed or removed, or that stays as it is.
type Change struct {
	Component string `json:"component,omitempty"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Action    string `json:"action"`
	// Diff shows the fields that would change, line by line.
	Diff string `json:"diff,omitempty"`
	// Reason and Message say why the cluster would refuse it.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Preview shows what the Application in a file would create, change and remove in each partition.
func (c *Command) Preview(ctx context.Context, stdin io.Reader, file string) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	app, err := readApplication(stdin, file)
	if err != nil {
		return err
	}
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	if app.Namespace == "" {
		if app.Namespace, err = c.Access.Tenant(); err != nil {
			return err
		}
	}
	preview := &Preview{}
	path := "/api/v1/tenants/" + url.PathEscape(app.Namespace) + "/preview"
	if err := server.Call(ctx, http.MethodPost, path, nil, app, preview); err != nil {
		return fmt.Errorf("previewing application %s: %w", app.Name, err)
	}
	if err := c.Output.Print(c.Out, preview, func(t *cli.Table) { fillPreview(t, preview) }); err != nil || !c.Output.Table() {
		return err
	}
	if len(preview.Approval) > 0 {
		fmt.Fprintf(c.Out, "\nRevision %s reaches %s only after somebody else has approved it.\n", preview.Revision, strings.Join(preview.Approval, ", "))
	}
	printDiffs(c.Out, preview)
	return nil
}

func readApplication(stdin io.Reader, file string) (*v1alpha1.Application, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, cli.Usagef("reading the Application: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxFile))
	if err != nil {
		return nil, fmt.Errorf("reading the Application: %w", err)
	}
	app := &v1alpha1.Application{}
	if err := yaml.UnmarshalStrict(text, app); err != nil {
		return nil, cli.Usagef("%s is no Application: %w", file, err)
	}
	if app.Kind != "Application" || app.Name == "" {
		return nil, cli.Usagef("%s is no Application: kind is %q, name %q", file, app.Kind, app.Name)
	}
	return app, nil
}

func fillPreview(t *cli.Table, preview *Preview) {
	t.Header("PARTITION", "CLUSTER", "ACTION", "OBJECT", "DETAIL")
	for _, p := range preview.Partitions {
		if p.Error != "" {
			t.Row(p.Partition, p.Cluster, "Unknown", "", p.Error)
		}
		for _, change := range p.Changes {
			t.Row(p.Partition, p.Cluster, change.Action, change.Kind+"/"+change.Name, change.Message)
		}
	}
}

// printDiffs shows what would change in objects that are there already.
func printDiffs(out io.Writer, preview *Preview) {
	for _, p := range preview.Partitions {
		for _, change := range p.Changes {
			if change.Diff != "" {
				fmt.Fprintf(out, "\n%s: %s/%s\n%s\n", p.Partition, change.Kind, change.Name, strings.TrimRight(change.Diff, "\n"))
			}
		}
	}
}
