package v1alpha1_test

import (
	"strings"
	"testing"

	"yunfan.io/yunfan/internal/testkit"
)

const (
	mailServer = `
kind: NotificationProvider
spec: {type: Email, email: {host: mail.example.com, from: yunfan@example.com, username: yunfan}}`
	smsGateway = `
kind: NotificationProvider
spec: {type: SMS, sms: {url: "https://sms.example.com/send?id={{id}}", headers: [{name: Authorization, value: "Bearer {{secret}}"}], body: '{"to": "{{phone}}"}'}}`
	webhook = `
kind: NotificationReceiver
spec: {type: Webhook, url: "https://nms.example.com/hook?a=b", topics: [request.*, workflow.failed, "*"]}`
	mailReceiver = `
kind: NotificationReceiver
spec: {type: Email, addresses: [ops@example.com], language: en}`
)

func TestOPS06_NotificationKinds(t *testing.T) {
	ns := testkit.Namespace(t, hub.Client)
	for name, tc := range map[string]struct {
		reason, base, over string
		refused            string
	}{
		"Email":               {"", mailServer, `{}`, ""},
		"Email over TLS":      {"", mailServer, `{spec: {email: {security: TLS, port: 465}}}`, ""},
		"Email plain":         {"Explicitly, and without a password", mailServer, `{spec: {email: {security: None, username: null}}}`, ""},
		"Password in clear":   {"", mailServer, `{spec: {email: {security: None}}}`, "would be shown to the network"},
		"From with a header":  {"Header injection", mailServer, `{spec: {email: {from: "a@example.com\nBcc: b@example.com"}}}`, "plain address"},
		"From with a name":    {"", mailServer, `{spec: {email: {from: "Me <a@example.com>"}}}`, "plain address"},
		"Host with scheme":    {"", mailServer, `{spec: {email: {host: "smtp://mail"}}}`, "without scheme"},
		"Email without":       {"", mailServer, `{spec: {email: null}}`, "needs email"},
		"Email with sms":      {"", mailServer, `{spec: {sms: {url: "https://x"}}}`, "needs sms"},
		"SMS":                 {"", smsGateway, `{}`, ""},
		"SMS by GET":          {"", smsGateway, `{spec: {sms: {method: GET, body: null}}}`, ""},
		"GET with body":       {"", smsGateway, `{spec: {sms: {method: GET}}}`, "has no body"},
		"Host from a message": {"A text chooses no host", smsGateway, `{spec: {sms: {url: "https://{{text}}/send"}}}`, "fixed host"},
		"URL with password":   {"It would be shown", smsGateway, `{spec: {sms: {url: "https://a:b@sms.example.com/"}}}`, "without user"},
		"URL with file":       {"", smsGateway, `{spec: {sms: {url: "file:///etc/passwd"}}}`, "http://"},
		"Header injection":    {"", smsGateway, `{spec: {sms: {headers: [{name: A, value: "x\nB: y"}]}}}`, "one line"},
		"Header Host":         {"", smsGateway, `{spec: {sms: {headers: [{name: Host, value: x}]}}}`, "request's own"},
		"Status of errors":    {"", smsGateway, `{spec: {sms: {expectedStatus: [500]}}}`, "less than or equal to 299"},
		"Webhook":             {"", webhook, `{}`, ""},
		"Webhook by file":     {"", webhook, `{spec: {url: "gopher://x/"}}`, "http://"},
		"Webhook by user":     {"", webhook, `{spec: {url: "http://a:b@x/"}}`, "without user"},
		"Webhook without":     {"", webhook, `{spec: {url: null}}`, "needs url"},
		"Topic":               {"", webhook, `{spec: {topics: ["request*"]}}`, "should match"},
		"Mail":                {"", mailReceiver, `{}`, ""},
		"Mail with a header":  {"Header injection", mailReceiver, `{spec: {addresses: ["a@example.com\r\nBcc: b@example.com"]}}`, "should match"},
		"Mails too many":      {"", mailReceiver, `{spec: {addresses: [` + strings.TrimSuffix(strings.Repeat(`"a@x", `, 21), ", ") + `]}}`, "must have at most 20"},
		"Mail and url":        {"", mailReceiver, `{spec: {url: "https://x"}}`, "needs url"},
		"Mail and CA":         {"", mailReceiver, `{spec: {caBundle: x}}`, "caBundle is of type Webhook"},
		"Phones":              {"", mailReceiver, `{spec: {type: SMS, addresses: null, phones: ["+8613800138000", "13800138000"]}}`, ""},
		"Phone":               {"", mailReceiver, `{spec: {type: SMS, addresses: null, phones: ["110; rm"]}}`, "should match"},
		"Language":            {"", mailReceiver, `{spec: {language: fr}}`, "Unsupported value"},
	} {
		t.Run(name, func(t *testing.T) {
			u := object(t, tc.base, tc.over)
			if u.GetKind() == "NotificationReceiver" {
				u.SetNamespace(ns)
			}
			err := hub.Client.Create(t.Context(), u)
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			switch u.GetKind() {
			case "NotificationReceiver":
				want := any("zh")
				if tc.base == mailReceiver {
					want = "en"
				}
				expectField(t, u, want, "spec", "language")
			default:
				if security, ok := u.Object["spec"].(map[string]any)["email"].(map[string]any); ok && security["security"] == nil {
					t.Error("security has no default")
				}
			}
		})
	}
}

func TestOPS06_UserNotifications(t *testing.T) {
	const user = `{kind: User, spec: {displayName: 李雷, phone: "13800138000", notifications: {language: zh, channels: [Email, SMS], mutedTopics: [request.*]}}}`
	for name, tc := range map[string]struct{ reason, over, refused string }{
		"All":       {"", `{}`, ""},
		"None":      {"Nothing but the inbox", `{spec: {notifications: {channels: []}}}`, ""},
		"Channel":   {"", `{spec: {notifications: {channels: [Pigeon]}}}`, "Unsupported value"},
		"Phone":     {"", `{spec: {phone: "+86138 0013"}}`, "should match"},
		"Topic":     {"", `{spec: {notifications: {mutedTopics: ["a b"]}}}`, "should match"},
		"Languages": {"", `{spec: {notifications: {language: de}}}`, "Unsupported value"},
	} {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, user, tc.over))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}
