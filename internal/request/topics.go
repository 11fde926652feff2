package request

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
)

// Names of the messages.
const (
	topicApplied   = "request.applied"
	topicApproved  = "request.approved"
	topicRejected  = "request.rejected"
	topicActive    = "request.active"
	topicExpiring  = "request.expiring"
	topicExpired   = "request.expired"
	topicInUse     = "request.in-use"
	topicReturned  = "request.returned"
	topicWithdrawn = "request.withdrawn"
	topicFailed    = "request.failed"
)

// topic makes one message of a title and a first line in each language; what follows is the same for all.
func topic(name, zhTitle, zh, enTitle, en string) outbound.Topic {
	const restZH = "\n类型:{{.type}}\n分区:{{.partition}}\n{{with .granted}}配额:{{.}}\n{{end}}{{with .until}}期限:{{.}}\n{{end}}{{with .by}}审批人:{{.}}\n{{end}}{{with .comment}}意见:{{.}}\n{{end}}{{with .message}}说明:{{.}}\n{{end}}"
	const restEN = "\nType: {{.type}}\nPartition: {{.partition}}\n{{with .granted}}Quota: {{.}}\n{{end}}{{with .until}}Until: {{.}}\n{{end}}{{with .by}}Decided by: {{.}}\n{{end}}{{with .comment}}Comment: {{.}}\n{{end}}{{with .message}}Details: {{.}}\n{{end}}"
	return outbound.Topic{
		Name:  name,
		Title: map[string]string{"zh": zhTitle, "en": enTitle},
		Text:  map[string]string{"zh": zh + restZH, "en": en + restEN},
	}
}

// Topics are the messages that requests send.
func Topics() []outbound.Topic {
	return []outbound.Topic{
		topic(topicApplied, "资源申请 {{.request}} 已提交", "{{.applicant}} 为租户 {{.tenant}} 提交了资源申请 {{.request}},等待审批。",
			"Resource request {{.request}} was made", "{{.applicant}} made the resource request {{.request}} for tenant {{.tenant}}. It waits for approval."),
		topic(topicApproved, "资源申请 {{.request}} 已批准", "租户 {{.tenant}} 的资源申请 {{.request}} 已批准,正在分配资源。",
			"Resource request {{.request}} was approved", "The resource request {{.request}} of tenant {{.tenant}} was approved. The resources are being set up."),
		topic(topicRejected, "资源申请 {{.request}} 被驳回", "租户 {{.tenant}} 的资源申请 {{.request}} 被驳回。",
			"Resource request {{.request}} was rejected", "The resource request {{.request}} of tenant {{.tenant}} was rejected."),
		topic(topicActive, "资源申请 {{.request}} 已生效", "租户 {{.tenant}} 的资源申请 {{.request}} 已生效,分区可以使用。",
			"Resource request {{.request}} is active", "The resource request {{.request}} of tenant {{.tenant}} is active: the partition can be used."),
		topic(topicExpiring, "分区 {{.partition}} 即将到期", "租户 {{.tenant}} 的分区 {{.partition}}(申请 {{.request}})即将到期。如需继续使用,请提交延期申请;否则请在到期前移走应用。",
			"Partition {{.partition}} is about to end", "The term of partition {{.partition}} of tenant {{.tenant}} (request {{.request}}) is about to end. Ask for an extension if you still need it; otherwise take its applications away before."),
		topic(topicExpired, "分区 {{.partition}} 已到期", "租户 {{.tenant}} 的分区 {{.partition}}(申请 {{.request}})已到期,空闲后将被收回。",
			"The term of partition {{.partition}} is over", "The term of partition {{.partition}} of tenant {{.tenant}} (request {{.request}}) is over. It is given back when nothing is in it."),
		topic(topicInUse, "分区 {{.partition}} 已到期但仍在使用", "租户 {{.tenant}} 的分区 {{.partition}}(申请 {{.request}})已到期但仍在使用,配额已冻结为当前用量。请移走应用或申请延期。",
			"Partition {{.partition}} is in use after its term", "Partition {{.partition}} of tenant {{.tenant}} (request {{.request}}) is in use after its term. Its quota is frozen at what is used. Take its applications away, or ask for an extension."),
		topic(topicReturned, "分区 {{.partition}} 已收回", "租户 {{.tenant}} 的分区 {{.partition}}(申请 {{.request}})已收回。",
			"Partition {{.partition}} was given back", "Partition {{.partition}} of tenant {{.tenant}} (request {{.request}}) was given back."),
		topic(topicWithdrawn, "资源申请 {{.request}} 已撤回", "租户 {{.tenant}} 的资源申请 {{.request}} 已撤回。",
			"Resource request {{.request}} was withdrawn", "The resource request {{.request}} of tenant {{.tenant}} was withdrawn."),
		topic(topicFailed, "资源申请 {{.request}} 失败", "租户 {{.tenant}} 的资源申请 {{.request}} 未能完成,没有留下任何资源。",
			"Resource request {{.request}} failed", "The resource request {{.request}} of tenant {{.tenant}} could not be carried out. Nothing of it is left."),
	}
}

