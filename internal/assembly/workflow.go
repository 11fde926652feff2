package assembly

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/application"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/notification"
	"yunfan.io/yunfan/internal/request"
	"yunfan.io/yunfan/internal/rest"
	"yunfan.io/yunfan/internal/right"
	"yunfan.io/yunfan/internal/rollout"
	"yunfan.io/yunfan/internal/traffic"
	"yunfan.io/yunfan/internal/usage"
	"yunfan.io/yunfan/internal/workflow"
	"yunfan.io/yunfan/internal/workflow/builtin"
	"yunfan.io/yunfan/internal/workflow/history"
)

// overTime are the capabilities that do things over time, and need records for it.
type overTime struct {
	mgr     manager.Manager
	members *member.Set
	absent  right.Absent
	secrets builtin.Secrets
	usage   *usage.History
	traffic traffic.Traffic
	o       Options
}

// add registers workflows with every action there is, requests, and the messages of both, and gives their routes.
func (a *overTime) add() ([]rest.Route, error) {
	messages, err := notification.New(a.mgr, notification.Options{
		Records: a.o.Records, Policy: a.o.Outbound, Authorizer: a.absent.Authorizer, Namespace: a.o.Namespace, URL: a.o.URL,
		Topics: slices.Concat(builtin.Topics, request.Topics()), Members: a.absent.Members,
	})
	if err != nil {
		return nil, err
	}
	requests, err := request.New(a.mgr, request.Options{
		Records: a.o.Records, Namespace: a.o.Namespace, Authorizer: a.absent.Authorizer, May: a.absent.May, Usage: a.used, Send: messages.Send,
	})
	if err != nil {
		return nil, err
	}
	var engine *workflow.Engine // rollouts are among its actions, and wake their steps
	rollouts, err := rollout.New(a.mgr, rollout.Options{
		Traffic: a.traffic, CheckQuota: application.CheckQuota(a.mgr.GetClient()), Namespace: a.o.Namespace, Authorizer: a.absent.Authorizer,
		Wake: func(run types.NamespacedName, step string) { engine.Wake(run, step) },
	})
	if err != nil {
		return nil, err
	}
	actions, err := action.NewCatalogue(slices.Concat(builtin.Actions(builtin.Options{
		Hub: a.mgr.GetClient(), Live: a.mgr.GetAPIReader(), Members: a.members, Policy: a.o.Outbound, Send: messages.Send,
		Secrets: a.secrets, May: a.absent.May,
	}), requests.Actions(), rollouts.Actions())...)
	if err != nil {
		return nil, err
	}
	descriptions := workflow.Descriptions(actions)
	runs := history.New(a.mgr.GetClient(), a.o.Records)
	engine = workflow.New(a.mgr, workflow.Options{Actions: actions, Namespace: a.o.Namespace, History: runs, Log: runs.Log})
	for _, c := range []controller{
		messages, requests, runs, history.NewTrimmer(runs, a.mgr.GetClient()),
		workflow.NewValidity(a.mgr, descriptions, a.o.Namespace),
		engine, rollouts,
	} {
		if err := c.SetupWithManager(a.mgr); err != nil {
			return nil, fmt.Errorf("assembling: %w", err)
		}
	}
	if err := builtin.Setup(a.mgr); err != nil {
		return nil, fmt.Errorf("assembling: %w", err)
	}
	a.mgr.GetWebhookServer().Register(builtin.ApprovalWebhookPath, builtin.NewApprovalWebhook(a.mgr))
	for path, hook := range workflow.NewWebhooks(a.mgr, descriptions, a.o.Namespace) {
		a.mgr.GetWebhookServer().Register(path, hook)
	}
	views := &history.API{History: runs, Authorizer: a.absent.Authorizer, Actions: actions, Namespace: a.o.Namespace}
	return slices.Concat(messages.Routes(), requests.Routes(), views.Routes(), rollouts.Routes()), nil
}

// used is what requests show to those who decide on them.
func (a *overTime) used(ctx context.Context, tenant, partition string, from, to time.Time) (map[corev1.ResourceName]request.Used, error) {
	points, err := a.usage.Over(ctx, tenant, partition, from, to)
	if err != nil {
		return nil, err
	}
	out := make(map[corev1.ResourceName]request.Used, len(points))
	for name, p := range points {
		out[name] = request.Used{Average: p.Used, Peak: p.Peak, Quota: p.Hard}
	}
	return out, nil
}
