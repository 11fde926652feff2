package nodeport

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
)

const (
	reporterName  = "yunfan-port-reporter"
	reporterImage = "registry.yunfan.internal/system/port-reporter:v1"
	// reporterInterval is how often is looked whether the reporter is still there, and whether a cluster answers again.
	reporterInterval = time.Minute
	// notYet is how often is looked whether a cluster is connected.
	notYet = 5 * time.Second
)

// Reporter runs, on the members whose spec wants it, the program that reports which ports programs of nodes listen on.
type Reporter struct {
	Hub     client.Client
	Members member.Lookup
}

// SetupWithManager registers the controller.
func (r *Reporter) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("port-reporter").
		For(&v1alpha1.Cluster{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).Complete(r)
}

// Reconcile makes or removes the reporter of one cluster.
func (r *Reporter) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cluster := &v1alpha1.Cluster{}
	if err := r.Hub.Get(ctx, req.NamespacedName, cluster); err != nil || !cluster.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	m, ok := r.Members.Member(cluster.Name)
	if !ok {
		return ctrl.Result{RequeueAfter: notYet}, nil
	}
	if answering, _ := m.Answering(); !answering {
		return ctrl.Result{RequeueAfter: reporterInterval}, nil
	}
	if mode := cluster.Spec.PortReport; mode != v1alpha1.PortReportPorts && mode != v1alpha1.PortReportPrograms {
		return ctrl.Result{}, removeReporter(ctx, m.Client)
	}
	for _, o := range reporter(cluster.Spec.PortReport) {
		if err := ensure(ctx, m.Client, o); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: reporterInterval}, nil
}

// ensure makes an object what it is wanted to be, as far as it says something.
func ensure(ctx context.Context, c client.Client, wanted client.Object) error {
	have := wanted.DeepCopyObject().(client.Object)
	_, err := controllerutil.CreateOrUpdate(ctx, c, have, func() error {
		switch have := have.(type) {
		case *rbacv1.Role:
			have.Rules = wanted.(*rbacv1.Role).Rules
		case *rbacv1.RoleBinding:
			have.Subjects = wanted.(*rbacv1.RoleBinding).Subjects
		case *appsv1.DaemonSet:
			if want := wanted.(*appsv1.DaemonSet); !equality.Semantic.DeepDerivative(want.Spec, have.Spec) || have.Spec.Template.Spec.HostPID != want.Spec.Template.Spec.HostPID {
				have.Spec = want.Spec
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("making %T %s: %w", wanted, wanted.GetName(), err)
	}
	return nil
}

// removeReporter removes the program and what it reported; its empty namespace stays.
func removeReporter(ctx context.Context, c client.Client) error {
	for _, o := range reporter(v1alpha1.PortReportPorts)[1:] {
		if err := c.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing %T %s: %w", o, o.GetName(), err)
		}
	}
	err := c.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(reportNamespace), client.HasLabels{LabelReport})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing reports: %w", err)
	}
	return nil
}

// reporter is what a member needs for the program: its namespace, the right to write reports, and a pod on every node,
// which sees the node's sockets and nothing else of it. For the programs' names it sees all processes, too.
func reporter(mode v1alpha1.PortReport) []client.Object {
	meta := metav1.ObjectMeta{Namespace: reportNamespace, Name: reporterName}
	labels := map[string]string{"app.kubernetes.io/name": reporterName}
	programs := mode == v1alpha1.PortReportPrograms
	security := &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if programs { // to see whose a socket is
		security.RunAsUser = new(int64(0))
		security.Capabilities.Add = []corev1.Capability{"SYS_PTRACE", "DAC_READ_SEARCH"}
	}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: reportNamespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}, // for the node's network
		}},
		&corev1.ServiceAccount{ObjectMeta: meta},
		&rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "patch"}},
		}},
		&rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: reporterName},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: reportNamespace, Name: reporterName}},
		},
		&appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					ServiceAccountName: reporterName, HostNetwork: true, HostPID: programs,
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
					Containers: []corev1.Container{{
						Name: "reporter", Image: reporterImage, SecurityContext: security,
						Env: []corev1.EnvVar{
							{Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
							{Name: "PROGRAMS", Value: fmt.Sprint(programs)},
						},
						Resources: corev1.ResourceRequirements{
							Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
							Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
						},
					}},
				},
			},
		}},
	}
}
