package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// authorizationCheck is how often a member is asked how it decides who may do what.
const authorizationCheck = 10 * time.Minute

// authorise says in a condition how the member decides who may do what. A member that lets everybody do everything is
// shown as such; it is not let go for that: its applications run.
func (c *Controller) authorise(ctx context.Context, cluster *v1alpha1.Cluster) error {
	m, ok := c.members.Member(cluster.Name)
	if !ok {
		return nil
	}
	known := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionAuthorization)
	c.mu.Lock()
	due := known == nil || known.Status != metav1.ConditionTrue || time.Since(c.authorised[cluster.Name]) > authorizationCheck
	if due {
		c.authorised[cluster.Name] = time.Now()
	}
	c.mu.Unlock()
	if due {
		meta.SetStatusCondition(&cluster.Status.Conditions, authorization(ctx, m.Client, cluster.Generation))
	}
	return nil
}

// authorization asks a member two questions about people who are not there: whether somebody without any role may do
// everything, and why everybody may read the list of APIs, which RBAC answers by naming its rule.
func authorization(ctx context.Context, member client.Client, generation int64) metav1.Condition {
	condition := metav1.Condition{Type: v1alpha1.ConditionAuthorization, ObservedGeneration: generation}
	everything := authorizationv1.SubjectAccessReviewSpec{User: "yunfan-check-nobody", Groups: []string{"system:authenticated"}, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"}}
	nobody, err := review(ctx, member, everything)
	if err == nil && nobody.Allowed {
		condition.Status, condition.Reason = metav1.ConditionFalse, "AlwaysAllow"
		condition.Message = "everybody who is signed in may do everything there: start its API server with --authorization-mode=Node,RBAC, or take back the binding that allows it; until then tenants are kept apart by the platform only"
		return condition
	}
	known := authorizationv1.SubjectAccessReviewSpec{
		User: "yunfan-check-somebody", Groups: []string{"system:authenticated"},
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/api"},
	}
	discovery := authorizationv1.SubjectAccessReviewStatus{}
	if err == nil {
		discovery, err = review(ctx, member, known)
	}
	switch {
	case err != nil:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, "Unknown", fmt.Sprintf("the member does not say: %v", err)
	case strings.HasPrefix(discovery.Reason, "RBAC:"):
		condition.Status, condition.Reason = metav1.ConditionTrue, "RBAC"
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, "NotRBAC"
		condition.Message = "RBAC does not decide there (ABAC, Webhook or AlwaysDeny instead): the platform gives rights by RBAC only. Add RBAC to --authorization-mode"
	}
	return condition
}

func review(ctx context.Context, member client.Client, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	r := &authorizationv1.SubjectAccessReview{Spec: spec}
	if err := member.Create(ctx, r); err != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, fmt.Errorf("asking for a review: %w", err)
	}
	return r.Status, nil
}
