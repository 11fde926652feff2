package application

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/configuration"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/nodeport"
	"yunfan.io/yunfan/internal/testkit"
)

const wait = 30 * time.Second

// tenant is a hub namespace of its own with the controllers running, and clusters with names of its own: node ports are
// the whole hub's.
type tenant struct {
	*testing.T
	namespace, beijing, shanghai string
}

// noMembers is a hub that no cluster has joined: node ports are decided by reservations alone.
type noMembers struct{}

func (noMembers) Member(string) (*member.Member, bool) { return nil, false }

func newTenant(t *testing.T) *tenant {
	t.Helper()
	testkit.StartManager(t, hub, func(mgr manager.Manager) error {
		ports := &nodeport.Ports{Hub: mgr.GetClient(), Live: mgr.GetAPIReader(), Members: noMembers{}}
		return New(mgr, ports, true).SetupWithManager(mgr)
	}, func(mgr manager.Manager) error {
		return configuration.New(mgr).SetupWithManager(mgr)
	}, cleanPartitions, roll)
	return bareTenant(t)
}

// cleanPartitions plays the delivery controller's part in removing: nothing is there, so a Delivery may go at once.
func cleanPartitions(mgr manager.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("cleaner").For(&v1alpha1.Delivery{}).Complete(
		reconcile.Func(func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
			d := &v1alpha1.Delivery{}
			if err := mgr.GetClient().Get(ctx, req.NamespacedName, d); err != nil {
				return ctrl.Result{}, client.IgnoreNotFound(err)
			}
			if d.DeletionTimestamp == nil || !controllerutil.RemoveFinalizer(d, v1alpha1.FinalizerDelivery) {
				return ctrl.Result{}, nil
			}
			return ctrl.Result{}, client.IgnoreNotFound(mgr.GetClient().Update(ctx, d))
		}))
}

// roll plays the rollout controller: all partitions move at once, and older rollouts are replaced. It leaves applications
// alone whose name begins with "by-hand".
func roll(mgr manager.Manager) error {
	c := mgr.GetClient()
	return ctrl.NewControllerManagedBy(mgr).Named("roller").For(&v1alpha1.Rollout{}).Complete(
		reconcile.Func(func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
			o := &v1alpha1.Rollout{}
			if err := c.Get(ctx, req.NamespacedName, o); err != nil || o.Status.Phase.Ended() || strings.HasPrefix(o.Spec.Application, "by-hand") {
				return ctrl.Result{}, client.IgnoreNotFound(err)
			}
			for _, partition := range o.Spec.Partitions {
				if err := moveTo(ctx, c, o, partition); err != nil {
					return ctrl.Result{}, err
				}
			}
			o.Status.Phase = v1alpha1.RolloutSucceeded
			return ctrl.Result{}, client.IgnoreNotFound(c.Status().Update(ctx, o))
		}))
}

// moveTo moves one partition in place.
func moveTo(ctx context.Context, c client.Client, o *v1alpha1.Rollout, partition string) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d := &v1alpha1.Delivery{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: v1alpha1.DeliveryName(o.Spec.Application, partition)}, d); err != nil {
			return client.IgnoreNotFound(err)
		}
		d.Spec.Tracks[0].Revision = o.Spec.To
		return c.Update(ctx, d)
	})
}

func bareTenant(t *testing.T) *tenant {
	t.Helper()
	namespace := testkit.Namespace(t, hub.Client)
	tn := &tenant{t, namespace, namespace + "-bj", namespace + "-sh"}
	tn.partition("prod-bj", tn.beijing)
	tn.partition("prod-sh", tn.shanghai)
	return tn
}

// partition makes one that is ready.
func (t *tenant) partition(name, cluster string) {
	t.Helper()
	p := newPartition(t.namespace, name, cluster)
	status := p.Status
	testkit.Create(t, hub.Client, p)
	p.Status = status
	if err := hub.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func (t *tenant) create(app *v1alpha1.Application) *v1alpha1.Application {
	t.Helper()
	app.Generation = 0
	testkit.Create(t, hub.Client, app)
	return app
}

// change writes an object until no other writer is in the way.
func change[T client.Object](t *tenant, o T, edit func()) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		edit()
		return hub.Client.Update(t.Context(), o)
	}, wait).Should(Succeed())
}

func changeStatus[T client.Object](t *tenant, o T, edit func()) {
	t.Helper()
	NewWithT(t).Eventually(func() error {
		if err := hub.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		edit()
		return hub.Client.Status().Update(t.Context(), o)
	}, wait).Should(Succeed())
}

