package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// nodeList is a cluster's nodes by name.
type nodeList []string

func (l nodeList) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
	if !slices.Contains(l, name) {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
}

// newVolumes is node n1's provisioner in a cluster of n1 and n2, over an empty folder.
func newVolumes(t *testing.T) (*nodeVolumes, string) {
	t.Helper()
	path := t.TempDir()
	v, err := newNodeVolumes(nodeList{"n1", "n2"}, "n1", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v, path
}

func options(change func(*corev1.PersistentVolumeClaimSpec)) controller.ProvisionOptions {
	reclaim := corev1.PersistentVolumeReclaimDelete
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	if change != nil {
		change(&claim.Spec)
	}
	return controller.ProvisionOptions{
		StorageClass: &storagev1.StorageClass{ReclaimPolicy: &reclaim}, PVName: "pvc-1", PVC: claim, SelectedNodeName: "n1",
	}
}

func TestProvisionMakesAFolderOfThisNode(t *testing.T) {
	v, path := newVolumes(t)
	want := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: filepath.Join(path, "pvc-1")}},
			NodeAffinity:                  onNode("n1"),
		},
	}
	for _, reason := range []string{"first try", "a retry after the answer was lost finds the folder and agrees"} {
		got, state, err := v.Provision(t.Context(), options(nil))
		if err != nil || state != controller.ProvisioningFinished {
			t.Fatalf("%s: state %s, error %v", reason, state, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", reason, diff)
		}
	}
	if got := mode(t, filepath.Join(path, "pvc-1")); got != 0o777 {
		t.Errorf("the volume's folder has mode %o: a pod of any user must be able to write", got)
	}
	if got := mode(t, path); got != 0o700 {
		t.Errorf("the folder of all volumes has mode %o: other users of the machine must not enter", got)
	}
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestProvisionRefusesWhatOneNodeCannotGive(t *testing.T) {
	for reason, change := range map[string]func(*corev1.PersistentVolumeClaimSpec){
		"a folder of one node cannot be written from many": func(s *corev1.PersistentVolumeClaimSpec) {
			s.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}
		},
		"a folder of one node cannot be read from many": func(s *corev1.PersistentVolumeClaimSpec) {
			s.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		},
		"a new volume has no labels to select": func(s *corev1.PersistentVolumeClaimSpec) {
			s.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		},
	} {
		v, path := newVolumes(t)
		if _, _, err := v.Provision(t.Context(), options(change)); err == nil {
			t.Errorf("%s: no error", reason)
		}
		if left, _ := os.ReadDir(path); len(left) != 0 {
			t.Errorf("%s: left %v behind", reason, left)
		}
	}
}

func TestShouldProvisionOnlyOnTheSelectedNode(t *testing.T) {
	v, _ := newVolumes(t)
	for node, want := range map[string]bool{"n1": true, "n2": false, "": false} {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{selectedNode: node}}}
		if got := v.ShouldProvision(t.Context(), claim); got != want {
			t.Errorf("selected node %q: got %t", node, got)
		}
	}
}

func TestDelete(t *testing.T) {
	for reason, tc := range map[string]struct {
		affinity         *corev1.VolumeNodeAffinity
		phase            corev1.PersistentVolumePhase
		should, dataGone bool
	}{
		"a released volume of this node goes with its data":        {onNode("n1"), corev1.VolumeReleased, true, true},
		"a bound volume stays":                                     {onNode("n1"), corev1.VolumeBound, false, true},
		"another node's volume is that node's business":            {onNode("n2"), corev1.VolumeReleased, false, false},
		"a node that left took its data along, the object is left": {onNode("n3"), corev1.VolumeReleased, true, false},
		"a volume without a node is not ours":                      {nil, corev1.VolumeReleased, false, false},
	} {
		v, path := newVolumes(t)
		file := filepath.Join(path, "pvc-1", "deep", "file")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}, Spec: corev1.PersistentVolumeSpec{NodeAffinity: tc.affinity}}
		volume.Status.Phase = tc.phase
		if got := v.ShouldDelete(t.Context(), volume); got != tc.should {
			t.Errorf("%s: ShouldDelete is %t", reason, got)
		}
		for range 2 { // a second try finds nothing and agrees
			if err := v.Delete(t.Context(), volume); err != nil {
				t.Errorf("%s: %v", reason, err)
			}
		}
		if _, err := os.Stat(filepath.Join(path, "pvc-1")); os.IsNotExist(err) != tc.dataGone {
			t.Errorf("%s: after Delete, stat says %v", reason, err)
		}
	}
}
