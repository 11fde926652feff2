package configuration

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/reconcile"
)

const (
	// maxBytes is the bound Kubernetes sets to the content of a ConfigMap or Secret.
	maxBytes = 1 << 20
	// keptVersions is the number of versions kept besides those in use.
	keptVersions = 20
	// versionBytes is the length of a version's name before it is written in hexadecimal.
	versionBytes = 5
)

// store makes sure that the content is stored as a version and names it in the status.
func (r *Reconciler) store(ctx context.Context, c *v1alpha1.Configuration) error {
	files, changed, err := r.content(ctx, c)
	if err != nil {
		return err
	}
	if size := sizeOf(files); size > maxBytes {
		return reconcile.Stall(v1alpha1.ReasonInvalid,
			"the files have %d KiB together, and at most 1024 KiB fit into one %s: split the configuration into several", (size+1023)>>10, c.Spec.Type)
	}
	if !changed {
		return nil
	}
	version := versionOf(c.Spec.Type, files)
	if err := r.create(ctx, c, version, files); err != nil {
		return err
	}
	c.Status.Version = version
	versions := []v1alpha1.ConfigurationVersion{{Name: version, CreatedAt: metav1.Now()}}
	for _, old := range c.Status.Versions {
		if old.Name == version {
			versions[0] = old // Back to earlier content: it is the newest again.
		} else {
			versions = append(versions, old)
		}
	}
	c.Status.Versions = versions
	return nil
}

// content is what the configuration should hold, with stored values in place of a Secret's empty ones, and whether it
// differs from the newest version.
func (r *Reconciler) content(ctx context.Context, c *v1alpha1.Configuration) (files map[string]string, changed bool, err error) {
	if c.Spec.Type != v1alpha1.ConfigurationSecret {
		// Whether the version still exists is found out by creating it.
		return c.Spec.Files, true, nil
	}
	stored := &corev1.Secret{}
	if c.Status.Version != "" {
		key := types.NamespacedName{Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, c.Status.Version)}
		if err := r.live.Get(ctx, key, stored); apierrors.IsNotFound(err) {
			if slices.Contains(slices.Collect(maps.Values(c.Spec.Files)), "") {
				return nil, false, reconcile.Stall(v1alpha1.ReasonInvalid,
					"the stored values are gone: somebody deleted Secret %s. Write all values anew", key.Name)
			}
		} else if err != nil {
			return nil, false, fmt.Errorf("reading stored values: %w", err)
		}
	}
	files = map[string]string{}
	for name, value := range c.Spec.Files {
		if kept, ok := stored.Data[name]; ok && value == "" {
			value = string(kept)
		}
		files[name] = value
	}
	same := maps.EqualFunc(files, stored.Data, func(a string, b []byte) bool { return a == string(b) })
	return files, !same, nil
}

// create stores a version. That it exists already with this content is what is wanted.
func (r *Reconciler) create(ctx context.Context, c *v1alpha1.Configuration, version string, files map[string]string) error {
	meta := metav1.ObjectMeta{
		Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, version), OwnerReferences: ownerOf(c),
		Labels: map[string]string{v1alpha1.LabelConfiguration: c.Name},
	}
	var object client.Object = &corev1.ConfigMap{ObjectMeta: meta, Immutable: new(true), Data: files}
	if c.Spec.Type == v1alpha1.ConfigurationSecret {
		data := map[string][]byte{}
		for name, value := range files {
			data[name] = []byte(value)
		}
		object = &corev1.Secret{ObjectMeta: meta, Immutable: new(true), Data: data}
	}
	err := r.client.Create(ctx, object)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return fmt.Errorf("storing version %s: %w", version, err)
		}
		return nil
	}
	found := &corev1.ConfigMap{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(object), found); err != nil {
		return fmt.Errorf("reading version %s: %w", version, err)
	}
	if !maps.Equal(found.Data, files) || !metav1.IsControlledBy(found, c) {
		return reconcile.Stall(v1alpha1.ReasonInvalid,
			"ConfigMap %s has the name of the new version and was not made for it: delete it or rename the configuration", found.Name)
	}
	return nil
}