// becomes waits for the application's condition Ready to have a reason, seen for the newest spec.
func (t *tenant) becomes(app *v1alpha1.Application, reason string, words ...string) {
	t.Helper()
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		c := meta.FindStatusCondition(app.Status.Conditions, v1alpha1.ConditionReady)
		g.Expect(c).NotTo(BeNil())
		g.Expect(c.ObservedGeneration).To(Equal(app.Generation))
		g.Expect(c.Reason).To(Equal(reason), c.Message)
		for _, word := range words {
			g.Expect(c.Message).To(ContainSubstring(word))
		}
	}, wait).Should(Succeed())
}

func (t *tenant) delivery(application, partition string) *v1alpha1.Delivery {
	return &v1alpha1.Delivery{ObjectMeta: metav1.ObjectMeta{Namespace: t.namespace, Name: v1alpha1.DeliveryName(application, partition)}}
}

// delivered waits for a delivery with the replicas, and plays the delivery controller's part: all is there and ready.
func (t *tenant) delivered(application, partition, revision string, replicas map[string]int32) *v1alpha1.Delivery {
	t.Helper()
	d := t.delivery(application, partition)
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d)).To(Succeed())
		g.Expect(d.Spec.Tracks).To(Equal([]v1alpha1.Track{{Role: v1alpha1.TrackStable, Revision: revision, Replicas: replicas}}))
	}, wait).Should(Succeed())
	t.tells(d, v1alpha1.ReasonReady, v1alpha1.ReasonReady)
	return d
}

func (t *tenant) tells(d *v1alpha1.Delivery, applied, healthy string) {
	t.Helper()
	changeStatus(t, d, func() {
		var pods int32
		for _, n := range d.Spec.Tracks[0].Replicas {
			pods += n
		}
		tell(d, applied, healthy, pods, pods)
	})
}

// revision waits until the status names a revision other than before.
func (t *tenant) revision(app *v1alpha1.Application, before string) string {
	t.Helper()
	NewWithT(t).Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		g.Expect(app.Status.Revision).NotTo(BeElementOf("", before), "%v", app.Status.Conditions)
	}, wait).Should(Succeed())
	return app.Status.Revision
}

func TestDEP01_OneApplicationInFourPartitionsOfTwoClusters(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	tn.partition("test-bj", tn.beijing)
	tn.partition("test-sh", tn.shanghai)
	app := score(tn.namespace)
	app.Spec.Components[1].Service.Ports[0].NodePort = 0
	app.Spec.Placement = v1alpha1.Placement{Policy: v1alpha1.PlacementDuplicated, Partitions: []v1alpha1.PartitionChoice{
		{Name: "prod-bj"}, {Name: "test-bj"}, {Name: "prod-sh"}, {Name: "test-sh"}}}
	web(app).Replicas = ptr.To[int32](1)
	tn.create(app)
	revision := tn.revision(app, "")
	for _, partition := range []string{"prod-bj", "prod-sh", "test-bj", "test-sh"} {
		d := tn.delivered("score", partition, revision, map[string]int32{"db-service": 1, "score-record": 1})
		g.Expect(d.Labels).To(Equal(map[string]string{
			v1alpha1.LabelApplication: "score", v1alpha1.LabelPartition: partition, v1alpha1.LabelCluster: d.Spec.Cluster}))
		g.Expect(metav1.IsControlledBy(d, app)).To(BeTrue())
	}
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(app.Status.Pods).To(Equal("8/8"), "four of each, on one page")
	g.Expect(app.Status.Placements).To(HaveLen(4))
	g.Expect(app.Status.Placements[1].Cluster).To(Equal(tn.shanghai))
	g.Expect(app.Status.Placements[1].Explanation).To(Equal([]string{"db-service 1 in each partition", "score-record 1 in each partition"}))
	g.Expect(meta.IsStatusConditionFalse(app.Status.Conditions, v1alpha1.ConditionProgressing)).To(BeTrue())
}

func TestSCA01_ScalingKeepsTheRevision(t *testing.T) {
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	revision := tn.revision(app, "")
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 7})
	tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	tn.becomes(app, v1alpha1.ReasonReady)
	change(tn, app, func() { NewWithT(t).Expect(app.Scale("score-record", 20)).To(Succeed()) })
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 14})
	tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 6})
	tn.becomes(app, v1alpha1.ReasonReady)
	NewWithT(t).Expect(app.Status.Pods).To(Equal("22/22"))
	NewWithT(t).Expect(app.Status.Placements[0].Explanation[1]).To(Equal("score-record 14 of 20 by weight 7/10"))
}

