// Package secret is the write-only way to the values of Secrets: passwords, credentials of registries, certificates with
// their keys. Values go from the request straight into an immutable Secret that nobody but the platform reads; the
// Configuration of the same name only names them.
package secret

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

// Annotations of a version: what may be known of it without reading its values.
const (
	annotationWriter   = "yunfan.io/written-by"
	annotationEnd      = "yunfan.io/certificate-not-after"
	annotationHosts    = "yunfan.io/certificate-names"
	annotationRegistry = "yunfan.io/registry"
)

// Row is what anybody is told of a secret: never a value.
type Row struct {
	Tenant  string            `json:"tenant"`
	Name    string            `json:"name"`
	Type    corev1.SecretType `json:"type"`
	Keys    []string          `json:"keys"`
	Version string            `json:"version,omitempty"`
	// Versions are those that are kept, newest first.
	Versions    []Version            `json:"versions,omitempty"`
	WrittenAt   *metav1.Time         `json:"writtenAt,omitempty"`
	WrittenBy   string               `json:"writtenBy,omitempty"`
	Registry    string               `json:"registry,omitempty"`
	Certificate *Certificate         `json:"certificate,omitempty"`
	Publication v1alpha1.Publication `json:"publication,omitempty"`
	Partitions  []string             `json:"partitions,omitempty"`
	Ready       string               `json:"ready"`
	Message     string               `json:"message,omitempty"`
}

// Version tells who wrote one version, and when.
type Version struct {
	Name      string      `json:"name"`
	WrittenAt metav1.Time `json:"writtenAt"`
	WrittenBy string      `json:"writtenBy,omitempty"`
}

// Certificate tells of the newest certificate of a TLS secret.
type Certificate struct {
	NotAfter metav1.Time `json:"notAfter"`
	// DaysLeft is negative once it has ended.
	DaysLeft int      `json:"daysLeft"`
	Names    []string `json:"names,omitempty"`
}

// rows describes the tenant's secrets, or the one that is named.
func (a *API) rows(ctx context.Context, tenant, name string) ([]Row, error) {
	var all []v1alpha1.Configuration
	if name != "" {
		c := v1alpha1.Configuration{}
		if err := a.Live.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, &c); apierrors.IsNotFound(err) {
			return nil, rest.NotFound("secrets", name)
		} else if err != nil {
			return nil, fmt.Errorf("reading secret %s: %w", name, err)
		}
		all = append(all, c)
	} else {
		list := v1alpha1.ConfigurationList{}
		if err := a.Live.List(ctx, &list, client.InNamespace(tenant)); err != nil {
			return nil, fmt.Errorf("listing secrets: %w", err)
		}
		all = list.Items
	}
	versions, err := a.versions(ctx, tenant, name)
	if err != nil {
		return nil, err
	}
	out := []Row{}
	for i := range all {
		if all[i].Spec.Type == v1alpha1.ConfigurationSecret {
			out = append(out, describe(&all[i], versions))
		}
	}
	if name != "" && len(out) == 0 {
		return nil, rest.NotFound("secrets", name)
	}
	return out, nil
}

// versions reads what is known of versions, by the name of their object. Their values are not even asked for.
func (a *API) versions(ctx context.Context, tenant, name string) (map[string]metav1.PartialObjectMetadata, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	of := []client.ListOption{client.InNamespace(tenant), client.HasLabels{v1alpha1.LabelConfiguration}}
	if name != "" {
		of[1] = client.MatchingLabels{v1alpha1.LabelConfiguration: name}
	}
	if err := a.Live.List(ctx, list, of...); err != nil {
		return nil, fmt.Errorf("listing versions of secrets: %w", err)
	}
	out := make(map[string]metav1.PartialObjectMetadata, len(list.Items))
	for _, item := range list.Items {
		out[item.Name] = item
	}
	return out, nil
}

func describe(c *v1alpha1.Configuration, versions map[string]metav1.PartialObjectMetadata) Row {
	row := Row{
		Tenant: c.Namespace, Name: c.Name, Type: c.Spec.SecretType, Keys: keysOf(c), Version: c.Status.Version,
		Publication: c.Spec.Publication, Partitions: c.Spec.Partitions, Ready: string(metav1.ConditionUnknown),
	}
	if row.Type == "" {
		row.Type = corev1.SecretTypeOpaque
	}
	if condition := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); condition != nil && c.Status.Stored == c.Spec.Stored {
		row.Ready, row.Message = string(condition.Status), condition.Message
	}
	for _, v := range c.Status.Versions {
		row.Versions = append(row.Versions, Version{Name: v.Name, WrittenAt: v.CreatedAt, WrittenBy: versions[v1alpha1.VersionObjectName(c.Name, v.Name)].Annotations[annotationWriter]})
	}
	newest := c.Status.Version
	if c.Spec.Stored != c.Status.Stored { // written, and not taken up yet
		newest = c.Spec.Stored
	}
	if at, ok := versions[v1alpha1.VersionObjectName(c.Name, newest)]; ok {
		row.WrittenAt, row.WrittenBy, row.Registry = &at.CreationTimestamp, at.Annotations[annotationWriter], at.Annotations[annotationRegistry]
		if end, err := time.Parse(time.RFC3339, at.Annotations[annotationEnd]); err == nil {
			const day = 24 * time.Hour
			row.Certificate = &Certificate{NotAfter: metav1.NewTime(end), DaysLeft: int(time.Until(end) / day)}
			if names := at.Annotations[annotationHosts]; names != "" {
				row.Certificate.Names = strings.Split(names, ",")
			}
		}
	}
	return row
}

