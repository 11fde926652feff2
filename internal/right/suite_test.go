package right_test

import (
	"context"
	"testing"

	. "github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/right"
	"yunfan.io/yunfan/internal/tenant"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

// start installs the rules on the hub and gives the index of who is in which role.
func start(t *testing.T) *right.Index {
	t.Helper()
	var index *right.Index
	testkit.StartManager(t, hub, func(mgr manager.Manager) (err error) {
		if index, err = right.NewIndex(t.Context(), mgr.GetClient(), mgr.GetFieldIndexer()); err != nil {
			return err
		}
		for _, o := range []client.Object{
			&v1alpha1.Membership{}, &v1alpha1.UserGroup{}, &v1alpha1.Partition{}, &v1alpha1.Application{}, &v1alpha1.Configuration{},
			&v1alpha1.Delivery{}, &v1alpha1.ApplicationRevision{}, &v1alpha1.WorkflowRun{}, &v1alpha1.ResourceRequest{}, &v1alpha1.Approval{},
		} {
			if _, err := mgr.GetCache().GetInformer(t.Context(), o); err != nil {
				return err
			}
		}
		if err := tenant.New().SetupWithManager(mgr); err != nil {
			return err
		}
		return (&right.Bindings{Namespace: testkit.PlatformNamespace}).SetupWithManager(mgr)
	})
	if err := (&right.Installer{Hub: hub.Client, Namespace: testkit.PlatformNamespace}).Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return index
}

// newTenant makes a tenant and waits until its people may do what they may.
func newTenant(t *testing.T) string {
	t.Helper()
	name := testkit.Name(t)
	testkit.Create(t, hub.Client, &v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}})
	NewWithT(t).Eventually(func(g Gomega) {
		for _, role := range []string{"admin", "operator", "viewer"} {
			allowed, err := review(t, []string{"yunfan:tenant:" + name + ":" + role}, authorizationv1.ResourceAttributes{
				Verb: "list", Group: "yunfan.io", Resource: "deliveries", Namespace: name,
			})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(allowed).To(BeTrue(), role)
		}
		allowed, err := review(t, []string{"yunfan:tenant:" + name + ":limited-operator"}, authorizationv1.ResourceAttributes{
			Verb: "create", Group: "yunfan.io", Resource: "applications", Namespace: name,
		})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(allowed).To(BeTrue(), "limited-operator")
	}, "20s").Should(Succeed())
	return name
}

// review asks the API server.
func review(t *testing.T, groups []string, a authorizationv1.ResourceAttributes) (bool, error) {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(hub.Config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := clientset.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "yunfan:li", Groups: groups, ResourceAttributes: &a},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}

// as is a client of the hub that acts in the groups, as the proxy makes it act.
func as(t *testing.T, groups ...string) client.Client {
	t.Helper()
	config := clientrest.CopyConfig(hub.Config)
	config.Impersonate = clientrest.ImpersonationConfig{UserName: "yunfan:li", Groups: append([]string{"yunfan:authenticated"}, groups...)}
	c, err := client.New(config, client.Options{Scheme: hub.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func user(groups ...string) rest.User { return rest.User{Name: "yunfan:li", Groups: groups} }

// groupsOf asks the index until it knows what was just written.
func groupsOf(index *right.Index, name string) func() []string {
	return func() []string {
		groups, err := index.Groups(context.Background(), &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil {
			return []string{err.Error()}
		}
		return groups
	}
}