func TestTPL02_VersionsAreKeptAndComeBack(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	first := tn.revision(app, "")
	change(tn, app, func() { app.Spec.Version, web(app).Template.Spec.Containers[0].Image = "v2", "web:v2" })
	second := tn.revision(app, first)

	var revisions v1alpha1.ApplicationRevisionList
	g.Expect(hub.Client.List(t.Context(), &revisions, client.InNamespace(tn.namespace))).To(Succeed())
	shown := map[string]string{}
	for _, r := range revisions.Items {
		shown[r.Spec.Version] = fmt.Sprint(r.Spec.Number, " ", r.Name)
	}
	g.Expect(shown).To(Equal(map[string]string{"v1": "1 " + first, "v2": "2 " + second}))

	old := &v1alpha1.ApplicationRevision{}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: tn.namespace, Name: first}, old)).To(Succeed())
	change(tn, app, func() { g.Expect(app.RollBack(old)).To(Succeed()) })
	g.Expect(tn.revision(app, second)).To(Equal(first))
	d := tn.delivery("score", "prod-bj")
	g.Eventually(func() string {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d)).To(Succeed())
		return d.Spec.Tracks[0].Revision
	}, wait).Should(Equal(first))
}

func TestOldRevisionsArePruned(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	first := tn.revision(app, "")
	d := tn.delivered("score", "prod-sh", first, map[string]int32{"db-service": 1, "score-record": 3})
	last := first
	for i := range 14 {
		change(tn, app, func() { app.Spec.Version = fmt.Sprint("x", i) })
		last = tn.revision(app, last)
	}
	var revisions v1alpha1.ApplicationRevisionList
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.List(t.Context(), &revisions, client.InNamespace(tn.namespace))).To(Succeed())
		g.Expect(len(revisions.Items)).To(And(BeNumerically(">=", 11), BeNumerically("<=", 12)), "ten and the one that a partition still has")
	}, wait).Should(Succeed())
	numbers := map[int64]string{}
	for _, r := range revisions.Items {
		numbers[r.Spec.Number] = r.Name
	}
	g.Expect(numbers).To(HaveKeyWithValue(int64(1), first))
	g.Expect(numbers).To(HaveKeyWithValue(int64(15), last))
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(d), d)).To(Succeed())
}

func TestARefusedChangeLeavesWhatRuns(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	revision := tn.revision(app, "")
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 7})
	tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	tn.becomes(app, v1alpha1.ReasonReady)
	before := tn.delivery("score", "prod-bj")
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(before), before)).To(Succeed())

	change(tn, app, func() {
		app.Spec.Components[0].DependsOn = []string{"score-record"}
		app.Spec.Placement.Partitions = app.Spec.Placement.Partitions[:1]
	})
	tn.becomes(app, v1alpha1.ReasonInvalid, "circle: db-service → score-record → db-service")
	g.Expect(app.Status.Revision).To(Equal(revision))
	g.Expect(app.Status.Pods).To(Equal("12/12"))
	after := tn.delivery("score", "prod-bj")
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(after), after)).To(Succeed())
	g.Expect(after.ResourceVersion).To(Equal(before.ResourceVersion), "not even touched")
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(tn.delivery("score", "prod-sh")), after)).To(Succeed())
}

func TestAPartitionThatCannotBeReachedHoldsUpNobody(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	first := tn.revision(app, "")
	tn.delivered("score", "prod-bj", first, map[string]int32{"db-service": 1, "score-record": 7})
	lost := tn.delivered("score", "prod-sh", first, map[string]int32{"db-service": 1, "score-record": 3})
	tn.becomes(app, v1alpha1.ReasonReady)
	tn.tells(lost, v1alpha1.ReasonUnreachable, v1alpha1.ReasonUnreachable)

	change(tn, app, func() { app.Spec.Version = "v2" })
	second := tn.revision(app, first)
	tn.delivered("score", "prod-bj", second, map[string]int32{"db-service": 1, "score-record": 7})
	tn.becomes(app, v1alpha1.ReasonUnreachable, "prod-sh: because of Unreachable")
	g.Eventually(func(g Gomega) {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app)).To(Succeed())
		bj, sh := app.Status.Placements[0], app.Status.Placements[1]
		g.Expect(bj.Revision).To(Equal(second))
		g.Expect(bj.Reason).To(BeEmpty())
		g.Expect(sh.Revision).To(Equal(first), "what was last seen there")
		g.Expect(sh.LastSeenTime).NotTo(BeNil())
		g.Expect(sh.Ready).To(Equal(int32(4)))
	}, wait).Should(Succeed())
	tn.delivered("score", "prod-sh", second, map[string]int32{"db-service": 1, "score-record": 3})
	tn.becomes(app, v1alpha1.ReasonReady)
}

