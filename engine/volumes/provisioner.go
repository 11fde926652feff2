package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// selectedNode is the annotation by which the scheduler tells where a claim's first pod will run.
const selectedNode = "volume.kubernetes.io/selected-node"

// nodes is what the provisioner asks about nodes.
type nodes interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*corev1.Node, error)
}

// nodeVolumes makes and removes the volumes of one node, one folder each, named like the PersistentVolume.
type nodeVolumes struct {
	nodes nodes
	node  string
	root  *os.Root
}

var (
	_ controller.Provisioner   = &nodeVolumes{}
	_ controller.Qualifier     = &nodeVolumes{}
	_ controller.DeletionGuard = &nodeVolumes{}
)

// newNodeVolumes opens the existing folder path, which it keeps from other users of the machine: the folders in it are
// open to all, since a pod may run as any user.
func newNodeVolumes(nodes nodes, node, path string) (*nodeVolumes, error) {
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, fmt.Errorf("protecting the volumes folder: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening the volumes folder: %w", err)
	}
	return &nodeVolumes{nodes: nodes, node: node, root: root}, nil
}

// Close releases the folder.
func (v *nodeVolumes) Close() error { return v.root.Close() }

// ShouldProvision says whether the claim's first pod was scheduled to this node.
func (v *nodeVolumes) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[selectedNode] == v.node
}

// Provision makes the folder, again if need be, and describes it as a volume of this node. The size asked for is
// written down, not enforced.
func (v *nodeVolumes) Provision(_ context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if err := check(options.PVC); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := v.root.MkdirAll(options.PVName, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("making the volume's folder: %w", err)
	}
	if err := v.root.Chmod(options.PVName, 0o777); err != nil { // MkdirAll is subject to the umask
		return nil, controller.ProvisioningFinished, fmt.Errorf("opening the volume's folder to its pods: %w", err)
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: filepath.Join(v.root.Name(), options.PVName)},
			},
			NodeAffinity: onNode(v.node),
		},
	}
	return volume, controller.ProvisioningFinished, nil
}

// check refuses claims a folder on one node cannot fulfil.
func check(claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.Selector != nil {
		return errors.New("a claim with a selector takes an existing volume: remove the selector or set storageClassName to \"\"")
	}
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Errorf("access mode %s needs storage shared by nodes: ask for ReadWriteOnce, or name another StorageClass", mode)
		}
	}
	return nil
}

// ShouldDelete says whether a released volume is this node's, or of a node that left the cluster and took the data along.
func (v *nodeVolumes) ShouldDelete(ctx context.Context, volume *corev1.PersistentVolume) bool {
	if volume.Status.Phase != corev1.VolumeReleased {
		return false
	}
	node := nodeOf(volume)
	if node == v.node {
		return true
	}
	_, err := v.nodes.Get(ctx, node, metav1.GetOptions{})
	return node != "" && apierrors.IsNotFound(err)
}

// Delete removes the volume's folder. The name decides, never the path in the object.
func (v *nodeVolumes) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	if nodeOf(volume) != v.node {
		return nil
	}
	if err := v.root.RemoveAll(volume.Name); err != nil {
		return fmt.Errorf("removing the volume's folder: %w", err)
	}
	return nil
}

// onNode binds a volume to the node; on the embedded clusters a node's host name is its name.
func onNode(node string) *corev1.VolumeNodeAffinity {
	here := corev1.NodeSelectorRequirement{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{here}}},
	}}
}

// nodeOf is the node onNode bound the volume to, or "".
func nodeOf(volume *corev1.PersistentVolume) string {
	affinity := volume.Spec.NodeAffinity
	if affinity == nil || affinity.Required == nil {
		return ""
	}
	for _, term := range affinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key == corev1.LabelHostname && len(e.Values) == 1 {
				return e.Values[0]
			}
		}
	}
	return ""
}
