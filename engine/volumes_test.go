//go:build e2e

package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// store has two pods on two nodes, each writing its process id to a volume of its own, not as root.
const store = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store, namespace: default}
spec:
  serviceName: store
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1234}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: store}}}
      containers:
      - name: c
        image: registry.yunfan.internal/system/coredns:v1.15.0
        args: [-dns.port=1053, -pidfile=/data/pid]
        readinessProbe: {tcpSocket: {port: 1053}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
`

const claim = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: default}
spec: {%s, resources: {requests: {storage: 100Gi}}}
`

const static = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: %s}
spec: {capacity: {storage: %s}, accessModes: [ReadWriteOnce], hostPath: {path: /var/lib/yunfan-volumes/%[1]s}}
`

// TestVolumes follows volumes of the default StorageClass from claim to removal.
func TestVolumes(t *testing.T) {
	i := start(t, `{name: e2e-volumes, clusters: [{name: a, nodes: 2}]}`)
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(patience)
	i.kubectl("a", store, "apply", "-f", "-")
	i.kubectl("a", "", "rollout", "status", "statefulset/store", "--timeout=60s")

	t.Run("STO-10 a pod that is made again finds its data", func(t *testing.T) {
		folder := i.volume(g, "data-store-0")
		g.Expect(os.WriteFile(filepath.Join(folder, "kept"), nil, 0o600)).To(Succeed())
		g.Expect(os.Remove(filepath.Join(folder, "pid"))).To(Succeed())
		i.kubectl("a", "", "delete", "pod", "store-0")
		i.kubectl("a", "", "rollout", "status", "statefulset/store", "--timeout=60s")
		g.Expect(i.volume(g, "data-store-0")).To(Equal(folder))
		g.Expect(filepath.Join(folder, "kept")).To(BeAnExistingFile())
		g.Expect(filepath.Join(folder, "pid")).To(BeAnExistingFile(), "the new pod writes where the old one did")
	})
	t.Run("STO-03 a claim with an empty class waits for a static volume that fits", func(t *testing.T) {
		i.kubectl("a", fmt.Sprintf(claim, "static", `storageClassName: "", accessModes: [ReadWriteOnce]`), "apply", "-f", "-")
		i.kubectl("a", fmt.Sprintf(static, "small", "50Gi"), "apply", "-f", "-")
		g.Eventually(func() string { return i.kubectl("a", "", "events", "--for=pvc/static") }).Should(ContainSubstring("no persistent volumes available"))
		g.Expect(i.kubectl("a", "", "get", "pvc", "static", "-o", "jsonpath={.status.phase}")).To(Equal("Pending"))
		i.kubectl("a", fmt.Sprintf(static, "big", "100Gi"), "apply", "-f", "-")
		g.Eventually(func() string { return i.kubectl("a", "", "get", "pvc", "static", "-o", "jsonpath={.spec.volumeName}") }).Should(Equal("big"))
	})
	t.Run("an access mode that one node cannot give is refused with a reason", func(t *testing.T) {
		i.kubectl("a", fmt.Sprintf(claim, "shared", `accessModes: [ReadWriteMany]`), "apply", "-f", "-")
		i.kubectl("a", "", "annotate", "pvc", "shared", "volume.kubernetes.io/selected-node=a-1")
		g.Eventually(func() string { return i.kubectl("a", "", "events", "--for=pvc/shared") }).Should(ContainSubstring("ask for ReadWriteOnce"))
	})
	t.Run("STO-03 a deleted claim takes its data along, and no other's", func(t *testing.T) {
		gone, kept := i.volume(g, "data-store-1"), i.volume(g, "data-store-0")
		i.kubectl("a", "", "scale", "statefulset/store", "--replicas=1")
		i.kubectl("a", "", "delete", "pvc", "data-store-1")
		g.Eventually(gone).ShouldNot(BeADirectory())
		g.Eventually(i.volumes).Should(HaveLen(1))
		g.Expect(kept).To(BeADirectory())
	})
	t.Run("the volume of a node that left goes with its claim", func(t *testing.T) {
		i.run("node", "remove", "a/"+i.kubectl("a", "", "get", "pod", "store-0", "-o", "jsonpath={.spec.nodeName}"))
		i.kubectl("a", "", "delete", "statefulset/store", "pvc/data-store-0", "--wait=false")
		i.kubectl("a", "", "delete", "pod", "store-0", "--force", "--grace-period=0", "--ignore-not-found")
		g.Eventually(i.volumes).Should(BeEmpty())
	})
}

// volume is the folder on the machine that holds a bound claim's data.
func (i *instance) volume(g *WithT, claim string) string {
	i.t.Helper()
	name := i.kubectl("a", "", "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	found, err := filepath.Glob(filepath.Join(i.data, "clusters", "a", "nodes", "*", "volumes", name))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(HaveLen(1), "claim %s is volume %s", claim, name)
	return found[0]
}

// volumes are the names of all provisioned PersistentVolumes.
func (i *instance) volumes() []string {
	i.t.Helper()
	text := i.kubectl("a", "", "get", "pv", "-o", `jsonpath={range .items[?(@.spec.storageClassName=="standard")]}{.metadata.name} {end}`)
	return strings.Fields(text)
}
