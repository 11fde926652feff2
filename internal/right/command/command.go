// Package command is the command line's question whether somebody may do something.
package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"yunfan.io/yunfan/internal/cli"
)

// Question is what somebody wants to do, as the server takes it; see docs/rights.md.
type Question struct {
	User      string `json:"user,omitempty"`
	Verb      string `json:"verb"`
	Resource  string `json:"resource"`
	Name      string `json:"name,omitempty"`
	Tenant    string `json:"tenant,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Partition string `json:"partition,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
}

// Answer is what the server says.
type Answer struct {
	Allowed     bool     `json:"allowed"`
	Role        string   `json:"role,omitempty"`
	Group       string   `json:"group,omitempty"`
	Rule        string   `json:"rule,omitempty"`
	Memberships []string `json:"memberships,omitempty"`
	Missing     string   `json:"missing,omitempty"`
}

// CanI is the question.
type CanI struct {
	Access   *cli.Access
	Output   cli.Output
	Question Question
}

// Run asks for a verb, a resource and perhaps a name, and prints the answer. No is an error that says what is missing.
func (c *CanI) Run(ctx context.Context, out io.Writer, args []string) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	q := c.Question
	q.Verb, q.Resource = args[0], args[1]
	if len(args) > 2 {
		q.Name = args[2]
	}
	if c.Access.Namespace != "default" {
		q.Tenant = c.Access.Namespace
	}
	if q.Partition != "" && q.Tenant == "" {
		return cli.Usagef("--partition %s: give its tenant, too, with --tenant", q.Partition)
	}
	answer := Answer{}
	if err := server.Call(ctx, http.MethodPost, "/api/v1/access-review", nil, q, &answer); err != nil {
		return err
	}
	if !c.Output.Table() {
		return c.Output.Print(out, answer, nil)
	}
	if !answer.Allowed {
		return apierrors.NewForbidden(schema.GroupResource{Resource: q.Resource}, q.Name, fmt.Errorf("no: %s", answer.Missing))
	}
	fmt.Fprintf(out, "yes: %s\n", answer.Role)
	if len(answer.Memberships) > 0 {
		fmt.Fprintf(out, "by the membership %s\n", strings.Join(answer.Memberships, ", "))
	}
	fmt.Fprintf(out, "by the rule %s of the group %s\n", answer.Rule, answer.Group)
	return nil
}
