//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

const (
	manyTenants    = 500
	usersPerTenant = 20
	writers        = 16
	asked          = 200 // times each list is asked for
	// tenantsPatience is how long all partitions may take to be set up.
	tenantsPatience = 15 * time.Minute
)

// tenants measures what many tenants with many users cost: objects, memory, and the time of a user's lists.
func (b *bench) tenants(ctx context.Context) error {
	start := time.Now()
	if err := b.createTenants(ctx); err != nil {
		return err
	}
	figure("objects created", "%.0f s: %d tenants, %d partitions, %d users with a membership each",
		time.Since(start).Seconds(), manyTenants, manyTenants*len(members), manyTenants*usersPerTenant)
	if err := b.partitionsReady(ctx); err != nil {
		return err
	}
	figure("all partitions Ready", "%.0f s", time.Since(start).Seconds())
	for _, name := range append([]string{journey.Hub}, members...) {
		if err := b.countRBAC(ctx, name); err != nil {
			return err
		}
	}
	if err := b.lists(ctx); err != nil {
		return err
	}
	server := costs(b.dir)["yunfan server"]
	figure("memory of the server (PSS)", "%d MiB", server.pss>>10)
	return nil
}

func tenantName(i int) string { return fmt.Sprintf("t%03d", i) }

// createTenants writes everything at once, as one administrator's script would.
func (b *bench) createTenants(ctx context.Context) error {
	hub := b.Clusters[journey.Hub]
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range manyTenants {
		group.Go(func() error {
			tenant := &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: tenantName(i)}}
			if err := hub.Create(ctx, tenant); err != nil {
				return fmt.Errorf("creating a tenant: %w", err)
			}
			if err := b.ready(ctx, tenant, &tenant.Status.Conditions); err != nil {
				return err
			}
			return b.fillTenant(ctx, tenant.Name)
		})
	}
	return group.Wait()
}

func (b *bench) fillTenant(ctx context.Context, tenant string) error {
	objects := make([]client.Object, 0, len(members)+2*usersPerTenant) //nolint:mnd // a user and his membership
	for _, member := range members {
		objects = append(objects, &v1alpha1.Partition{
			ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: member}, Spec: v1alpha1.PartitionSpec{Cluster: member},
		})
	}
	roles := []v1alpha1.Role{v1alpha1.RoleAdmin, v1alpha1.RoleOperator, v1alpha1.RoleViewer}
	for i := range usersPerTenant {
		name := fmt.Sprintf("%s-user%02d", tenant, i)
		objects = append(objects,
			&v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name}},
			&v1alpha1.Membership{
				ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name},
				Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: name}, Role: roles[i%len(roles)]},
			})
	}
	for _, o := range objects {
		if err := b.Clusters[journey.Hub].Create(ctx, o); err != nil {
			return fmt.Errorf("creating %T %s: %w", o, o.GetName(), err)
		}
	}
	return nil
}

func (b *bench) partitionsReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tenantsPatience)
	defer cancel()
	left := 0
	for {
		var all v1alpha1.PartitionList
		if err := b.Clusters[journey.Hub].List(ctx, &all); err != nil {
			return errors.Join(fmt.Errorf("%d partitions are not Ready", left), err)
		}
		left = 0
		for i := range all.Items {
			if !isReady(all.Items[i].Status.Conditions) {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if err := wait(ctx, time.Second); err != nil {
			return fmt.Errorf("%d partitions are not Ready: %w", left, err)
		}
	}
}

func isReady(conditions []metav1.Condition) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue
	})
}

