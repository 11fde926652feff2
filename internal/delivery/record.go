package delivery

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// writeInterval is the least time between two writes of a status while only numbers change.
	writeInterval = 200 * time.Millisecond
	// driftPause is the least time between two corrections of an object: somebody may insist on what we undo.
	driftPause = time.Second
	// cacheLag is how long the member's cache may take to show what was applied, before it counts as gone.
	cacheLag = 5 * time.Second
)

// objectKey names an object of the member.
type objectKey struct {
	schema.GroupKind
	Namespace, Name string
}

func keyOf(o client.Object, gvk schema.GroupVersionKind) objectKey {
	return objectKey{gvk.GroupKind(), o.GetNamespace(), o.GetName()}
}

// gvkOf is the kind of a typed object as the member's cache gives it.
func gvkOf(o client.Object) schema.GroupVersionKind {
	gvk, err := apiutil.GVKForObject(o, scheme.Scheme)
	if err != nil {
		return o.GetObjectKind().GroupVersionKind()
	}
	return gvk
}

// record is what the controller remembers of one Delivery between reconciliations. It saves requests and is never
// needed: without it everything is applied again, which changes nothing.
type record struct {
	uid  types.UID // of the Delivery
	plan *plan

	mu       sync.Mutex // objects are applied in parallel
	applied  map[objectKey]*appliedObject
	refused  map[objectKey]*refusal
	warnings map[objectKey]*warning
	leaving  map[string]types.UID // the pod that was last replaced, by workload

	status      *v1alpha1.DeliveryStatus
	version     string // resourceVersion of the Delivery that has this status
	lastWritten time.Time
}

// appliedObject is an object as the member answered when it was last applied.
type appliedObject struct {
	hash       string
	uid        types.UID
	generation int64
	version    string
	at         time.Time
	seen       bool // by the cache
}

func newRecord(uid types.UID) *record {
	return &record{
		uid: uid, applied: map[objectKey]*appliedObject{}, refused: map[objectKey]*refusal{}, warnings: map[objectKey]*warning{}, leaving: map[string]types.UID{},
	}
}

func (rec *record) has(key objectKey) bool {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return rec.applied[key] != nil
}

// newest puts in the status that was last written, if the hub's cache is behind.
func (rec *record) newest(d *v1alpha1.Delivery) {
	if rec.status == nil {
		return
	}
	if newer(rec.version, d.ResourceVersion) {
		rec.status.DeepCopyInto(&d.Status)
		return
	}
	rec.status = nil
}

// newer says whether resourceVersion a is newer than b.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}

// tooSoon says how long to wait before writing a status in which only numbers and messages are new; 0 to write now.
func (rec *record) tooSoon(before, d *v1alpha1.Delivery) time.Duration {
	for _, kind := range []string{v1alpha1.ConditionApplied, v1alpha1.ConditionHealthy} {
		if conditionStatus(before, kind) != conditionStatus(d, kind) {
			return 0
		}
	}
	if len(before.Status.Inventory) != len(d.Status.Inventory) || before.Status.ObservedGeneration != d.Status.ObservedGeneration || equality.Semantic.DeepEqual(before.Status, d.Status) {
		return 0
	}
	return writeInterval - time.Since(rec.lastWritten)
}

func conditionStatus(d *v1alpha1.Delivery, kind string) metav1.ConditionStatus {
	if c := meta.FindStatusCondition(d.Status.Conditions, kind); c != nil {
		return c.Status
	}
	return ""
}

// done remembers what the member answered.
func (rec *record) done(t *target, answer *unstructured.Unstructured) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	delete(rec.refused, t.key)
	rec.applied[t.key] = &appliedObject{
		hash: t.hash, uid: answer.GetUID(), generation: answer.GetGeneration(), version: answer.GetResourceVersion(), at: time.Now(),
	}
}

// current says whether the member holds a target as it is meant to be. wait is not 0 if the cache has to be looked at
// again, because it does not show yet what was applied.
func (rec *record) current(t *target, live client.Object) (ok bool, wait time.Duration) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	a := rec.applied[t.key]
	if a == nil || a.hash != t.hash {
		return false, 0
	}
	if live == nil {
		left := cacheLag - time.Since(a.at)
		return !a.seen && left > 0, left
	}
	if newer(a.version, live.GetResourceVersion()) {
		return true, 0 // the cache is behind: an event will come
	}
	a.seen = true
	if live.GetDeletionTimestamp() != nil {
		return true, 0 // applied again when it is gone
	}
	same := live.GetUID() == a.uid && live.GetGeneration() == a.generation && contains(live.GetLabels(), t.object.GetLabels())
	if same && (a.generation != 0 || a.version == live.GetResourceVersion()) {
		delete(rec.refused, t.key) // somebody else has put right what was refused
		return true, 0             // where the member counts no generations, every change may be one of the spec
	}
	left := driftPause - time.Since(a.at)
	return left > 0, left
}

// shown says whether the cache shows a target as it was last applied, so that its status tells of that.
func (rec *record) shown(t *target, live client.Object) bool {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	a := rec.applied[t.key]
	return a != nil && live != nil && live.GetUID() == a.uid && !newer(a.version, live.GetResourceVersion())
}

// age is how long ago a target was last applied.
func (rec *record) age(t *target) time.Duration {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if a := rec.applied[t.key]; a != nil {
		return time.Since(a.at)
	}
	return 0
}

func contains(have, want map[string]string) bool {
	for key, value := range want {
		if have[key] != value {
			return false
		}
	}
	return true
}
