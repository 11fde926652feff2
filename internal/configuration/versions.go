package configuration

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

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
	// takeUpTime is how long the values of a Secret may be there before the configuration that names them.
	takeUpTime = 10 * time.Minute
)

// store makes sure that the content is stored as a version and names it in the status.
func (r *Reconciler) store(ctx context.Context, c *v1alpha1.Configuration) error {
	if c.Spec.Type == v1alpha1.ConfigurationSecret {
		return r.storeSecret(ctx, c)
	}
	if size := sizeOf(c.Spec.Files); size > maxBytes {
		return reconcile.Stall(v1alpha1.ReasonInvalid,
			"the files have %d KiB together, and at most 1024 KiB fit into one ConfigMap: split the configuration into several", (size+1023)>>10)
	}
	version := hashOf(c.Spec.Files)
	if err := r.create(ctx, c, version); err != nil {
		return err
	}
	take(c, version)
	return nil
}

// take names a version as the newest.
func take(c *v1alpha1.Configuration, version string) {
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
}

// storeSecret takes up the values that were written last. Names that were taken out of the spec since are left out of a
// further version.
func (r *Reconciler) storeSecret(ctx context.Context, c *v1alpha1.Configuration) error {
	base, fresh := c.Status.Version, false
	if c.Spec.Stored != "" && c.Spec.Stored != c.Status.Stored {
		base, fresh = c.Spec.Stored, true
	}
	const write = "write them with 'yunfan secret set'"
	if base == "" {
		return reconcile.Stall(v1alpha1.ReasonInvalid, "its values are not written yet: %s", write)
	}
	stored := &corev1.Secret{}
	key := types.NamespacedName{Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, base)}
	err := r.live.Get(ctx, key, stored)
	switch {
	case apierrors.IsNotFound(err) || err == nil && stored.Labels[v1alpha1.LabelConfiguration] != c.Name:
		return reconcile.Stall(v1alpha1.ReasonInvalid, "the stored values are gone: there is no Secret %s of this configuration. Write all values anew: %s", key.Name, write)
	case err != nil:
		return fmt.Errorf("reading stored values: %w", err)
	}
	data := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(c.Spec.Files)) {
		value, ok := stored.Data[name]
		if !ok {
			return reconcile.Stall(v1alpha1.ReasonInvalid, "the value of %s is not written yet: %s", name, write)
		}
		data[name] = value
	}
	version := base
	switch {
	case len(data) != len(stored.Data):
		version, err = r.createSecret(ctx, c, stored.Type, data)
	case fresh:
		err = r.adopt(ctx, c, stored)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	c.Status.Stored = c.Spec.Stored
	take(c, version)
	return nil
}

// adopt makes the configuration the owner of a version that was written for it.
func (r *Reconciler) adopt(ctx context.Context, c *v1alpha1.Configuration, stored *corev1.Secret) error {
	before := stored.DeepCopy()
	stored.OwnerReferences = ownerOf(c)
	if err := r.client.Patch(ctx, stored, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("taking up version %s: %w", c.Spec.Stored, err)
	}
	return nil
}

// createSecret stores values under a random name: by a hash anybody who sees the name could try out values.
func (r *Reconciler) createSecret(ctx context.Context, c *v1alpha1.Configuration, kind corev1.SecretType, data map[string][]byte) (version string, err error) {
	sum := sha256.Sum256([]byte(rand.Text()))
	version = hex.EncodeToString(sum[:versionBytes])
	object := &corev1.Secret{ObjectMeta: versionMeta(c, version), Type: kind, Immutable: new(true), Data: data}
	if err := r.client.Create(ctx, object); err != nil {
		return "", fmt.Errorf("storing version %s: %w", version, err)
	}
	return version, nil
}

func versionMeta(c *v1alpha1.Configuration, version string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, version), OwnerReferences: ownerOf(c),
		Labels: map[string]string{v1alpha1.LabelConfiguration: c.Name},
	}
}

// create stores files as a version. That it exists already with this content is what is wanted.
func (r *Reconciler) create(ctx context.Context, c *v1alpha1.Configuration, version string) error {
	object := &corev1.ConfigMap{ObjectMeta: versionMeta(c, version), Immutable: new(true), Data: c.Spec.Files}
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
	if !maps.Equal(found.Data, c.Spec.Files) || !metav1.IsControlledBy(found, c) {
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
		if keep[stored.Items[i].Name] || !metav1.IsControlledBy(&stored.Items[i], c) && !abandoned(&stored.Items[i]) {
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

// abandoned tells whether an object without an owner holds values that no configuration took up: whoever wrote them
// failed in between.
func abandoned(o client.Object) bool {
	return len(o.GetOwnerReferences()) == 0 && time.Since(o.GetCreationTimestamp().Time) > takeUpTime
}

// hashOf names a version by its content, so that equal content is one version.
func hashOf(files map[string]string) string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(sum, "%d:%s%d:%s", len(name), name, len(files[name]), files[name])
	}
	return hex.EncodeToString(sum.Sum(nil)[:versionBytes])
}

func sizeOf(files map[string]string) (size int) {
	for name, value := range files {
		size += len(name) + len(value)
	}
	return size
}