func TestPartitionsComeAndGo(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := score(tn.namespace)
	web(app).Service.Ports[0].NodePort = 0
	app.Spec.Placement = v1alpha1.Placement{Policy: v1alpha1.PlacementWeighted, Partitions: []v1alpha1.PartitionChoice{
		{Name: "prod-bj"}, {Name: "later"}, {Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"region": tn.namespace}}}}}
	tn.create(app)
	tn.becomes(app, v1alpha1.ReasonPartitionNotFound, "no partition later", "matches no partition: create the partition")

	testkit.Create(t, hub.Client, &v1alpha1.Cluster{
		ObjectMeta: metav1.ObjectMeta{Name: tn.shanghai, Labels: map[string]string{"region": tn.namespace}},
		Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}}},
	})
	tn.becomes(app, v1alpha1.ReasonPartitionNotFound, "no partition later: create")
	tn.partition("later", tn.beijing)
	revision := tn.revision(app, "")
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 4})
	tn.delivered("score", "later", revision, map[string]int32{"db-service": 1, "score-record": 3})
	tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	tn.becomes(app, v1alpha1.ReasonReady)

	held := tn.delivery("score", "later")
	change(tn, held, func() { controllerutil.AddFinalizer(held, "test/held") })
	change(tn, app, func() { app.Spec.Placement.Partitions = app.Spec.Placement.Partitions[:1] })
	g.Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(tn.delivery("score", "prod-sh")), &v1alpha1.Delivery{}))
	}, wait).Should(BeTrue())
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 10})
	tn.becomes(app, v1alpha1.ReasonDeleting, "later: being removed from this partition")

	change(tn, app, func() {
		app.Spec.Placement.Partitions = append(app.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: "later"})
	})
	tn.becomes(app, v1alpha1.ReasonDeleting)
	change(tn, held, func() { controllerutil.RemoveFinalizer(held, "test/held") })
	tn.delivered("score", "later", revision, map[string]int32{"db-service": 1, "score-record": 5})
	tn.delivered("score", "prod-bj", revision, map[string]int32{"db-service": 1, "score-record": 5})
	tn.becomes(app, v1alpha1.ReasonReady)
}

func TestDeletion(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	revision := tn.revision(app, "")
	held := tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	change(tn, held, func() { controllerutil.AddFinalizer(held, "test/held") })
	g.Expect(hub.Client.Delete(t.Context(), app)).To(Succeed())
	tn.becomes(app, v1alpha1.ReasonDeleting, "removing it from prod-sh")
	g.Expect(apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(tn.delivery("score", "prod-bj")), &v1alpha1.Delivery{}))).To(BeTrue())

	tn.tells(held, v1alpha1.ReasonUnreachable, v1alpha1.ReasonUnreachable)
	tn.becomes(app, v1alpha1.ReasonDeleting, "prod-sh (cluster "+tn.shanghai+" does not answer)")
	change(tn, held, func() { controllerutil.RemoveFinalizer(held, "test/held") })
	g.Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app))
	}, wait).Should(BeTrue())
	var revisions v1alpha1.ApplicationRevisionList
	g.Expect(hub.Client.List(t.Context(), &revisions, client.InNamespace(tn.namespace))).To(Succeed())
	g.Expect(revisions.Items).To(BeEmpty())
}

func TestRevisionsOfADeletedApplicationAreTakenOver(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	left := &v1alpha1.ApplicationRevision{}
	key := client.ObjectKey{Namespace: tn.namespace, Name: tn.revision(app, "")}
	g.Expect(hub.Client.Get(t.Context(), key, left)).To(Succeed())
	g.Expect(hub.Client.Delete(t.Context(), app)).To(Succeed())
	g.Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(app), app))
	}, wait).Should(BeTrue())
	left.ResourceVersion, left.UID, left.OwnerReferences = "", "", nil
	testkit.Create(t, hub.Client, left)
	again := tn.create(score(tn.namespace))
	g.Expect(tn.revision(again, "")).To(Equal(left.Name))
	g.Expect(hub.Client.Get(t.Context(), key, left)).To(Succeed())
	g.Expect(metav1.IsControlledBy(left, again)).To(BeTrue(), "the garbage collector must not take it")
}