// countRBAC prints how many objects say who may do what in one cluster.
func (b *bench) countRBAC(ctx context.Context, cluster string) error {
	var bindings rbacv1.RoleBindingList
	var roles rbacv1.RoleList
	var wide rbacv1.ClusterRoleBindingList
	for _, list := range []client.ObjectList{&bindings, &roles, &wide} {
		if err := b.Clusters[cluster].List(ctx, list); err != nil {
			return fmt.Errorf("listing RBAC of cluster %s: %w", cluster, err)
		}
	}
	perNamespace, ofUsers := map[string]int{}, 0
	count := func(namespace string, subjects []rbacv1.Subject) {
		perNamespace[namespace]++
		for _, s := range subjects {
			if s.Kind == rbacv1.UserKind && len(s.Name) > len(v1alpha1.UserPrefix) && s.Name[:len(v1alpha1.UserPrefix)] == v1alpha1.UserPrefix {
				ofUsers++
			}
		}
	}
	for i := range bindings.Items {
		count(bindings.Items[i].Namespace, bindings.Items[i].Subjects)
	}
	for i := range roles.Items {
		count(roles.Items[i].Namespace, nil)
	}
	most := 0
	for namespace, n := range perNamespace {
		if len(namespace) > 1 && namespace[0] == 't' { // the tenants' are t000…
			most = max(most, n)
		}
	}
	figure("RBAC objects on "+cluster, "%d role bindings, %d roles, %d cluster-wide bindings; at most %d in a tenant's namespace, %d of single users",
		len(bindings.Items), len(roles.Items), len(wide.Items), most, ofUsers)
	return nil
}

// lists times the first page of what people look at: as an administrator of one tenant, and of the platform.
func (b *bench) lists(ctx context.Context) error {
	user, err := b.SignIn(ctx, "bench-tenant")
	if err != nil {
		return err
	}
	admin, err := b.SignIn(ctx, "bench-admin", func(s *v1alpha1.UserSpec) { s.PlatformAdministrator = true })
	if err != nil {
		return err
	}
	err = b.Clusters[journey.Hub].Create(ctx, &v1alpha1.Membership{
		ObjectMeta: metav1.ObjectMeta{Namespace: tenantName(0), Name: user.Name},
		Spec:       v1alpha1.MembershipSpec{Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: user.Name}, Role: v1alpha1.RoleAdmin},
	})
	if err != nil {
		return fmt.Errorf("making a member: %w", err)
	}
	if err := user.Again(ctx); err != nil {
		return err
	}
	for _, list := range []struct {
		who    string
		person *journey.Person
		path   string
	}{
		{"tenant user", user, "/api/v1/clusters"},
		{"tenant user", user, "/api/v1/tenants"},
		{"tenant user", user, "/api/v1/partitions"},
		{"tenant user", user, "/api/v1/applications"},
		{"tenant user", user, "/apis/yunfan.io/v1alpha1/namespaces/" + tenantName(0) + "/memberships?limit=50"},
		{"administrator", admin, "/api/v1/tenants"},
		{"administrator", admin, "/api/v1/partitions"},
		{"administrator", admin, "/apis/yunfan.io/v1alpha1/memberships?limit=50"},
	} {
		if err := b.list(ctx, list.who, list.person, list.path); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) list(ctx context.Context, who string, person *journey.Person, path string) error {
	set, err := rest.HTTPClientFor(person.Config)
	if err != nil {
		return err
	}
	var times []time.Duration
	rows := 0
	for range asked {
		start := time.Now()
		page, err := fetch(ctx, set, person.Config.Host+path)
		if err != nil {
			return err
		}
		times = append(times, time.Since(start))
		rows = len(page.Items)
	}
	cold := times[0]
	slices.Sort(times[1:])
	figure(who+" "+path, "%d rows; cold %d ms, warm P50 %.1f ms, P99 %.1f ms", rows, cold.Milliseconds(),
		quantile(times[1:], 0.5), quantile(times[1:], 0.99)) //nolint:mnd // the usual quantiles
	return nil
}

// page is what the platform's lists and Kubernetes' have in common.
type page struct {
	Items []json.RawMessage `json:"items"`
}

func fetch(ctx context.Context, c *http.Client, url string) (page, error) {
	var p page
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return p, err
	}
	answer, err := c.Do(request)
	if err != nil {
		return p, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return p, fmt.Errorf("asking for %s: %s", url, answer.Status)
	}
	return p, json.NewDecoder(answer.Body).Decode(&p)
}

// quantile of sorted times, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))].Microseconds()) / 1000 //nolint:mnd // micro to milli
}
