package manifest

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// configurations are copies of the hub's versions. They carry no label of the application: applications of a partition
// that use the same version share one object.
func (r *renderer) configurations() ([]client.Object, error) {
	var out []client.Object
	for _, pin := range r.Revision.Spec.Configurations {
		if !r.used(pin.Name) {
			continue
		}
		source := r.Configurations[pin.Name]
		if source == nil {
			return nil, fmt.Errorf("version %s of configuration %s is not on the hub", pin.Version, pin.Name)
		}
		meta := r.meta(v1alpha1.VersionObjectName(pin.Name, pin.Version), map[string]string{
			v1alpha1.LabelTenant:        r.Partition.Namespace,
			v1alpha1.LabelPartition:     r.Partition.Name,
			v1alpha1.LabelConfiguration: pin.Name,
		})
		immutable := true
		switch source := source.(type) {
		case *corev1.ConfigMap:
			out = append(out, &corev1.ConfigMap{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta,
				Data: source.Data, BinaryData: source.BinaryData, Immutable: &immutable,
			})
		case *corev1.Secret:
			out = append(out, &corev1.Secret{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta,
				Type: typeOf(source), Data: source.Data, Immutable: &immutable,
			})
		default:
			return nil, fmt.Errorf("configuration %s is kept in a %T, which is neither ConfigMap nor Secret", pin.Name, source)
		}
	}
	return out, nil
}

func (r *renderer) used(configuration string) bool {
	for i := range r.Revision.Spec.Components {
		if slices.Contains(r.Revision.Spec.Components[i].ConfigurationNames(), configuration) {
			return true
		}
	}
	return false
}

func typeOf(s *corev1.Secret) corev1.SecretType {
	if s.Type == "" {
		return corev1.SecretTypeOpaque
	}
	return s.Type
}

// configure gives the containers their configurations as files and as environment, and the pod its credentials of
// registries.
func (r *renderer) configure(pod *corev1.PodSpec, uses []v1alpha1.ConfigurationUse) error {
	for i, secret := range pod.ImagePullSecrets {
		pin, ok := r.pins[secret.Name]
		if !ok {
			return fmt.Errorf("the revision pins no version of registry credentials %s", secret.Name)
		}
		pod.ImagePullSecrets[i].Name = v1alpha1.VersionObjectName(pin.Name, pin.Version)
	}
	for _, use := range uses {
		pin, ok := r.pins[use.Name]
		if !ok {
			return fmt.Errorf("the revision pins no version of configuration %s", use.Name)
		}
		object := v1alpha1.VersionObjectName(pin.Name, pin.Version)
		volume := v1alpha1.VolumeName(use.Name)
		if use.MountPath != "" {
			pod.Volumes = append(pod.Volumes, corev1.Volume{Name: volume, VolumeSource: volumeSource(pin.Type, object)})
		}
		eachContainer(pod, func(c *corev1.Container) {
			if !chosen(use.Containers, c.Name) {
				return
			}
			if use.MountPath != "" {
				c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: use.MountPath, ReadOnly: true})
			}
			if use.Environment {
				c.EnvFrom = append(c.EnvFrom, envSource(pin.Type, object))
			}
		})
	}
	return nil
}

func volumeSource(kind v1alpha1.ConfigurationType, name string) corev1.VolumeSource {
	if kind == v1alpha1.ConfigurationSecret {
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}
	}
	return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}
}

func envSource(kind v1alpha1.ConfigurationType, name string) corev1.EnvFromSource {
	ref := corev1.LocalObjectReference{Name: name}
	if kind == v1alpha1.ConfigurationSecret {
		return corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref}}
	}
	return corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref}}
}

func chosen(names []string, name string) bool {
	return len(names) == 0 || slices.Contains(names, name)
}

func eachContainer(pod *corev1.PodSpec, f func(*corev1.Container)) {
	for i := range pod.InitContainers {
		f(&pod.InitContainers[i])
	}
	for i := range pod.Containers {
		f(&pod.Containers[i])
	}
}