// Topics are the messages that requests send.
func (*Requests) Topics() []outbound.Topic { return Topics() }

// ofPhase is the message that is sent when a request comes to a phase; none for those of which nobody needs to hear.
var ofPhase = map[v1alpha1.RequestPhase]string{
	v1alpha1.RequestApplied: topicApplied, v1alpha1.RequestApproved: topicApproved, v1alpha1.RequestRejected: topicRejected,
	v1alpha1.RequestActive: topicActive, v1alpha1.RequestExpired: topicExpired, v1alpha1.RequestReturned: topicReturned,
	v1alpha1.RequestWithdrawn: topicWithdrawn, v1alpha1.RequestFailed: topicFailed,
}

// tell sends a message about a request. Sent twice under one key, it is one.
func (r *Requests) tell(ctx context.Context, req *v1alpha1.ResourceRequest, topic, key, message string) error {
	if r.Send == nil || topic == "" {
		return nil
	}
	granted, until := req.Status.Granted, req.Spec.Wanted.Until
	data := map[string]string{
		"request": req.Name, "tenant": req.Namespace, "type": string(req.Spec.Wanted.Type), "partition": req.Spec.Wanted.Partition,
		"applicant": cmp.Or(req.Spec.Form.Applicant, person(req.Spec.User)), "project": req.Spec.Form.ProjectGroup,
		"by": strings.Join(req.Status.By, ", "), "comment": req.Status.Comment, "message": message,
	}
	if granted != nil {
		until = granted.Until
		data["granted"], data["cluster"] = words(granted.Quota), granted.Cluster
	}
	if until != nil {
		data["until"] = day(until)
	}
	m := outbound.Message{Key: "request-" + string(req.UID) + "-" + key, Tenant: req.Namespace, Topic: topic, Data: data}
	if req.Spec.User != nil && strings.HasPrefix(req.Spec.User.Name, v1alpha1.UserPrefix) {
		m.To = append(m.To, outbound.Recipient{User: person(req.Spec.User)})
	}
	switch topic {
	case topicExpiring:
		m.To = append(m.To, outbound.Recipient{Role: v1alpha1.RoleAdmin})
	case topicExpired, topicInUse:
		m.To = append(m.To, outbound.Recipient{Role: v1alpha1.RoleAdmin}, outbound.Recipient{PlatformAdministrators: true})
	}
	if len(m.To) == 0 {
		return nil
	}
	if err := r.Send(ctx, m); err != nil {
		return fmt.Errorf("telling about request %s: %w", req.Name, err)
	}
	return nil
}

// tellExpiring gives notice of the end of a term, in the ledger too.
func (r *Requests) tellExpiring(ctx context.Context, req *v1alpha1.ResourceRequest, until *metav1.Time) error {
	row := r.row(req, eventExpiring, eventExpiring+":"+timeText(until), "")
	row.Comment, row.GrantedUntil = "the term ends "+day(until), until
	if err := r.ledger.Add(ctx, row); err != nil {
		return err
	}
	return r.tell(ctx, req, topicExpiring, "expiring-"+timeText(until), "the term ends "+day(until))
}

// tellInUse tells both sides that a partition is in use after its term, once a day.
func (r *Requests) tellInUse(ctx context.Context, req *v1alpha1.ResourceRequest, today, message string) error {
	row := r.row(req, eventInUse, eventInUse+":"+today, "")
	row.Comment = message
	if err := r.ledger.Add(ctx, row); err != nil {
		return err
	}
	return r.tell(ctx, req, topicInUse, "in-use-"+today, message)
}

// row is a row of the ledger about a request as it is now.
func (r *Requests) row(req *v1alpha1.ResourceRequest, event, key, actor string) LedgerRow {
	row := LedgerRow{
		Time: r.Now(), Event: event, key: key, Tenant: req.Namespace, Request: req.Name, UID: string(req.UID), Type: req.Spec.Wanted.Type,
		Partition: req.Spec.Wanted.Partition, Cluster: req.Spec.Wanted.Cluster, Applicant: person(req.Spec.User), Actor: actor,
		Asked: req.Spec.Wanted.Quota, AskedUntil: req.Spec.Wanted.Until,
	}
	if g := req.Status.Granted; g != nil {
		row.Cluster, row.Granted, row.GrantedUntil = g.Cluster, g.Quota, g.Until
	}
	return row
}
