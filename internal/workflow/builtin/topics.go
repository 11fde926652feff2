package builtin

import "yunfan.io/yunfan/internal/outbound"

const (
	topicApprovalWanted = "workflow.approval-wanted"
	topicNotice         = "workflow.notice"
)

// Topics are the messages that the built-in actions send.
var Topics = []outbound.Topic{
	{
		Name: topicApprovalWanted,
		Title: map[string]string{
			"zh": "待审批:{{.subject}}",
			"en": "Approval wanted: {{.subject}}",
		},
		Text: map[string]string{
			"zh": "租户 {{.tenant}} 的流程 {{.run}} 在步骤 {{.step}} 等待审批。\n发起人:{{.user}}\n事项:{{.subject}}\n{{with .values}}内容:\n{{.}}\n{{end}}",
			"en": "Run {{.run}} of tenant {{.tenant}} waits at step {{.step}} for an approval.\nStarted by: {{.user}}\nSubject: {{.subject}}\n{{with .values}}Values:\n{{.}}\n{{end}}",
		},
	},
	{
		Name:  topicNotice,
		Title: map[string]string{"zh": "{{.title}}", "en": "{{.title}}"},
		Text: map[string]string{
			"zh": "{{.text}}\n\n来自租户 {{.tenant}} 的流程 {{.run}},步骤 {{.step}}。",
			"en": "{{.text}}\n\nFrom run {{.run}} of tenant {{.tenant}}, step {{.step}}.",
		},
	},
}
