// Package command is the command line of resource requests: one is made on the hub, as with kubectl, and looked at through
// the server, which knows its ledger.
package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/cli"
	"yunfan.io/yunfan/internal/request"
	"yunfan.io/yunfan/internal/rest"
)

const (
	timeInTable = "2006-01-02 15:04"
	// largestFile bounds what is read of a file, in bytes.
	largestFile = 1 << 20
)

// Command is what the sub-commands have in common.
type Command struct {
	Access *cli.Access
	Output cli.Output
	// Out is where the result goes, In where a file called - is read from.
	Out io.Writer
	In  io.Reader
}

// Wish is a request given by flags.
type Wish struct {
	Name, Type, Partition, Cluster, Environment, Until string
	// Items are PRODUCT=COUNT, Quota RESOURCE=AMOUNT.
	Items, Quota map[string]string
	Form         v1alpha1.RequestForm
	ServerType   string
	Storage      string
}

// Make makes a request from a file, or from flags if file is empty.
func (c *Command) Make(ctx context.Context, file string, wish *Wish) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	req := &v1alpha1.ResourceRequest{}
	var err error
	if file != "" {
		err = c.read(file, req)
	} else {
		err = wish.write(req, time.Now())
	}
	if err != nil {
		return err
	}
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	if req.Namespace == "" {
		if req.Namespace, err = c.Access.Tenant(); err != nil {
			return err
		}
	}
	req.Status = v1alpha1.ResourceRequestStatus{}
	if err := hub.Create(ctx, req); err != nil {
		return fmt.Errorf("making request %s: %w", req.Name, err)
	}
	if !c.Output.Table() {
		return c.Output.Print(c.Out, req, nil)
	}
	fmt.Fprintf(c.Out, "Request %s of tenant %s was made; 'yunfan requests show %s -n %s' tells how it goes.\n", req.Name, req.Namespace, req.Name, req.Namespace)
	return nil
}

func (c *Command) read(file string, req *v1alpha1.ResourceRequest) error {
	from := c.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return cli.Usagef("reading the request: %w", err)
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, largestFile))
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if err := yaml.UnmarshalStrict(text, req); err != nil {
		return cli.Usagef("reading the request in %s: %w", file, err)
	}
	if req.Kind != "ResourceRequest" {
		return cli.Usagef("%s has a %q: write a ResourceRequest", file, req.Kind)
	}
	return nil
}

// write fills a request in; a field that is missing is refused by the hub, with its place.
func (w *Wish) write(req *v1alpha1.ResourceRequest, now time.Time) error {
	req.Name = w.Name
	if w.Name == "" {
		req.GenerateName = "request-"
	}
	req.Spec.Form = w.Form
	req.Spec.Form.ServerType = v1alpha1.ServerType(w.ServerType)
	wanted := &req.Spec.Wanted
	wanted.Type, wanted.Partition, wanted.Cluster, wanted.Environment = v1alpha1.RequestType(w.Type), w.Partition, w.Cluster, w.Environment
	if w.Storage != "" {
		storage, err := resource.ParseQuantity(w.Storage)
		if err != nil {
			return cli.Usagef("--storage %q: give an amount such as 500Gi", w.Storage)
		}
		req.Spec.Form.Storage = &storage
	}
	for name, text := range w.Quota {
		amount, err := resource.ParseQuantity(text)
		if err != nil {
			return cli.Usagef("--quota %s=%s: give an amount such as 4 or 8Gi", name, text)
		}
		if wanted.Quota == nil {
			wanted.Quota = corev1.ResourceList{}
		}
		wanted.Quota[corev1.ResourceName(name)] = amount
	}
	if err := w.items(wanted); err != nil {
		return err
	}
	if w.Until != "" {
		until, err := end(w.Until, now)
		if err != nil {
			return err
		}
		wanted.Until = &metav1.Time{Time: until}
	}
	return nil
}

func (w *Wish) items(wanted *v1alpha1.WantedResources) error {
	for _, name := range sorted(w.Items) {
		var count int32
		if _, err := fmt.Sscanf(w.Items[name], "%d", &count); err != nil || fmt.Sprint(count) != w.Items[name] {
			return cli.Usagef("--product %s=%s: give a number of pieces", name, w.Items[name])
		}
		wanted.Items = append(wanted.Items, v1alpha1.RequestItem{Product: name, Count: count})
	}
	return nil
}

// end reads a date, of which all the day counts, a time, or a number of days from now such as 90d.
func end(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	days := 0
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if _, err := fmt.Sscanf(number, "%d", &days); err == nil && fmt.Sprint(days) == number && days > 0 {
			return now.AddDate(0, 0, days), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d), nil
	}
	return time.Time{}, cli.Usagef("--until %q: give a date such as 2027-03-31, a time such as 2027-03-31T16:00:00Z, or how long, such as 90d", text)
}

