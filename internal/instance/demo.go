package instance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/examples/score"
	"yunfan.io/yunfan/internal/cli"
)

const (
	demoTenant      = "edu"
	demoApplication = "score"
	demoComponent   = "score-record"
	// demoTimeout is how long the example may take: the first start makes two databases.
	demoTimeout = 4 * time.Minute
)

// Demo deploys the score example to the members and waits until its page shows rows of the database from every
// partition. What is there already stays as it is. It gives the pages' addresses by partition.
func (i *Instance) Demo(ctx context.Context, hub client.Client, status *Status) (map[string]string, error) {
	if err := i.createExample(ctx, hub); err != nil {
		return nil, err
	}
	app := &v1alpha1.Application{ObjectMeta: metav1.ObjectMeta{Namespace: demoTenant, Name: demoApplication}}
	err := cli.Until(ctx, demoTimeout, i.Progress, func(ctx context.Context) (bool, string, error) {
		return i.demoReady(ctx, hub, app)
	})
	if err != nil {
		return nil, fmt.Errorf("deploying the example ('yunfan status %s --tenant %s' shows how far it is): %w", demoApplication, demoTenant, err)
	}
	if app.Spec.Stopped {
		return nil, nil
	}
	pages, err := demoPages(ctx, hub, app, status)
	if err != nil {
		return nil, err
	}
	for _, partition := range slices.Sorted(maps.Keys(pages)) {
		page := pages[partition]
		err := cli.Until(ctx, demoTimeout, i.Progress, func(ctx context.Context) (bool, string, error) {
			return answers(ctx, partition, page)
		})
		if err != nil {
			return nil, fmt.Errorf("waiting for the example's page in partition %s: %w", partition, err)
		}
	}
	return pages, nil
}

func (i *Instance) demoReady(ctx context.Context, hub client.Client, app *v1alpha1.Application) (bool, string, error) {
	done, says, err := ready(ctx, hub, app)
	if err != nil || done || app.Spec.Stopped {
		return done || app.Spec.Stopped, says, err
	}
	parts := []string{}
	for _, p := range app.Status.Placements {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %d/%d %s", p.Partition, p.Ready, p.Desired, p.Reason)))
	}
	if len(parts) > 0 {
		says = fmt.Sprintf("%s: %s", app.Name, strings.Join(parts, ", "))
	}
	return false, says, nil
}

// createExample creates the example's objects in the order in which they need each other.
func (i *Instance) createExample(ctx context.Context, hub client.Client) error {
	if err := i.createFile(ctx, hub, "tenant.yaml", &v1alpha1.Tenant{}, &v1alpha1.Partition{}, &v1alpha1.Partition{}); err != nil {
		return err
	}
	password := rand.Text()
	return errors.Join(
		createSecret(ctx, hub, "score-database", map[string][]byte{"MYSQL_USER": []byte("score"), "MYSQL_PASSWORD": []byte(password)}),
		createSecret(ctx, hub, "score-database-root", map[string][]byte{"MYSQL_ROOT_PASSWORD": []byte(rand.Text())}),
		i.createFile(ctx, hub, "configuration.yaml", &v1alpha1.Configuration{}),
		i.createFile(ctx, hub, "application.yaml", &v1alpha1.Application{}))
}

// createSecret writes values once; what is there already stays as it is.
func createSecret(ctx context.Context, hub client.Client, name string, values map[string][]byte) error {
	configuration := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: demoTenant, Name: name}}
	err := hub.Get(ctx, client.ObjectKeyFromObject(configuration), configuration)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading configuration %s: %w", name, err)
	}
	if err == nil {
		return nil
	}
	return errors.Join(createOnce(ctx, hub, configuration.WriteSecret(corev1.SecretTypeOpaque, values)), createOnce(ctx, hub, configuration))
}

// createFile creates the objects of a file, of the kinds given in order. Those that others are put into are waited for.
func (i *Instance) createFile(ctx context.Context, hub client.Client, file string, objects ...conditioned) error {
	text, err := fs.ReadFile(score.Manifests, file)
	if err != nil {
		return fmt.Errorf("reading the example: %w", err)
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), len(text))
	for _, object := range objects {
		if err := decoder.Decode(object); err != nil {
			return fmt.Errorf("reading the example's %s: %w", file, err)
		}
		if err := createOnce(ctx, hub, object); err != nil {
			return err
		}
		switch object.(type) {
		case *v1alpha1.Tenant, *v1alpha1.Partition:
			err := cli.Until(ctx, joinTimeout, i.Progress, func(ctx context.Context) (bool, string, error) { return ready(ctx, hub, object) })
			if err != nil {
				return fmt.Errorf("preparing the example's %s: %w", object.GetName(), err)
			}
		}
	}
	return nil
}

// demoPages gives the address of the example's page in each partition: the first node of its cluster, and the node port
// reserved there.
func demoPages(ctx context.Context, hub client.Client, app *v1alpha1.Application, status *Status) (map[string]string, error) {
	ports := &v1alpha1.NodePortList{}
	if err := hub.List(ctx, ports); err != nil {
		return nil, fmt.Errorf("reading the reserved node ports: %w", err)
	}
	pages := map[string]string{}
	for _, port := range ports.Items {
		owner := port.Spec.Owner
		if owner.Tenant != app.Namespace || owner.Application != app.Name || owner.Component != demoComponent {
			continue
		}
		for _, cluster := range status.Members() {
			if cluster.Name == port.Spec.Cluster && len(cluster.Nodes) > 0 {
				pages[owner.Partition] = "http://" + net.JoinHostPort(cluster.Nodes[0].IP, strconv.Itoa(int(port.Spec.Port))) + "/"
			}
		}
	}
	if len(pages) == 0 {
		return nil, apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("nodeports").GroupResource(), app.Name)
	}
	return pages, nil
}

// answers says whether a page shows a row of the database.
func answers(ctx context.Context, partition, page string) (bool, string, error) {
	const requestTimeout, maxPage = 5 * time.Second, 1 << 20
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return false, "", fmt.Errorf("asking for the page: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, fmt.Sprintf("%s: %s does not answer yet", partition, page), nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	if err != nil || response.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("<tr><td>")) {
		return false, fmt.Sprintf("%s: %s answers %s", partition, page, response.Status), nil
	}
	return true, fmt.Sprintf("%s: %s answers with the scores", partition, page), nil
}
