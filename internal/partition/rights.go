package partition

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// rights are the service account as which the hub delivers, and who may do what in the partition's namespace: one
// binding for it and one for each role, whoever and however many they are. The roles are the member's, made once.
func rights(p *v1alpha1.Partition) []client.Object {
	no := false
	delivery := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: p.MemberNamespace(), Name: v1alpha1.DeliveryServiceAccount}
	all := []client.Object{
		&corev1.ServiceAccount{ObjectMeta: owned(p, v1alpha1.DeliveryServiceAccount), AutomountServiceAccountToken: &no},
		roleBinding(p, v1alpha1.DeliveryServiceAccount, delivery),
	}
	for _, role := range []v1alpha1.Role{v1alpha1.RoleAdmin, v1alpha1.RoleOperator, v1alpha1.RoleViewer} {
		subjects := []rbacv1.Subject{group(v1alpha1.TenantGroup(p.Namespace, role))}
		if role != v1alpha1.RoleAdmin {
			subjects = append(subjects, group(v1alpha1.PartitionGroup(p.Namespace, p.Name, role)))
		}
		all = append(all, roleBinding(p, "yunfan-"+strings.ToLower(string(role)), subjects...))
	}
	return all
}

// formerRights are what earlier versions made and this one does not.
func formerRights(p *v1alpha1.Partition) []client.Object {
	return []client.Object{&rbacv1.Role{ObjectMeta: owned(p, v1alpha1.DeliveryServiceAccount)}}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

// roleBinding binds the member's ClusterRole of the same name.
func roleBinding(p *v1alpha1.Partition, name string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: owned(p, name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}
}

// deliveryRole is all that the hub may do when it delivers: write the namespaced kinds that applications are made of.
// Roles, bindings, quotas and policies are not among them.
func deliveryRole() *rbacv1.ClusterRole {
	write := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	read := []string{"get", "list", "watch"}
	rule := func(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
	}
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.DeliveryServiceAccount}, Rules: []rbacv1.PolicyRule{
		rule(write, "", "configmaps", "secrets", "services", "persistentvolumeclaims", "replicationcontrollers"),
		rule(write, "apps", "deployments", "statefulsets", "daemonsets"),
		rule(write, "batch", "jobs", "cronjobs"),
		rule(write, "discovery.k8s.io", "endpointslices"),
		rule(write, "autoscaling", "horizontalpodautoscalers"),
		rule(write, "gateway.networking.k8s.io", "httproutes"),
		rule(write, "traefik.io", "middlewares", "serverstransports", "traefikservices"),
		rule(append([]string{"delete", "patch"}, read...), "", "pods"),
		rule([]string{"get"}, "", "pods/log"),
		rule(read, "", "events"),
		rule(read, "events.k8s.io", "events"),
		rule(read, "apps", "replicasets", "controllerrevisions"),
	}}
}
