package workflow_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/yaml"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
	"yunfan.io/yunfan/internal/workflow"
)

// workflowOf makes a Workflow of a definition in YAML, unsaved.
func (w *world) workflowOf(t *testing.T, definition string) *v1alpha1.Workflow {
	t.Helper()
	made := &v1alpha1.Workflow{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: testkit.Name(t)}}
	if err := yaml.UnmarshalStrict([]byte(definition), &made.Spec); err != nil {
		t.Fatalf("reading %s: %v", definition, err)
	}
	return made
}

func TestOPS10_WorkflowsSayWhetherTheyCanBeRun(t *testing.T) {
	w := newWorld(t)
	platform := testkit.Namespace(t, hub.Client)
	testkit.StartManager(t, hub, func(mgr manager.Manager) error {
		return workflow.NewValidity(mgr, workflow.Descriptions(w.catalogue(t)), platform).SetupWithManager(mgr)
	})
	verdict := func(made *v1alpha1.Workflow) func(Gomega) *metav1.Condition {
		return func(g Gomega) *metav1.Condition {
			live := &v1alpha1.Workflow{}
			g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(made), live)).To(Succeed())
			g.Expect(live.Status.ObservedGeneration).To(Equal(live.Generation))
			condition := meta.FindStatusCondition(live.Status.Conditions, v1alpha1.ConditionValid)
			g.Expect(condition).NotTo(BeNil())
			g.Expect(condition.ObservedGeneration).To(Equal(live.Generation))
			return condition
		}
	}
	g := NewWithT(t)
	made := w.workflowOf(t, "steps: [{name: a, action: ecko, needs: [b]}, {name: b, action: echo, needs: [a], with: {value: '${{ inputs.x }}'}}]")
	testkit.Create(t, hub.Client, made)
	g.Eventually(verdict(made), patience).Should(HaveField("Status", metav1.ConditionFalse))
	message := verdict(made)(g).Message
	for _, want := range []string{
		`spec.steps[0].action: Invalid value: there is no action "ecko": did you mean echo?`,
		"the steps need each other in a circle: a → b → a", `spec.steps[1].with.value: Invalid value: "inputs.x": there is no input "x"`} {
		g.Expect(message).To(ContainSubstring(want))
	}
	g.Expect(verdict(made)(g).Reason).To(Equal(v1alpha1.ReasonInvalid))

	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(made), made)).To(Succeed())
	made.Spec = w.workflowOf(t, "steps: [{name: a, action: echo}]").Spec
	g.Expect(hub.Client.Update(t.Context(), made)).To(Succeed())
	g.Eventually(verdict(made), patience).Should(HaveField("Status", metav1.ConditionTrue))

	internal := w.workflowOf(t, "steps: [{name: a, action: secret.dealing}]")
	internal.Name = "theirs"
	ours := internal.DeepCopy()
	ours.Namespace = platform
	testkit.Create(t, hub.Client, internal, ours)
	g.Eventually(verdict(internal), patience).Should(HaveField("Message", ContainSubstring("is for runs that the platform itself makes")))
	g.Eventually(verdict(ours), patience).Should(HaveField("Status", metav1.ConditionTrue))
}

// ask has the hub's API server ask our handlers about the objects of the world's namespace.
func (w *world) ask(t *testing.T) {
	t.Helper()
	mgr := testkit.StartManager(t, hub)
	mux := http.NewServeMux()
	for path, handler := range workflow.NewWebhooks(mgr, workflow.Descriptions(w.catalogue(t)), "") {
		mux.Handle(path, handler)
	}
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	registration := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}
	for resource, path := range map[string]string{"workflows": workflow.WebhookPath, "workflowruns": workflow.RunWebhookPath} {
		registration.Webhooks = append(registration.Webhooks, admissionv1.ValidatingWebhook{
			Name: resource + ".validate.yunfan.io",
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
				Rule:       admissionv1.Rule{APIGroups: []string{"yunfan.io"}, APIVersions: []string{"v1alpha1"}, Resources: []string{resource}},
			}},
			ClientConfig:      admissionv1.WebhookClientConfig{URL: new(server.URL + path), CABundle: ca},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": w.namespace}},
			FailurePolicy:     ptr.To(admissionv1.Fail), SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		})
	}
	testkit.Create(t, hub.Client, registration)
	t.Cleanup(func() { _ = hub.Client.Delete(t.Context(), registration) })
	// The API server takes up a registration a moment after it is stored.
	probe := w.workflowOf(t, "steps: [{name: a, action: nothing}]")
	run := &v1alpha1.WorkflowRun{ObjectMeta: probe.ObjectMeta, Spec: v1alpha1.WorkflowRunSpec{Workflow: "nothing"}}
	NewWithT(t).Eventually(func() bool {
		return hub.Client.Create(t.Context(), probe.DeepCopy(), client.DryRunAll) != nil && hub.Client.Create(t.Context(), run.DeepCopy(), client.DryRunAll) != nil
	}, patience).Should(BeTrue())
}

