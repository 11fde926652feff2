package right

import (
	"context"
	"maps"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

// installInterval is how often the hub's rules are put back in case somebody changed them; installRetry is the pause
// after a failure.
const (
	installInterval = 5 * time.Minute
	installRetry    = 5 * time.Second
)

// serverConfigMap is where the server says how it is reached: everybody who is signed in may read it.
const serverConfigMap = "yunfan-server"

// hubObjects are the rules of the whole hub: admission first, so that no role is there without it.
func hubObjects(namespace string) []client.Object {
	all := append(stampPolicies(), hubPolicies()...)
	roles := hubRoles()
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		all = append(all, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: roles[name]})
	}
	where := metav1.ObjectMeta{Name: "yunfan-server-address", Namespace: namespace}
	return append(all,
		clusterBinding(hubPlatformAdmin, hubPlatformAdmin, v1alpha1.GroupPlatformAdmin),
		clusterBinding(hubReader, hubReader, v1alpha1.GroupReader),
		clusterBinding(hubEverybody, hubEverybody, v1alpha1.GroupAuthenticated),
		&rbacv1.Role{ObjectMeta: where, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{serverConfigMap}, Verbs: []string{"get"},
		}}},
		&rbacv1.RoleBinding{
			ObjectMeta: where, Subjects: []rbacv1.Subject{groupSubject(v1alpha1.GroupAuthenticated)},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: where.Name},
		},
	)
}

// MemberObjects are the rules of a whole member, beside those of the partitions there. Platform administrators
// administer members.
func MemberObjects() []client.Object {
	var all []client.Object
	roles := memberRoles()
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		all = append(all, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: roles[name]})
	}
	return append(all, clusterBinding("yunfan-platform-admin", "cluster-admin", v1alpha1.GroupPlatformAdmin))
}

func groupSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func clusterBinding(name, role, group string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{groupSubject(group)},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

// Installer brings the rules to the hub and keeps them as they are. Every server runs it: what it applies is the same.
type Installer struct {
	Hub client.Client
	// Namespace is the platform's own.
	Namespace string
}

// NeedLeaderElection says that every replica does this: one that is newer must not wait until it leads.
func (*Installer) NeedLeaderElection() bool { return false }

// Start installs the rules again and again until ctx ends.
func (i *Installer) Start(ctx context.Context) error {
	for {
		pause := installInterval
		if err := i.Install(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Rights are not as they should be on the hub, which is tried again")
			pause = installRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// Install brings the rules to the hub, or to the state of this version.
func (i *Installer) Install(ctx context.Context) error {
	for _, o := range hubObjects(i.Namespace) {
		if _, err := reconcile.Apply(ctx, i.Hub, o); err != nil && !(mutates(o) && missing(err)) {
			return err
		}
	}
	return nil
}

// mutates says whether an object is of the kinds that hubs before Kubernetes 1.36 do not have: there the validating
// policies ask people to write themselves what is stamped elsewhere.
func mutates(o client.Object) bool {
	switch o.(type) {
	case *admissionv1.MutatingAdmissionPolicy, *admissionv1.MutatingAdmissionPolicyBinding:
		return true
	}
	return false
}

func missing(err error) bool { return meta.IsNoMatchError(err) || apierrors.IsNotFound(err) }