// Withdraw takes a request back that nobody has decided on.
func (c *Command) Withdraw(ctx context.Context, name string) error {
	hub, err := c.Access.Client()
	if err != nil {
		return err
	}
	tenant, err := c.Access.Tenant()
	if err != nil {
		return err
	}
	req := &v1alpha1.ResourceRequest{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}}
	if err := hub.Patch(ctx, req, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"withdrawn":true}}`))); err != nil {
		return fmt.Errorf("withdrawing request %s: %w", name, err)
	}
	fmt.Fprintf(c.Out, "Request %s is being withdrawn.\n", name)
	return nil
}

func (c *Command) path(name string) (string, error) {
	tenant, err := c.Access.Tenant()
	if err != nil {
		return "", err
	}
	return "/api/v1/tenants/" + url.PathEscape(tenant) + "/resource-requests/" + url.PathEscape(name), nil
}

// Show prints one request with its steps and everything that became of it.
func (c *Command) Show(ctx context.Context, name string) error {
	if err := c.Output.Check(); err != nil {
		return err
	}
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	path, err := c.path(name)
	if err != nil {
		return err
	}
	detail := &request.Detail{}
	if err := server.Call(ctx, http.MethodGet, path, nil, nil, detail); err != nil {
		return fmt.Errorf("reading request %s: %w", name, err)
	}
	if !c.Output.Table() {
		return c.Output.Print(c.Out, detail, nil)
	}
	return c.show(detail)
}

func (c *Command) show(d *request.Detail) error {
	req := d.Request
	fmt.Fprintf(c.Out, "Request %s of tenant %s: %s, %s of partition %s\n", req.Name, req.Namespace, req.Status.Phase, req.Spec.Wanted.Type, req.Spec.Wanted.Partition)
	for _, line := range [][2]string{
		{"Message", req.Status.Message},
		{"Applicant", req.Spec.Form.Applicant + ", " + req.Spec.Form.ProjectGroup + ", " + req.Spec.Form.Phone + ", " + req.Spec.Form.Email},
		{"Purpose", req.Spec.Form.Purpose}, {"Decided by", strings.Join(req.Status.By, ", ")}, {"Comment", req.Status.Comment}, {"Run", req.Status.Run},
	} {
		if line[1] != "" {
			fmt.Fprintf(c.Out, "%-11s %s\n", line[0]+":", strings.Join(strings.Fields(line[1]), " "))
		}
	}
	for _, note := range append(d.Notes, d.Room...) {
		fmt.Fprintf(c.Out, "%-11s %s\n", "Note:", note)
	}
	if len(d.Steps) > 0 {
		fmt.Fprintln(c.Out, "\nSteps:")
		t := &cli.Table{}
		t.Header("STEP", "PHASE", "BY", "MESSAGE")
		for _, s := range d.Steps {
			t.Row(s.Name, s.Phase, s.Actor, s.Message)
		}
		if err := t.Write(c.Out); err != nil {
			return err
		}
	}
	fmt.Fprintln(c.Out, "\nHistory:")
	t := &cli.Table{}
	rows(t, d.Ledger)
	return t.Write(c.Out)
}

func rows(t *cli.Table, ledger []request.LedgerRow) {
	t.Header("TIME", "EVENT", "TENANT", "REQUEST", "PARTITION", "CLUSTER", "BY", "ASKED", "GRANTED", "UNTIL", "COMMENT")
	for _, r := range ledger {
		until := r.GrantedUntil
		if until == nil {
			until = r.AskedUntil
		}
		shown := ""
		if until != nil {
			shown = until.Local().Format(timeInTable)
		}
		t.Row(r.Time.Local().Format(timeInTable), r.Event, r.Tenant, r.Request, r.Partition, r.Cluster, r.Actor, amounts(r.Asked), amounts(r.Granted), shown, r.Comment)
	}
}

func amounts(quota corev1.ResourceList) string {
	texts := map[string]string{}
	for name, q := range quota {
		texts[string(name)] = q.String()
	}
	parts := make([]string, 0, len(texts))
	for _, name := range sorted(texts) {
		parts = append(parts, name+"="+texts[name])
	}
	return strings.Join(parts, ",")
}

// Form writes the form of a request, as a page that can be printed.
func (c *Command) Form(ctx context.Context, name, lang string) error {
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	path, err := c.path(name)
	if err != nil {
		return err
	}
	return c.copy(ctx, server, path+"/form", url.Values{"lang": {lang}})
}

// Ledger prints rows of the ledger, the newest first; as CSV or JSON, all of them from the oldest on.
func (c *Command) Ledger(ctx context.Context, format string, query url.Values) error {
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	const path = "/api/v1/resource-ledger"
	switch format {
	case "csv", "json":
		query.Set("format", format)
		return c.copy(ctx, server, path, query)
	case "", "table":
	default:
		return cli.Usagef("--output %q: give table, json or csv", format)
	}
	query.Set("pageSize", "500")
	page := &rest.Page[request.LedgerRow]{}
	if err := server.Call(ctx, http.MethodGet, path, query, nil, page); err != nil {
		return fmt.Errorf("reading the ledger: %w", err)
	}
	t := &cli.Table{}
	rows(t, page.Items)
	if err := t.Write(c.Out); err != nil {
		return err
	}
	if page.Total > len(page.Items) {
		fmt.Fprintf(c.Out, "The newest %d of %d rows; -o csv gives all of them.\n", len(page.Items), page.Total)
	}
	return nil
}

func (c *Command) copy(ctx context.Context, server *cli.Server, path string, query url.Values) error {
	answer, err := server.Stream(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer answer.Close()
	if _, err := io.Copy(c.Out, answer); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	return nil
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
