package v1alpha1_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

const application = `
kind: Application
spec:
  components:
  - name: web
    template: {spec: {containers: [{name: web, image: web:v1}]}}
  placement: {partitions: [{name: prod-bj}]}
`

// component is the application with one other component.
func component(fields string) string {
	return "spec: {components: [{name: web, " + fields + "}]}"
}

const pods = "template: {spec: {containers: [{name: web, image: web:v1}]}}"

func TestApplicationRules(t *testing.T) {
	long := strings.Repeat("a", 41)
	cases := map[string]struct {
		change  string
		refused string // what the message says; accepted if empty
	}{
		"plain":                     {"", ""},
		"name of 41":                {"metadata: {name: " + long + "}", "at most 40 characters"},
		"name with dot":             {"metadata: {name: a.b}", "has no dots"},
		"components and chart":      {"spec: {chart: {repository: 'https://charts', name: x, version: '1'}}", "either components or a chart"},
		"neither":                   {"spec: {components: null}", "either components or a chart"},
		"chart alone":               {"spec: {components: null, chart: {repository: 'oci://charts', name: x, version: '1'}}", ""},
		"chart of another scheme":   {"spec: {components: null, chart: {repository: 'file:///charts', name: x, version: '1'}}", "spec.chart.repository"},
		"no components":             {"spec: {components: []}", "spec.components"},
		"version too long":          {"spec: {version: " + strings.Repeat("v", 65) + "}", "spec.version"},
		"description too long":      {"spec: {description: " + strings.Repeat("v", 1001) + "}", "spec.description"},
		"two of one name":           {"spec: {components: [{name: web, " + pods + "}, {name: web, " + pods + "}]}", "Duplicate value"},
		"component in capitals":     {"spec: {components: [{name: Web, " + pods + "}]}", "spec.components[0].name"},
		"TPL-03 unknown workload":   {component("workload: Pod, " + pods), "spec.components[0].workload"},
		"no template":               {component("workload: Deployment"), "needs a pod template"},
		"TPL-11 cron without time":  {component("workload: CronJob, " + pods), "schedule belongs to a CronJob"},
		"TPL-11 cron":               {component("workload: CronJob, schedule: '0 3 * * *', " + pods), ""},
		"time without cron":         {component("schedule: '0 3 * * *', " + pods), "schedule belongs to a CronJob"},
		"external without address":  {component("workload: External, service: {ports: [{name: p, port: 1}]}"), "external belongs to the workload External"},
		"external without service":  {component("workload: External, external: {addresses: [192.0.2.1]}"), "External component needs a service"},
		"external":                  {component("workload: External, external: {addresses: [192.0.2.1, '2001:db8::1']}, service: {ports: [{name: p, port: 1}]}"), ""},
		"external on node ports":    {component("workload: External, external: {addresses: [192.0.2.1]}, service: {type: NodePort, ports: [{name: p, port: 1}]}"), "service has type ClusterIP"},
		"external host name":        {component("workload: External, external: {addresses: [example.org]}, service: {ports: [{name: p, port: 1}]}"), "addresses are IP addresses"},
		"address of a Deployment":   {component("external: {addresses: [192.0.2.1]}, " + pods), "external belongs to the workload External"},
		"claims of a Deployment":    {component("volumeClaimTemplates: [{metadata: {name: d}, spec: {}}], " + pods), "volumeClaimTemplates belong to a StatefulSet"},
		"claims of a StatefulSet":   {component("workload: StatefulSet, volumeClaimTemplates: [{metadata: {name: d}, spec: {}}], " + pods), ""},
		"replicas of a DaemonSet":   {component("workload: DaemonSet, replicas: 2, " + pods), "replicas cannot be set"},
		"negative replicas":         {component("replicas: -1, " + pods), "spec.components[0].replicas"},
		"too many replicas":         {component("replicas: 10001, " + pods), "spec.components[0].replicas"},
		"SCA-01 no replicas":        {component("replicas: 0, " + pods), ""},
		"TPL-10 depends on itself":  {component("dependsOn: [web], " + pods), "cannot depend on itself"},
		"unknown policy":            {component("placement: Random, " + pods), "spec.components[0].placement"},
		"headless NodePort":         {component("service: {type: NodePort, headless: true, ports: [{name: p, port: 1}]}, " + pods), "headless needs type ClusterIP"},
		"headless":                  {component("service: {headless: true, ports: [{name: p, port: 1}]}, " + pods), ""},
		"service without ports":     {component("service: {ports: []}, " + pods), "service.ports"},
		"service of another type":   {component("service: {type: ExternalName, ports: [{name: p, port: 1}]}, " + pods), "service.type"},
		"other affinity":            {component("service: {sessionAffinity: Cookie, ports: [{name: p, port: 1}]}, " + pods), "service.sessionAffinity"},
		"TPL-04 port 0":             {component("service: {ports: [{name: p, port: 0}]}, " + pods), "ports[0].port"},
		"TPL-04 node port 70000":    {component("service: {type: NodePort, ports: [{name: p, port: 1, nodePort: 70000}]}, " + pods), "ports[0].nodePort"},
		"TPL-04 other protocol":     {component("service: {ports: [{name: p, port: 1, protocol: HTTP}]}, " + pods), "ports[0].protocol"},
		"port name":                 {component("service: {ports: [{name: HTTP, port: 1}]}, " + pods), "ports[0].name"},
		"CFG-04 use without a way":  {component("configurations: [{name: c}], " + pods), "say how the pods get it"},
		"CFG-04 not as environment": {component("configurations: [{name: c, environment: false}], " + pods), "say how the pods get it"},
		"CFG-04 as environment":     {component("configurations: [{name: c, environment: true}], " + pods), ""},
		"CFG-04 relative path":      {component("configurations: [{name: c, mountPath: etc}], " + pods), "mountPath"},
		"CFG-04 as files":           {component("configurations: [{name: c, mountPath: /etc/c}], " + pods), ""},
		"no partitions":             {"spec: {placement: {partitions: []}}", "spec.placement.partitions"},
		"name and selector":         {"spec: {placement: {partitions: [{name: a, selector: {}}]}}", "by name or by selector"},
		"neither name nor selector": {"spec: {placement: {partitions: [{weight: 1}]}}", "by name or by selector"},
		"selector":                  {"spec: {placement: {partitions: [{selector: {matchLabels: {a: b}}}]}}", ""},
		"DEP-03 negative weight":    {"spec: {placement: {partitions: [{name: a, weight: -1}]}}", "weight"},
		"DEP-03 weight 1001":        {"spec: {placement: {partitions: [{name: a, weight: 1001}]}}", "weight"},
		"override port 0":           {"spec: {placement: {partitions: [{name: a, overrides: [{component: web, nodePorts: {http: 0}}]}]}}", "a node port is a number from 1 to 65535"},
		"override":                  {"spec: {placement: {partitions: [{name: a, overrides: [{component: web, nodePorts: {http: 30001}, images: {web: x}, env: [{name: A, value: b}], resources: {requests: {cpu: 100m}}}]}]}}", ""},
		"two overrides of one":      {"spec: {placement: {partitions: [{name: a, overrides: [{component: web}, {component: web}]}]}}", "Duplicate value"},
		"unknown strategy":          {"spec: {strategy: {type: Sideways}}", "spec.strategy.type"},
	}
	namespace := testkit.Namespace(t, hub.Client)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			u := object(t, application, "metadata: {namespace: "+namespace+"}", tc.change)
			err := hub.Client.Create(t.Context(), u)
			if tc.refused != "" {
				expectRefused(t, err, tc.refused)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestApplicationDefaults(t *testing.T) {
	u := object(t, application, "metadata: {namespace: "+testkit.Namespace(t, hub.Client)+"}",
		component("service: {ports: [{name: p, port: 1}]}, "+pods), "spec: {strategy: {}}")
	testkit.Create(t, hub.Client, u)
	expectField(t, u, "Duplicated", "spec", "placement", "policy")
	expectField(t, u, "RollingUpdate", "spec", "strategy", "type")
	expectField(t, u, nil, "spec", "stopped")
	components, _, err := unstructured.NestedSlice(u.Object, "spec", "components")
	if err != nil {
		t.Fatal(err)
	}
	c := &unstructured.Unstructured{Object: components[0].(map[string]any)}
	expectField(t, c, "Deployment", "workload")
	expectField(t, c, nil, "replicas")
	expectField(t, c, "ClusterIP", "service", "type")
	expectField(t, c, "None", "service", "sessionAffinity")
	ports, _, _ := unstructured.NestedSlice(c.Object, "service", "ports")
	expectField(t, &unstructured.Unstructured{Object: ports[0].(map[string]any)}, "TCP", "protocol")
	partitions, _, _ := unstructured.NestedSlice(u.Object, "spec", "placement", "partitions")
	expectField(t, &unstructured.Unstructured{Object: partitions[0].(map[string]any)}, int64(1), "weight")
}

// TestTPL06_TemplatesAreKeptWhole proves that the schema takes away nothing that a pod template holds.
func TestTPL06_TemplatesAreKeptWhole(t *testing.T) {
	u := object(t, application, "metadata: {namespace: "+testkit.Namespace(t, hub.Client)+"}", component(`template: {
		metadata: {labels: {app: web-service}, annotations: {note: x}},
		spec: {terminationGracePeriodSeconds: 5, containers: [{name: web, image: i, command: [/root/start.sh],
			env: [{name: TZ, value: Asia/Shanghai}], lifecycle: {preStop: {exec: {command: [/tomcat/bin/shutdown.sh]}}},
			livenessProbe: {httpGet: {path: /_ping, port: 8080}, initialDelaySeconds: 200, timeoutSeconds: 10}}]}}`))
	testkit.Create(t, hub.Client, u)
	components, _, err := unstructured.NestedSlice(u.Object, "spec", "components")
	if err != nil {
		t.Fatal(err)
	}
	c := &unstructured.Unstructured{Object: components[0].(map[string]any)}
	expectField(t, c, "web-service", "template", "metadata", "labels", "app")
	expectField(t, c, "x", "template", "metadata", "annotations", "note")
	expectField(t, c, int64(5), "template", "spec", "terminationGracePeriodSeconds")
	containers, _, _ := unstructured.NestedSlice(c.Object, "template", "spec", "containers")
	expectField(t, &unstructured.Unstructured{Object: containers[0].(map[string]any)}, int64(200), "livenessProbe", "initialDelaySeconds")
	expectField(t, &unstructured.Unstructured{Object: containers[0].(map[string]any)}, "/_ping", "livenessProbe", "httpGet", "path")
}

func TestPlacementOf(t *testing.T) {
	cases := map[string]struct {
		workload       v1alpha1.WorkloadKind
		own, inherited v1alpha1.PlacementPolicy
		want           v1alpha1.PlacementPolicy
	}{
		"the application's":             {v1alpha1.WorkloadDeployment, "", v1alpha1.PlacementWeighted, v1alpha1.PlacementWeighted},
		"its own":                       {v1alpha1.WorkloadStatefulSet, v1alpha1.PlacementPriority, v1alpha1.PlacementWeighted, v1alpha1.PlacementPriority},
		"a StatefulSet":                 {v1alpha1.WorkloadStatefulSet, "", v1alpha1.PlacementWeighted, v1alpha1.PlacementDuplicated},
		"a DaemonSet":                   {v1alpha1.WorkloadDaemonSet, "", v1alpha1.PlacementWeighted, v1alpha1.PlacementDuplicated},
		"nothing is said anywhere":      {v1alpha1.WorkloadDeployment, "", "", v1alpha1.PlacementDuplicated},
		"what is outside is everywhere": {v1alpha1.WorkloadExternal, "", v1alpha1.PlacementWeighted, v1alpha1.PlacementDuplicated},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			spec := &v1alpha1.ApplicationSpec{Placement: v1alpha1.Placement{Policy: tc.inherited}}
			if got := spec.PlacementOf(&v1alpha1.Component{Workload: tc.workload, Placement: tc.own}); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestReplicasOrDefault(t *testing.T) {
	three := int32(3)
	cases := map[string]struct {
		component v1alpha1.Component
		want      int32
	}{
		"not said":  {v1alpha1.Component{Workload: v1alpha1.WorkloadDeployment}, 1},
		"said":      {v1alpha1.Component{Workload: v1alpha1.WorkloadJob, Replicas: &three}, 3},
		"DaemonSet": {v1alpha1.Component{Workload: v1alpha1.WorkloadDaemonSet}, 0},
		"External":  {v1alpha1.Component{Workload: v1alpha1.WorkloadExternal}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.component.ReplicasOrDefault(); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