func keysOf(c *v1alpha1.Configuration) []string {
	keys := make([]string, 0, len(c.Spec.Files))
	for key := range c.Spec.Files {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// how says what becomes of values that are there already.
type how int

const (
	create  how = iota // refused if there are any
	replace            // the new ones are all
	merge              // those that are not named stay
)

// write stores values as a version, and has the configuration name it, in the name of the user: the hub's rules for
// configurations hold for him.
func (a *API) write(ctx context.Context, tenant, name string, in *Input, way how) error {
	as, err := a.as(ctx)
	if err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		c := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}}
		err := a.Live.Get(ctx, client.ObjectKeyFromObject(c), c)
		there := err == nil
		switch {
		case client.IgnoreNotFound(err) != nil:
			return fmt.Errorf("reading secret %s: %w", name, err)
		case there && way == create:
			return apierrors.NewAlreadyExists(schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "secrets"}, name)
		case there && c.Spec.Type != v1alpha1.ConfigurationSecret:
			return refuse("a configuration called %s holds files: choose another name", name)
		case !there && way == merge:
			return rest.NotFound("secrets", name)
		}
		values, err := a.values(ctx, c, in, way)
		if err != nil {
			return err
		}
		return a.store(ctx, as, c, in, values, there)
	})
	if err != nil {
		return fmt.Errorf("writing secret %s: %w", name, err)
	}
	return nil
}

// values are those that the secret has from now on.
func (a *API) values(ctx context.Context, c *v1alpha1.Configuration, in *Input, way how) (*content, error) {
	kind := c.Spec.SecretType
	if kind == "" && c.Spec.Type == v1alpha1.ConfigurationSecret {
		kind = corev1.SecretTypeOpaque
	}
	if way != merge {
		return in.content(kind, nil)
	}
	stored, err := a.stored(ctx, c)
	if err != nil {
		return nil, err
	}
	return in.content(kind, stored)
}

// stored are the values that were written last.
func (a *API) stored(ctx context.Context, c *v1alpha1.Configuration) (map[string][]byte, error) {
	stored := &corev1.Secret{}
	version := c.Status.Version
	if c.Spec.Stored != c.Status.Stored {
		version = c.Spec.Stored
	}
	err := a.Live.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: v1alpha1.VersionObjectName(c.Name, version)}, stored)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewBadRequest("the values that are there are gone: write all of them anew")
	}
	if err != nil {
		return nil, fmt.Errorf("reading stored values: %w", err)
	}
	return stored.Data, nil
}

// Values gives a secret's values as they were written last, to a part of the platform that uses them for the tenant and
// shows them to nobody. Whoever calls it has asked whether the user may write the secret.
func (a *API) Values(ctx context.Context, tenant, name string) (map[string][]byte, error) {
	c := &v1alpha1.Configuration{}
	err := a.Live.Get(ctx, client.ObjectKey{Namespace: tenant, Name: name}, c)
	if apierrors.IsNotFound(err) || err == nil && c.Spec.Type != v1alpha1.ConfigurationSecret {
		return nil, rest.NotFound("secrets", name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", name, err)
	}
	return a.stored(ctx, c)
}

func (a *API) store(ctx context.Context, as client.Client, c *v1alpha1.Configuration, in *Input, values *content, there bool) error {
	stored := c.WriteSecret(values.kind, values.data)
	stored.Annotations = values.says
	stored.Annotations[annotationWriter], _ = rest.UserOf(ctx).OfPlatform()
	if in.Publication != "" {
		c.Spec.Publication, c.Spec.Partitions = in.Publication, in.Partitions
	}
	if err := a.Live.Create(ctx, stored); apierrors.IsNotFound(err) {
		return rest.NotFound("tenants", c.Namespace)
	} else if err != nil {
		return fmt.Errorf("storing values: %w", err)
	}
	write := as.Create
	if there {
		write = func(ctx context.Context, o client.Object, _ ...client.CreateOption) error { return as.Update(ctx, o) }
	}
	if err := write(ctx, c); err != nil {
		// Nothing names them. If this fails, too, the configuration's controller deletes them later.
		_ = a.Live.Delete(context.WithoutCancel(ctx), stored)
		return err //nolint:wrapcheck // the retry around it knows a conflict by its type, and the frame the code
	}
	return nil
}
