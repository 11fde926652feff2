package rest

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
)

// parallelReviews is how many questions of one request are put to the hub at once.
const parallelReviews = 8

// Authorizer asks the hub whether a user may do something, by SubjectAccessReview: RBAC of the hub is the one set of
// rules.
type Authorizer struct {
	hub    kubernetes.Interface
	decide Decide
}

// Decide answers what the hub would, without asking it. It gives false for decided where only the hub knows.
type Decide func(user User, attributes authorizationv1.ResourceAttributes) (allowed, decided bool)

// NewAuthorizer makes an authorizer that asks hub.
func NewAuthorizer(hub kubernetes.Interface) *Authorizer { return &Authorizer{hub: hub} }

// DecideFirst lets decide answer before the hub is asked. It is set before the first request.
func (a *Authorizer) DecideFirst(decide Decide) { a.decide = decide }

// Allowed says whether the request's user may do what attributes describe.
func (a *Authorizer) Allowed(ctx context.Context, attributes authorizationv1.ResourceAttributes) (bool, error) {
	if a.decide != nil {
		if allowed, decided := a.decide(UserOf(ctx), attributes); decided {
			return allowed, nil
		}
	}
	return a.review(ctx, authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &attributes})
}

// Require is nil if the request's user may do what attributes describe, and a Kubernetes Forbidden if not.
func (a *Authorizer) Require(ctx context.Context, attributes authorizationv1.ResourceAttributes) error {
	allowed, err := a.Allowed(ctx, attributes)
	if err != nil || allowed {
		return err
	}
	where := "in all namespaces"
	if attributes.Namespace != "" {
		where = "in namespace " + attributes.Namespace
	}
	resource := attributes.Resource
	if attributes.Subresource != "" {
		resource += "/" + attributes.Subresource
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: attributes.Group, Resource: resource}, attributes.Name,
		fmt.Errorf("user %q lacks the verb %q %s: ask an administrator for it", UserOf(ctx).Name, attributes.Verb, where))
}

// RequirePath is Require for a path that is no Kubernetes resource, such as /metrics.
func (a *Authorizer) RequirePath(ctx context.Context, verb, path string) error {
	allowed, err := a.review(ctx, authorizationv1.SubjectAccessReviewSpec{
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: verb, Path: path},
	})
	if err != nil || allowed {
		return err
	}
	return apierrors.NewForbidden(schema.GroupResource{}, path, fmt.Errorf("user %q lacks the verb %q", UserOf(ctx).Name, verb))
}

// Namespaces gives those of the namespaces in which the request's user may do what attributes describe. It asks once
// for all of them, and one by one only if that is refused.
func (a *Authorizer) Namespaces(ctx context.Context, attributes authorizationv1.ResourceAttributes, namespaces []string) ([]string, error) {
	attributes.Namespace = ""
	if all, err := a.Allowed(ctx, attributes); err != nil || all {
		return namespaces, err
	}
	allowed := make([]bool, len(namespaces))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReviews)
	for i, namespace := range namespaces {
		group.Go(func() (err error) {
			one := attributes
			one.Namespace = namespace
			allowed[i], err = a.Allowed(ctx, one)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	i := -1
	return slices.DeleteFunc(slices.Clone(namespaces), func(string) bool { i++; return !allowed[i] }), nil
}

func (a *Authorizer) review(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	user := UserOf(ctx)
	spec.User, spec.UID, spec.Groups = user.Name, user.UID, user.Groups
	spec.Extra = make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, values := range user.Extra {
		spec.Extra[key] = values
	}
	review, err := a.hub.AuthorizationV1().SubjectAccessReviews().Create(ctx,
		&authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("asking the hub whether %q may do this: %w", user.Name, err)
	}
	return review.Status.Allowed, nil
}
