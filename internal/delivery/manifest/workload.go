package manifest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// LabelStopped is a node label that no node has: the way to take away the pods of a DaemonSet.
const LabelStopped = "yunfan.io/stopped"

// LabelTemplate is the hash of the pod template on the pods of a ReplicationController, which itself does not replace
// pods when its template changes.
const LabelTemplate = "yunfan.io/template"

// revisionHistory is short because ApplicationRevisions are the history.
const revisionHistory = 2

// workload is the object that holds a component's pods; nil if the partition has none of it.
func (r *renderer) workload(c *v1alpha1.Component, override v1alpha1.Override) (client.Object, error) {
	name := r.Track.WorkloadName(c)
	if c.Workload == v1alpha1.WorkloadJob {
		name = r.jobName(c.Name)
	}
	template, err := r.podTemplate(c, name, override)
	if err != nil {
		return nil, err
	}
	labels := r.labels(c.Name)
	labels[v1alpha1.LabelRevision] = r.Revision.Name
	meta := r.meta(name, labels)
	selector := map[string]string{v1alpha1.LabelWorkload: name}
	asked := r.Track.Replicas[c.Name]
	replicas := asked
	if r.Stopped {
		replicas = 0
	}
	history := int32(revisionHistory)
	switch c.Workload {
	case v1alpha1.WorkloadDeployment, "":
		return &appsv1.Deployment{TypeMeta: apps("Deployment"), ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: selector}, Template: template, RevisionHistoryLimit: &history,
			Strategy: r.exchange(c),
		}}, nil
	case v1alpha1.WorkloadStatefulSet:
		return &appsv1.StatefulSet{TypeMeta: apps("StatefulSet"), ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: selector}, Template: template, RevisionHistoryLimit: &history,
			ServiceName: GoverningService(c.Name), PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			VolumeClaimTemplates: r.claims(c),
		}}, nil
	case v1alpha1.WorkloadDaemonSet:
		if r.Stopped {
			setDefault(&template.Spec.NodeSelector, LabelStopped, "true")
		}
		return &appsv1.DaemonSet{TypeMeta: apps("DaemonSet"), ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector}, Template: template, RevisionHistoryLimit: &history,
		}}, nil
	case v1alpha1.WorkloadReplicationController:
		if template.Labels[LabelTemplate], err = hash(template); err != nil {
			return nil, err
		}
		return &corev1.ReplicationController{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"}, ObjectMeta: meta,
			Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: selector, Template: &template}}, nil
	case v1alpha1.WorkloadJob:
		if asked == 0 {
			return nil, nil
		}
		return &batchv1.Job{TypeMeta: batch("Job"), ObjectMeta: meta, Spec: jobSpec(template, asked, r.Stopped)}, nil
	case v1alpha1.WorkloadCronJob:
		suspend := r.Stopped || asked == 0
		return &batchv1.CronJob{TypeMeta: batch("CronJob"), ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			Schedule: c.Schedule, Suspend: &suspend,
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: r.labels(c.Name)},
				Spec:       jobSpec(template, max(asked, 1), false),
			},
		}}, nil
	}
	return nil, fmt.Errorf("workload %s is not known", c.Workload)
}

func apps(kind string) metav1.TypeMeta  { return metav1.TypeMeta{APIVersion: "apps/v1", Kind: kind} }
func batch(kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: "batch/v1", Kind: kind} }

func jobSpec(template corev1.PodTemplateSpec, pods int32, suspend bool) batchv1.JobSpec {
	if template.Spec.RestartPolicy == "" {
		template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure // a Job must not have the default, Always
	}
	return batchv1.JobSpec{Completions: &pods, Parallelism: &pods, Suspend: &suspend, Template: template}
}

func hash(template corev1.PodTemplateSpec) (string, error) {
	const length = 10
	text, err := json.Marshal(template)
	if err != nil {
		return "", fmt.Errorf("hashing the pod template: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:length], nil
}

// claims carry the labels that say whose volumes they are: they outlive everything else.
func (r *renderer) claims(c *v1alpha1.Component) []corev1.PersistentVolumeClaim {
	for i := range c.VolumeClaimTemplates {
		claim := &c.VolumeClaimTemplates[i]
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, r.labels(c.Name))
	}
	return c.VolumeClaimTemplates
}

// podTemplate is the user's template with what the platform needs where it says nothing.
func (r *renderer) podTemplate(c *v1alpha1.Component, workload string, override v1alpha1.Override) (corev1.PodTemplateSpec, error) {
	if c.Template == nil {
		return corev1.PodTemplateSpec{}, fmt.Errorf("has no pod template")
	}
	template := *c.Template
	template.Name, template.Namespace = "", ""
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	maps.Copy(template.Labels, r.labels(c.Name))
	template.Labels[v1alpha1.LabelWorkload] = workload

	pod := &template.Spec
	applyOverride(pod, override)
	if err := r.configure(pod, c.Configurations); err != nil {
		return corev1.PodTemplateSpec{}, err
	}
	eachContainer(pod, func(c *corev1.Container) {
		if c.TerminationMessagePolicy == "" {
			c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError // the status shows the last log line
		}
	})
	for key, value := range r.Partition.NodePool().Selector {
		setDefault(&pod.NodeSelector, key, value)
	}
	if r.Partition.NodePool().Exclusive {
		tolerate(pod, r.Partition.Namespace)
	}
	linger(c, pod)
	return template, nil
}

func applyOverride(pod *corev1.PodSpec, override v1alpha1.Override) {
	eachContainer(pod, func(c *corev1.Container) {
		if image, ok := override.Images[c.Name]; ok {
			c.Image = image
		}
		for _, env := range override.Env {
			setEnv(c, env)
		}
	})
	if override.Resources == nil {
		return
	}
	for i := range pod.Containers {
		pod.Containers[i].Resources = *override.Resources.DeepCopy()
	}
}

func setEnv(c *corev1.Container, env corev1.EnvVar) {
	for i := range c.Env {
		if c.Env[i].Name == env.Name {
			c.Env[i] = env
			return
		}
	}
	c.Env = append(c.Env, env)
}

func tolerate(pod *corev1.PodSpec, tenant string) {
	for _, t := range pod.Tolerations {
		if t.Key == v1alpha1.TaintTenant {
			return
		}
	}
	pod.Tolerations = append(pod.Tolerations, corev1.Toleration{
		Key: v1alpha1.TaintTenant, Operator: corev1.TolerationOpEqual, Value: tenant, Effect: corev1.TaintEffectNoSchedule,
	})
}

func setDefault(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	if _, ok := (*m)[key]; !ok {
		(*m)[key] = value
	}
}
