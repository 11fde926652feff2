package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Get reads objects of Yunfan's kinds from the hub. As a table they have the columns that their kind declares, made by
// the hub itself, as with kubectl.
type Get struct {
	Access *Access
	Output Output
	// AllTenants reads those of every tenant.
	AllTenants bool
	// Selector restricts to objects with these labels.
	Selector string
}

// Resources are the names of the kinds that Get knows, and whether they are in tenants.
var resources = map[string]bool{
	"applications": true, "applicationrevisions": true, "configurations": true, "deliveries": true, "partitions": true,
	"workflows": true, "workflowruns": true, "approvals": true,
	"clusters": false, "nodeports": false, "tenants": false,
	"accesstokens": false, "directories": false, "sessions": false, "users": false,
}

// ResourceNames lists what Get knows, for help and completion.
func ResourceNames() []string {
	names := make([]string, 0, len(resources))
	for name := range resources {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// resource finds a resource by its name, in singular or plural, or its abbreviation.
func resource(word string) (schema.GroupVersionResource, bool, error) {
	word = strings.ToLower(word)
	short := map[string]string{"app": "applications", "apps": "applications", "revisions": "applicationrevisions", "revision": "applicationrevisions", "delivery": "deliveries", "directory": "directories"}
	for _, name := range []string{word, word + "s", short[word]} {
		if tenanted, ok := resources[name]; ok {
			return v1alpha1.GroupVersion.WithResource(name), tenanted, nil
		}
	}
	return schema.GroupVersionResource{}, false, Usagef("there is no kind %q: choose from %s; kubectl reads every other", word, strings.Join(ResourceNames(), ", "))
}

// Run reads all objects of a kind, or those named, and prints them.
func (g *Get) Run(ctx context.Context, out io.Writer, kind string, names []string) error {
	if err := g.Output.Check(); err != nil {
		return err
	}
	gvr, tenanted, err := resource(kind)
	if err != nil {
		return err
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	request := func() *rest.Request {
		r := c.Get().Resource(gvr.Resource)
		if tenanted && !g.everywhere() {
			r = r.Namespace(g.Access.Namespace)
		}
		return r
	}
	if len(names) == 0 {
		return g.print(ctx, out, request().Param("labelSelector", g.Selector), tenanted && g.everywhere())
	}
	if tenanted && g.everywhere() {
		return Usagef("whose %s %s? Give --tenant NAME", kind, names[0])
	}
	for _, name := range names {
		if err := g.print(ctx, out, request().Name(name), false); err != nil {
			return err
		}
	}
	return nil
}

// everywhere says that no tenant was chosen: who may read all tenants sees all, as in the console.
func (g *Get) everywhere() bool {
	return g.AllTenants || g.Access.Namespace == "" || g.Access.Namespace == metav1.NamespaceDefault
}

func (g *Get) client() (*rest.RESTClient, error) {
	config, err := g.Access.Config()
	if err != nil {
		return nil, err
	}
	config.GroupVersion, config.APIPath = &v1alpha1.GroupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(clientgoscheme.Scheme).WithoutConversion()
	c, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the hub: %w", err)
	}
	return c, nil
}

func (g *Get) print(ctx context.Context, out io.Writer, request *rest.Request, namespaces bool) error {
	if g.Output.Table() {
		request = request.SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	} else {
		request = request.SetHeader("Accept", "application/json")
	}
	text, err := request.DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("reading from the hub: %w", err)
	}
	if !g.Output.Table() {
		var object map[string]any
		if err := json.Unmarshal(text, &object); err != nil {
			return fmt.Errorf("reading the hub's answer: %w", err)
		}
		dropManagedFields(object)
		return g.Output.Print(out, object, nil)
	}
	table := &metav1.Table{}
	if err := json.Unmarshal(text, table); err != nil {
		return fmt.Errorf("reading the hub's answer: %w", err)
	}
	return g.Output.Print(out, nil, func(t *Table) { fill(t, table, namespaces) })
}

// fill copies the hub's table, with the tenant as first column if rows of several are in it.
func fill(t *Table, table *metav1.Table, tenants bool) {
	var header []string
	if tenants {
		header = append(header, "TENANT")
	}
	var shown []int
	for i, column := range table.ColumnDefinitions {
		if column.Priority == 0 {
			shown = append(shown, i)
			header = append(header, strings.ToUpper(column.Name))
		}
	}
	t.Header(header...)
	for _, row := range table.Rows {
		var cells []any
		if tenants {
			object := metav1.PartialObjectMetadata{}
			_ = json.Unmarshal(row.Object.Raw, &object) // without it the cell is "-"
			cells = append(cells, object.Namespace)
		}
		for _, i := range shown {
			cells = append(cells, row.Cells[i])
		}
		t.Row(cells...)
	}
}

// dropManagedFields removes what only the hub's own bookkeeping needs.
func dropManagedFields(object map[string]any) {
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
	}
	items, _ := object["items"].([]any)
	for _, item := range items {
		if item, ok := item.(map[string]any); ok {
			dropManagedFields(item)
		}
	}
}
