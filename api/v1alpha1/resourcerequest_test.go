package v1alpha1_test

import (
	"strings"
	"testing"
)

const resourceRequest = `
kind: ResourceRequest
metadata: {namespace: default}
spec:
  form:
    projectGroup: 教务处
    applicant: 李雷
    phone: +86 (10) 8888-0000
    email: li.lei@example.com
    application: Web 选课
    baseServices: [MySQL, Kafka]
    purpose: 选课高峰
    serverType: ApplicationHost
    oracle: false
    storage: 500Gi
    bandwidth: 100
    room: A-3
    machines: 4
    remarks: 请尽快
  wanted:
    type: New
    partition: prod-bj
    cluster: beijing
    environment: Production
    items: [{product: vm-small, count: 2}]
    quota: {requests.cpu: "4", requests.memory: 8Gi}
    until: "2030-12-31T00:00:00Z"
`

func TestONB04_ResourceRequestRules(t *testing.T) {
	long := strings.Repeat("云", 2001)
	cases := map[string]struct{ change, refused string }{
		"whole form":           {"", ""},
		"mandatory fields":     {"spec: {form: {baseServices: null, oracle: null, storage: null, bandwidth: null, room: null, remarks: null}}", ""},
		"no project group":     {"spec: {form: {projectGroup: null}}", "spec.form.projectGroup: Required"},
		"no applicant":         {"spec: {form: {applicant: null}}", "spec.form.applicant: Required"},
		"blank applicant":      {"spec: {form: {applicant: '   '}}", "fill in the applicant"},
		"no phone":             {"spec: {form: {phone: null}}", "spec.form.phone: Required"},
		"phone is a formula":   {"spec: {form: {phone: '=1+1'}}", "a phone number has"},
		"no e-mail":            {"spec: {form: {email: null}}", "spec.form.email: Required"},
		"e-mail of no host":    {"spec: {form: {email: 'li@'}}", "write an e-mail address"},
		"e-mail with a header": {"spec: {form: {email: \"li@example.com\\r\\nBcc: all@example.com\"}}", "write an e-mail address"},
		"no application":       {"spec: {form: {application: null}}", "spec.form.application: Required"},
		"no purpose":           {"spec: {form: {purpose: null}}", "spec.form.purpose: Required"},
		"blank purpose":        {"spec: {form: {purpose: \" \\n \"}}", "say what the resources are for"},
		"huge purpose":         {"spec: {form: {purpose: " + long + "}}", "spec.form.purpose"},
		"no server type":       {"spec: {form: {serverType: null}}", "spec.form.serverType: Required"},
		"unknown server type":  {"spec: {form: {serverType: Mainframe}}", "spec.form.serverType"},
		"no machines":          {"spec: {form: {machines: null}}", "spec.form.machines: Required"},
		"negative machines":    {"spec: {form: {machines: -1}}", "spec.form.machines"},
		"negative storage":     {"spec: {form: {storage: -1Gi}}", "storage cannot be below 0"},
		"control characters":   {"spec: {form: {room: \"a\\u001b[31m\"}}", "spec.form.room"},
		"nothing wanted":       {"spec: {wanted: {items: null, quota: null}}", "say how much"},
		"no count":             {"spec: {wanted: {items: [{product: a, count: 0}]}}", "spec.wanted.items"},
		"product twice":        {"spec: {wanted: {items: [{product: a, count: 1}, {product: a, count: 2}]}}", "Duplicate value"},
		"name of a partition":  {"spec: {wanted: {partition: Prod_BJ}}", "a partition's name consists of"},
		"year 9999":            {"spec: {wanted: {until: '9999-12-31T00:00:00Z'}}", "before the year 2100"},
		"year 1":               {"spec: {wanted: {until: '0001-01-01T00:00:00Z'}}", "before the year 2100"},
		"extension":            {"spec: {wanted: {type: Extend, items: null, quota: null, cluster: null, environment: null}}", ""},
		"extension until when": {"spec: {wanted: {type: Extend, items: null, quota: null, cluster: null, environment: null, until: null}}", "say in until"},
		"extension with quota": {"spec: {wanted: {type: Extend, items: null, cluster: null, environment: null}}", "for the types New and Change"},
		"change of cluster":    {"spec: {wanted: {type: Change}}", "a partition stays where it is"},
		"return":               {"spec: {wanted: {type: Return, items: null, quota: null, cluster: null, environment: null, until: null}}", ""},
		"return with until":    {"spec: {wanted: {type: Return, items: null, quota: null, cluster: null, environment: null}}", "leave until out"},
		"long name":            {"metadata: {name: " + strings.Repeat("a", 64) + "}", "at most 63 characters"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.Client.Create(t.Context(), object(t, resourceRequest, tc.change))
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestONB05_ResourceRequestStaysWhatItIs(t *testing.T) {
	cases := map[string]struct{ change, refused string }{
		"the form":               {"spec: {form: {purpose: another}}", "cannot be changed once it is made"},
		"a field less":           {"spec: {form: {remarks: null}}", "cannot be changed once it is made"},
		"what is wanted":         {"spec: {wanted: {quota: {requests.cpu: '400'}}}", "cannot be changed once it is made"},
		"without an end":         {"spec: {wanted: {until: null}}", "cannot be changed once it is made"},
		"the user":               {"spec: {user: {name: 'yunfan:wang'}}", "who made a request cannot be changed"},
		"withdrawn":              {"spec: {withdrawn: true}", ""},
		"the same":               {"metadata: {labels: {a: b}}", ""},
		"no user once there was": {"spec: {user: null}", "who made a request cannot be changed"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			made := object(t, resourceRequest, "spec: {user: {name: 'yunfan:li'}}")
			if err := hub.Client.Create(t.Context(), made); err != nil {
				t.Fatal(err)
			}
			change := object(t, "metadata: {name: "+made.GetName()+"}", tc.change)
			merged := made.DeepCopy()
			merge(merged.Object, change.Object)
			err := hub.Client.Update(t.Context(), merged)
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
	t.Run("a withdrawn one does not come back", func(t *testing.T) {
		made := object(t, resourceRequest, "spec: {withdrawn: true}")
		if err := hub.Client.Create(t.Context(), made); err != nil {
			t.Fatal(err)
		}
		merge(made.Object, map[string]any{"spec": map[string]any{"withdrawn": false}})
		expectRefused(t, hub.Client.Update(t.Context(), made), "does not come back")
	})
}

func TestONB05_ProductRules(t *testing.T) {
	const product = `
kind: Product
spec: {displayName: 2 核 32G 虚拟机, kind: Virtual, cpu: 2, memory: 32Gi, description: for applications}
`
	cases := map[string]struct{ change, refused string }{
		"plain":        {"", ""},
		"physical":     {"spec: {kind: Physical}", ""},
		"unknown kind": {"spec: {kind: Cloud}", "spec.kind"},
		"no cpu":       {"spec: {cpu: null}", "spec.cpu: Required"},
		"cpu of 0":     {"spec: {cpu: 0}", "more than 0"},
		"negative":     {"spec: {memory: -1Gi}", "more than 0"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			u := object(t, product, tc.change)
			err := hub.Client.Create(t.Context(), u)
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			expectField(t, u, true, "spec", "available")
		})
	}
}