func TestScarceThingsThatBecomeFree(t *testing.T) {
	t.Run("node port", func(t *testing.T) {
		g := NewWithT(t)
		tn := newTenant(t)
		port := func(partition string) *v1alpha1.NodePort {
			return &v1alpha1.NodePort{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NodePortName(tn.beijing, 30001)}, Spec: v1alpha1.NodePortSpec{
				Cluster: tn.beijing, Port: 30001, Owner: v1alpha1.NodePortOwner{Tenant: "finance", Application: "books", Partition: partition, Component: "web", PortName: "http"}}}
		}
		taken := port("prod")
		testkit.Create(t, hub.Client, taken)
		app := tn.create(score(tn.namespace))
		tn.becomes(app, v1alpha1.ReasonNodePortTaken, "belongs to another tenant")
		var deliveries v1alpha1.DeliveryList
		g.Expect(hub.Client.List(t.Context(), &deliveries, client.InNamespace(tn.namespace))).To(Succeed())
		g.Expect(deliveries.Items).To(BeEmpty(), "nothing is delivered before the port is sure")
		g.Expect(hub.Client.Delete(t.Context(), taken)).To(Succeed())
		tn.revision(app, "")
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(taken), taken)).To(Succeed())
		g.Expect(taken.Spec.Owner.Application).To(Equal("score"))
	})
	t.Run("quota", func(t *testing.T) {
		tn := newTenant(t)
		p := &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: "prod-bj"}}
		changeStatus(tn, p, func() { p.Status.Hard, p.Status.Used = list("pods", "9"), list("pods", "2") })
		app := tn.create(score(tn.namespace))
		tn.becomes(app, v1alpha1.ReasonQuotaExceeded, "pods: 8 wanted, others use 2 of 9")
		changeStatus(tn, p, func() { p.Status.Used = list("pods", "1") })
		tn.revision(app, "")
	})
	t.Run("component name", func(t *testing.T) {
		tn := newTenant(t)
		first := tn.create(score(tn.namespace))
		tn.revision(first, "")
		second := score(tn.namespace)
		second.Name = "score2"
		web(second).Service.Ports[0].NodePort = 30002
		tn.create(second)
		tn.becomes(second, v1alpha1.ReasonInvalid, "application score already has a component db-service in partition prod-bj")
		tn.becomes(first, v1alpha1.ReasonReconciling)
		NewWithT(t).Expect(hub.Client.Delete(t.Context(), first)).To(Succeed())
		tn.revision(second, "")
	})
}

func TestCFG04_ConfigurationsAreTakenUpByApplications(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := score(tn.namespace)
	web(app).Configurations = []v1alpha1.ConfigurationUse{{Name: "tomcat-conf", MountPath: "/config-center", Environment: true}}
	tn.create(app)
	tn.becomes(app, v1alpha1.ReasonConfigurationNotFound, "no configuration tomcat-conf")

	c := &v1alpha1.Configuration{ObjectMeta: metav1.ObjectMeta{Namespace: tn.namespace, Name: "tomcat-conf"},
		Spec: v1alpha1.ConfigurationSpec{Files: map[string]string{"server.xml": "1"}, Publication: v1alpha1.PublicationNone}}
	testkit.Create(t, hub.Client, c)
	tn.becomes(app, v1alpha1.ReasonConfigurationNotFound, "not published to partition prod-bj")
	change(tn, c, func() { c.Spec.Publication = v1alpha1.PublicationAll })
	first := tn.revision(app, "")
	version := func(name string) string {
		r := &v1alpha1.ApplicationRevision{}
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Namespace: tn.namespace, Name: name}, r)).To(Succeed())
		return r.Spec.Configurations[0].Version
	}
	g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
	g.Expect(version(first)).To(Equal(c.Status.Version))

	change(tn, c, func() { c.Spec.Files["server.xml"] = "2" })
	g.Eventually(func() string {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		return c.Status.Version
	}, wait).ShouldNot(Equal(version(first)))
	change(tn, app, func() { g.Expect(app.Restart(time.Now())).To(Succeed()) })
	g.Expect(version(tn.revision(app, first))).To(Equal(c.Status.Version))

	g.Expect(hub.Client.Delete(t.Context(), c)).To(Succeed())
	g.Eventually(func() string {
		g.Expect(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c)).To(Succeed())
		return meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady).Reason
	}, wait).Should(Equal(v1alpha1.ReasonInUse))
	change(tn, app, func() { web(app).Configurations = nil })
	g.Eventually(func() bool {
		return apierrors.IsNotFound(hub.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c))
	}, wait).Should(BeTrue(), "the application lets go of it")
}