func TestOPS10_WebhooksRefuseEarlyWithThePlace(t *testing.T) {
	g := NewWithT(t)
	w := newWorld(t)
	w.ask(t)
	refused := func(o client.Object, want string) {
		t.Helper()
		g.Expect(hub.Client.Create(t.Context(), o)).To(MatchError(ContainSubstring(want)))
	}
	refused(w.workflowOf(t, "steps: [{name: a, action: ecko}]"), `spec.steps[0].action: Invalid value: there is no action "ecko": did you mean echo?`)
	refused(w.workflowOf(t, "steps: [{name: a, action: secret.dealing}]"), "spec.steps[0].action: Invalid value: the action secret.dealing is for runs that the platform itself makes")
	large := w.workflowOf(t, "steps: [{name: a, action: echo}]")
	large.Spec.Steps[0].With = map[string]json.RawMessage{"value": json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)}
	refused(large, "spec: Invalid value: a definition has at most 98304 bytes of JSON")

	made := w.workflowOf(t, "inputs: [{name: who, required: true}]\nsteps: [{name: a, action: echo, with: {value: '${{ inputs.who }}'}}]")
	g.Expect(hub.Client.Create(t.Context(), made)).To(Succeed())
	changed := made.DeepCopy()
	changed.Spec.Steps[0].Needs = []string{"a"}
	g.Expect(hub.Client.Update(t.Context(), changed)).To(MatchError(ContainSubstring("spec.steps[0].needs[0]: Invalid value: the step needs itself")))

	run := func(name, workflow, inputs string) *v1alpha1.WorkflowRun {
		r := &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Spec: v1alpha1.WorkflowRunSpec{Workflow: workflow}}
		if inputs != "" {
			g.Expect(json.Unmarshal([]byte(inputs), &r.Spec.Inputs)).To(Succeed())
		}
		return r
	}
	refused(run("r", "nobody", ""), "spec.workflow: there is no workflow nobody in "+w.namespace)
	refused(run("r", made.Name, ""), "spec.inputs.who: Required value: the workflow needs it")
	refused(run("r", made.Name, `{"who":3}`), "spec.inputs.who: Invalid value: it must be a String, but is the Integer 3")
	refused(run("r", made.Name, `{"who":"li","whom":"wang"}`), "spec.inputs.whom: Invalid value: the workflow has no such input: did you mean who?")
	refused(run("r", made.Name, `{"who":"`+strings.Repeat("x", 65<<10)+`"}`), "spec.inputs: Invalid value: the inputs of a run have at most 65536 bytes")
	refused(run("r", made.Name, `{"who":"`+strings.Repeat("x", 1<<20)+`"}`), "spec.inputs: Invalid value: the inputs of a run have at most 65536 bytes")
	inline := run("r", "", "")
	inline.Spec.Definition = &w.workflowOf(t, "steps: [{name: a, action: echo, with: {valeu: x}}]").Spec
	refused(inline, `spec.definition.steps[0].with.valeu: Invalid value: the action echo has no input "valeu": did you mean value?`)
	inline.Spec.Definition = &w.workflowOf(t, "steps: [{name: a, action: secret.dealing}]").Spec
	refused(inline, "spec.definition.steps[0].action: Invalid value: the action secret.dealing is for runs that the platform itself makes")
	inline.Labels = map[string]string{v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform}
	g.Expect(hub.Client.Create(t.Context(), inline)).To(Succeed(), "the platform's own run")
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(inline), inline)).To(Succeed())
	inline.Spec.Definition.Steps[0].DisplayName = "other"
	g.Expect(hub.Client.Update(t.Context(), inline)).To(MatchError(ContainSubstring("spec.definition: what is run cannot be changed: start another run")))

	sound := run("sound", made.Name, `{"who":"li"}`)
	g.Expect(hub.Client.Create(t.Context(), sound)).To(Succeed(), "the workflow was made a moment ago")
	sound.Spec.Inputs["who"] = json.RawMessage(`"wang"`)
	g.Expect(hub.Client.Update(t.Context(), sound)).To(MatchError(ContainSubstring("spec.inputs: the inputs of a run cannot be changed: start another run")))
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(sound), sound)).To(Succeed())
	sound.Spec.Paused = true
	g.Expect(hub.Client.Update(t.Context(), sound)).To(Succeed())
	sound.Status.Definition = &made.Spec
	g.Expect(hub.Client.Status().Update(t.Context(), sound)).To(Succeed())
	sound.Spec.Retry = &v1alpha1.RunRetry{Number: 1, From: "b"}
	g.Expect(hub.Client.Update(t.Context(), sound)).To(MatchError(ContainSubstring("spec.retry.from: the run has no step b")))
	g.Expect(hub.Client.Delete(t.Context(), sound)).To(Succeed())
	g.Expect(hub.Client.Delete(t.Context(), made)).To(Succeed())
}