// prune deletes versions beyond the newest that no revision uses, and those that a crash left without an entry in the
// status.
func (r *Reconciler) prune(ctx context.Context, c *v1alpha1.Configuration) error {
	stored := &metav1.PartialObjectMetadataList{}
	stored.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(string(c.Spec.Type) + "List"))
	if err := r.live.List(ctx, stored, client.InNamespace(c.Namespace), client.MatchingLabels{v1alpha1.LabelConfiguration: c.Name}); err != nil {
		return fmt.Errorf("listing versions: %w", err)
	}
	used, err := r.usedVersions(ctx, c)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	var versions []v1alpha1.ConfigurationVersion
	for i, v := range c.Status.Versions {
		if i < keptVersions || used[v.Name] {
			versions = append(versions, v)
			keep[v1alpha1.VersionObjectName(c.Name, v.Name)] = true
		}
	}
	for i := range stored.Items {
		if keep[stored.Items[i].Name] || !metav1.IsControlledBy(&stored.Items[i], c) {
			continue
		}
		if err := r.client.Delete(ctx, &stored.Items[i]); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting old version %s: %w", stored.Items[i].Name, err)
		}
	}
	c.Status.Versions = versions
	return nil
}

// usedVersions are those that any revision kept has.
func (r *Reconciler) usedVersions(ctx context.Context, c *v1alpha1.Configuration) (map[string]bool, error) {
	used := map[string]bool{}
	if len(c.Status.Versions) <= keptVersions {
		return used, nil
	}
	var revisions v1alpha1.ApplicationRevisionList
	if err := r.live.List(ctx, &revisions, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("looking for versions in use: %w", err)
	}
	for i := range revisions.Items {
		used[versionIn(&revisions.Items[i], c.Name)] = true
	}
	return used, nil
}

// blank takes a Secret's values, which are stored by now, out of the spec and out of what kubectl remembers.
func (r *Reconciler) blank(ctx context.Context, c *v1alpha1.Configuration) error {
	if c.Spec.Type != v1alpha1.ConfigurationSecret {
		return nil
	}
	before := c.DeepCopy()
	for name := range c.Spec.Files {
		c.Spec.Files[name] = ""
	}
	if applied, ok := c.Annotations[corev1.LastAppliedConfigAnnotation]; ok {
		c.Annotations[corev1.LastAppliedConfigAnnotation] = withoutValues(applied)
	}
	if maps.Equal(before.Spec.Files, c.Spec.Files) && maps.Equal(before.Annotations, c.Annotations) {
		return nil
	}
	// The lock makes sure that no value is blanked but those just stored.
	if err := r.client.Patch(ctx, c, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("blanking stored values: %w", err)
	}
	return nil
}

// withoutValues blanks the values in a manifest as kubectl keeps it; a manifest that cannot be read is dropped.
func withoutValues(manifest string) string {
	var object map[string]any
	if err := json.Unmarshal([]byte(manifest), &object); err != nil {
		return ""
	}
	if spec, ok := object["spec"].(map[string]any); ok {
		if files, ok := spec["files"].(map[string]any); ok {
			for name := range files {
				files[name] = ""
			}
		} else {
			delete(spec, "files")
		}
	}
	text, err := json.Marshal(object)
	if err != nil {
		return ""
	}
	return string(text)
}

// versionOf names a version: by the hash of its content, so that equal content is one version. That of a Secret is
// random instead, as a hash would let anybody who sees the name try out values.
func versionOf(kind v1alpha1.ConfigurationType, files map[string]string) string {
	sum := sha256.New()
	if kind == v1alpha1.ConfigurationSecret {
		sum.Write([]byte(rand.Text()))
	} else {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			fmt.Fprintf(sum, "%d:%s%d:%s", len(name), name, len(files[name]), files[name])
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:versionBytes])
}

func sizeOf(files map[string]string) (size int) {
	for name, value := range files {
		size += len(name) + len(value)
	}
	return size
}