func TestStatusIsWrittenSeldomWhilePodsComeUp(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := tn.create(score(tn.namespace))
	revision := tn.revision(app, "")
	tn.delivered("score", "prod-sh", revision, map[string]int32{"db-service": 1, "score-record": 3})
	d := tn.delivery("score", "prod-bj")

	watcher, err := client.NewWithWatch(hub.Config, client.Options{Scheme: hub.Scheme})
	g.Expect(err).NotTo(HaveOccurred())
	events, err := watcher.Watch(t.Context(), &v1alpha1.ApplicationList{}, client.InNamespace(tn.namespace))
	g.Expect(err).NotTo(HaveOccurred())
	defer events.Stop()
	start := time.Now()
	const steps = 60
	for i := range int32(steps) {
		changeStatus(tn, d, func() { tell(d, v1alpha1.ReasonReady, v1alpha1.ReasonNotReady, i%8, 8) })
	}
	tn.tells(d, v1alpha1.ReasonReady, v1alpha1.ReasonReady)
	last := time.Now()
	writes := 0
	for ready := false; !ready; writes++ {
		select {
		case e := <-events.ResultChan():
			ready = e.Type == watch.Modified && isReady(e.Object.(*v1alpha1.Application).Status.Conditions)
		case <-time.After(wait):
			t.Fatal("never ready")
		}
	}
	if late := time.Since(last); late > 5*time.Second {
		t.Errorf("ready was told %s late", late)
	}
	if most := int(last.Sub(start)/statusPause) + 5; writes > most {
		t.Errorf("%d writes in %s for %d changes, want at most %d", writes, last.Sub(start), steps+1, most)
	}
}

func TestDEP03_TwentyClustersInOneRun(t *testing.T) {
	g := NewWithT(t)
	tn := newTenant(t)
	app := score(tn.namespace)
	app.Spec.Placement.Partitions = nil
	web(app).Replicas = ptr.To[int32](60)
	for i := range 20 {
		name := fmt.Sprintf("p%02d", i)
		tn.partition(name, fmt.Sprintf("%s-%02d", tn.namespace, i))
		app.Spec.Placement.Partitions = append(app.Spec.Placement.Partitions, v1alpha1.PartitionChoice{Name: name})
	}
	tn.create(app)
	revision := tn.revision(app, "")
	for _, choice := range app.Spec.Placement.Partitions {
		tn.delivered("score", choice.Name, revision, map[string]int32{"db-service": 1, "score-record": 3})
	}
	tn.becomes(app, v1alpha1.ReasonReady)
	g.Expect(app.Status.Pods).To(Equal("80/80"))
}

// BenchmarkAccepted measures the time from an Application accepted to its deliveries on the hub, 100 at once.
func BenchmarkAccepted(b *testing.B) {
	testkit.StartManager(b, hub, func(mgr manager.Manager) error {
		return New(mgr, &nodeport.Ports{Hub: mgr.GetClient(), Live: mgr.GetAPIReader(), Members: noMembers{}}, true).SetupWithManager(mgr)
	})
	for b.Loop() {
		namespace := testkit.Namespace(b, hub.Client)
		for _, name := range []string{"prod-bj", "prod-sh"} {
			testkit.Create(b, hub.Client, newPartition(namespace, name, name))
		}
		for i := range 100 {
			app := score(namespace)
			app.Name, app.Generation = fmt.Sprint("score", i), 0
			web(app).Service.Ports[0].NodePort = 0
			for j := range app.Spec.Components {
				app.Spec.Components[j].Name = fmt.Sprint(app.Spec.Components[j].Name, i)
			}
			web(app).DependsOn = nil
			testkit.Create(b, hub.Client, app)
		}
		b.Log("created", b.Elapsed())
		NewWithT(b).Eventually(func() int {
			var deliveries v1alpha1.DeliveryList
			_ = hub.Client.List(context.Background(), &deliveries, client.InNamespace(namespace))
			return len(slices.Clip(deliveries.Items))
		}, wait, "20ms").Should(Equal(200))
	}
}
