package request

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/testkit"
)

// grants is a call of allocate for what was approved.
func grants(req *v1alpha1.ResourceRequest, approved corev1.ResourceList, cluster, until string) *action.Call {
	return callOf(req, map[string]any{"asked": req.Spec.Wanted.Quota, "quota": approved, "cluster": cluster, "until": until})
}

func TestONB05_AllocateNew(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	cluster := newCluster(t)
	tenant := newTenant(t, quota("requests.cpu", "2", "requests.memory", "64Gi"))
	end := time.Now().Add(240 * time.Hour)
	req := newRequest(t, tenant, "prod", cluster, until(end))
	call := grants(req, quota("requests.cpu", "3", "requests.memory", "8Gi", "pods", "20"), cluster, "")
	for i := range 3 { // the answers of the first two calls were lost
		call.Repeated = i > 0
		out := d.do(&allocate{d.Requests}, call)
		g.Expect(out).To(HaveKeyWithValue("quota", map[string]string{"requests.cpu": "3", "requests.memory": "8Gi", "pods": "20"}))
		g.Expect(out).To(HaveKeyWithValue("until", timeText(req.Spec.Wanted.Until)))
	}
	p := d.part(tenant, "prod")
	g.Expect(p.Spec.Cluster).To(Equal(cluster))
	g.Expect(p.Spec.Environment).To(Equal("Production"))
	g.Expect(sameQuota(p.Spec.Quota, quota("requests.cpu", "3", "requests.memory", "8Gi", "pods", "20"))).To(BeTrue(), "less was granted, and a bound added")
	g.Expect(holds(p, req)).To(BeTrue())
	d.has(tenant, "3") // raised by the one that was lacking
	memory := d.tenant(tenant).Spec.Quota[corev1.ResourceRequestsMemory]
	g.Expect(memory.String()).To(Equal("64Gi"), "what is enough is not raised")
}

func TestONB05_GrantedNeverMoreThanAsked(t *testing.T) {
	cases := map[string]struct {
		asked, approved, current, want corev1.ResourceList
		reason                         string
	}{
		"as asked":      {quota("requests.cpu", "4"), quota("requests.cpu", "4"), nil, quota("requests.cpu", "4"), "nothing was changed"},
		"less":          {quota("requests.cpu", "4"), quota("requests.cpu", "1500m"), nil, quota("requests.cpu", "1500m"), "a part"},
		"more":          {quota("requests.cpu", "4"), quota("requests.cpu", "8"), nil, quota("requests.cpu", "4"), "no more than asked"},
		"short names":   {quota("cpu", "4"), quota("cpu", "8"), nil, quota("requests.cpu", "4"), "cpu is requests.cpu"},
		"left out":      {quota("requests.cpu", "4", "pods", "5"), quota("requests.cpu", "2"), nil, quota("requests.cpu", "2", "pods", "5"), "without a bound it would be more"},
		"another bound": {quota("requests.cpu", "4"), quota("pods", "5"), nil, quota("requests.cpu", "4", "pods", "5"), "a bound is less than none"},
		"raised bound":  {quota("requests.cpu", "4"), quota("pods", "50"), quota("pods", "5"), quota("requests.cpu", "4", "pods", "5"), "what was not asked for is not raised"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, _ := grant(tc.asked, tc.approved, tc.current)
			if !sameQuota(got, tc.want) {
				t.Errorf("%s: got %s, want %s", tc.reason, words(got), words(tc.want))
			}
		})
	}
}

// dying is a hub that does a number of writes, and the server is killed right after the last of them: nobody hears of it.
type dying struct {
	mu   sync.Mutex
	left int
}

var errKilled = errors.New("the server was killed")

func (k *dying) client(t *testing.T) client.Client {
	t.Helper()
	c, err := client.NewWithWatch(hub.Config, client.Options{Scheme: hub.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	end := func(err error) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.left--; k.left <= 0 && err == nil {
			return errKilled
		}
		return err
	}
	alive := func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.left <= 0 {
			return errKilled
		}
		return nil
	}
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := alive(); err != nil {
				return err
			}
			return end(c.Create(ctx, o, opts...))
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if err := alive(); err != nil {
				return err
			}
			return end(c.Update(ctx, o, opts...))
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := alive(); err != nil {
				return err
			}
			return end(c.Delete(ctx, o, opts...))
		},
	})
}

// Whatever write the server is killed after, the next one comes to the same end, and nothing was added twice.
func TestONB05_KilledAfterEachWrite(t *testing.T) {
	cluster := newCluster(t)
	for write := 1; write <= 2; write++ {
		for _, of := range []v1alpha1.RequestType{v1alpha1.RequestNew, v1alpha1.RequestChange, v1alpha1.RequestExtend} {
			t.Run(fmt.Sprintf("%s after write %d", of, write), func(t *testing.T) {
				d := newDesk(t)
				g := NewWithT(t)
				tenant := newTenant(t, quota("requests.cpu", "1"))
				end := time.Now().Add(240 * time.Hour)
				cpu := quota("requests.cpu", "4")
				req := newRequest(t, tenant, "prod", cluster, until(end), func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = cpu })
				total := "4"
				if of != v1alpha1.RequestNew {
					d.do(&allocate{d.Requests}, grants(req, cpu, cluster, ""))
					later := metav1.NewTime(end.Add(time.Hour).UTC().Truncate(time.Second))
					cpu = nil
					if of == v1alpha1.RequestChange {
						cpu, total = quota("requests.cpu", "6"), "6"
					}
					req = newRequest(t, tenant, "prod", "", kind(of, cpu, &later))
				}
				killed := *d.Requests
				killed.client = (&dying{left: write}).client(t)
				call := grants(req, cpu, cluster, "")
				_, err := (&allocate{&killed}).Run(t.Context(), call)
				g.Expect(err).To(MatchError(errKilled))
				call.Repeated = true
				d.do(&allocate{d.Requests}, call)
				d.do(&allocate{d.Requests}, call)
				d.has(tenant, total)
				p := d.part(tenant, "prod")
				g.Expect(sameQuota(p.Spec.Quota, quota("requests.cpu", total))).To(BeTrue(), words(p.Spec.Quota))
				g.Expect(holds(p, req)).To(BeTrue())
				m, err := markOf(d.tenant(tenant), "prod")
				g.Expect(err).NotTo(HaveOccurred())
				added := m.added()[corev1.ResourceRequestsCPU]
				added.Add(resource.MustParse("1"))
				g.Expect(added.String()).To(Equal(total), "what was added is written down")
			})
		}
	}
}

func TestONB05_TakenBackAfterEachWrite(t *testing.T) {
	cluster := newCluster(t)
	for write := 1; write <= 2; write++ {
		t.Run(fmt.Sprintf("write %d", write), func(t *testing.T) {
			d := newDesk(t)
			g := NewWithT(t)
			tenant := newTenant(t, quota("requests.cpu", "1"))
			cpu := func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = quota("requests.cpu", "4") }
			req := newRequest(t, tenant, "prod", cluster, cpu)
			killed := *d.Requests
			killed.client = (&dying{left: write}).client(t)
			_, err := (&allocate{&killed}).Run(t.Context(), grants(req, req.Spec.Wanted.Quota, cluster, ""))
			g.Expect(err).To(MatchError(errKilled))
			for range 3 { // also more often than needed
				g.Eventually(func() (bool, error) {
					out, err := (&release{d.Requests}).Run(t.Context(), callOf(req, nil))
					return out.Done, err
				}, "10s", "50ms").Should(BeTrue())
			}
			g.Expect(d.part(tenant, "prod")).To(BeNil())
			d.has(tenant, "1")
			g.Expect(d.tenant(tenant).Annotations).To(BeEmpty(), "nothing is left")
		})
	}
	t.Run("a change", func(t *testing.T) {
		d := newDesk(t)
		g := NewWithT(t)
		tenant := newTenant(t, quota("requests.cpu", "1"))
		first := newRequest(t, tenant, "prod", cluster, until(time.Now().Add(240*time.Hour)), func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = quota("requests.cpu", "4") })
		d.do(&allocate{d.Requests}, grants(first, first.Spec.Wanted.Quota, cluster, ""))
		was := d.part(tenant, "prod")
		second := newRequest(t, tenant, "prod", "", kind(v1alpha1.RequestChange, quota("requests.cpu", "9"), &metav1.Time{Time: time.Now().Add(480 * time.Hour)}))
		d.do(&allocate{d.Requests}, grants(second, second.Spec.Wanted.Quota, "", ""))
		d.has(tenant, "9")
		d.do(&release{d.Requests}, callOf(second, nil))
		d.do(&release{d.Requests}, callOf(second, nil))
		d.has(tenant, "4")
		now := d.part(tenant, "prod")
		g.Expect(sameQuota(now.Spec.Quota, was.Spec.Quota)).To(BeTrue(), words(now.Spec.Quota))
		g.Expect(now.Annotations).To(Equal(was.Annotations))
	})
}

// Twenty requests that are approved at once never get more than the tenant's quota is raised by.
func TestONB05_TwentyAtOnce(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	cluster := newCluster(t)
	tenant := newTenant(t, quota("requests.cpu", "10"))
	const many = 20
	var wg sync.WaitGroup
	failures := make([]error, many)
	for i := range many {
		req := newRequest(t, tenant, fmt.Sprintf("part-%d", i), cluster, func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = quota("requests.cpu", "3") })
		wg.Go(func() {
			call := grants(req, req.Spec.Wanted.Quota, cluster, "")
			for range 10 { // what the step's retry does
				if _, failures[i] = (&allocate{d.Requests}).Run(context.WithoutCancel(t.Context()), call); failures[i] == nil {
					return
				}
				call.Repeated = true
			}
		})
	}
	wg.Wait()
	g.Expect(errors.Join(failures...)).NotTo(HaveOccurred())
	d.has(tenant, "60") // 20 times 3, of which 10 were there
	var all v1alpha1.PartitionList
	g.Expect(hub.Client.List(t.Context(), &all, client.InNamespace(tenant))).To(Succeed())
	g.Expect(all.Items).To(HaveLen(many))
}

func TestONB05_TwoForOneName(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	cluster := newCluster(t)
	tenant := newTenant(t, quota("requests.cpu", "1", "requests.memory", "1Gi"))
	first, second := newRequest(t, tenant, "prod", cluster), newRequest(t, tenant, "prod", cluster)
	var wg sync.WaitGroup
	failures := make([]error, 2)
	for i, req := range []*v1alpha1.ResourceRequest{first, second} {
		wg.Go(func() {
			_, failures[i] = (&allocate{d.Requests}).Run(context.WithoutCancel(t.Context()), grants(req, req.Spec.Wanted.Quota, cluster, ""))
		})
	}
	wg.Wait()
	loser := 0
	if failures[0] == nil {
		loser = 1
	}
	g.Expect(failures[1-loser]).NotTo(HaveOccurred())
	g.Expect(action.IsFailed(failures[loser])).To(BeTrue(), "%v", failures[loser])
	g.Expect(failures[loser]).To(MatchError(Or(ContainSubstring("already given to request"), ContainSubstring("partition prod exists"))))
	d.has(tenant, "4")
	g.Expect(d.part(tenant, "prod")).NotTo(BeNil())
}

func TestONB05_ChangeLowersWhatWasAdded(t *testing.T) {
	d := newDesk(t)
	g := NewWithT(t)
	cluster := newCluster(t)
	tenant := newTenant(t, quota("requests.cpu", "1"))
	req := newRequest(t, tenant, "prod", cluster, func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = quota("requests.cpu", "4", "pods", "9") })
	d.do(&allocate{d.Requests}, grants(req, req.Spec.Wanted.Quota, cluster, ""))
	d.has(tenant, "4")
	less := newRequest(t, tenant, "prod", "", kind(v1alpha1.RequestChange, quota("requests.cpu", "2"), nil))
	out := d.do(&allocate{d.Requests}, grants(less, less.Spec.Wanted.Quota, "", ""))
	g.Expect(out).To(HaveKeyWithValue("quota", map[string]string{"requests.cpu": "2", "pods": "9"}), "what the change does not name stays")
	d.has(tenant, "2")
	gone := d.part(tenant, "prod")
	g.Expect(hub.Client.Delete(t.Context(), gone)).To(Succeed())
	for range 2 {
		g.Expect(d.giveBack(t.Context(), tenant, "prod", less.UID)).To(Succeed())
	}
	d.has(tenant, "1")
}

func TestONB05_AllocateRefuses(t *testing.T) {
	d := newDesk(t)
	cluster := newCluster(t)
	cases := map[string]struct {
		change  func(*v1alpha1.ResourceRequest)
		cluster string
		until   string
		before  func(t *testing.T, req *v1alpha1.ResourceRequest)
		want    string
	}{
		"no such cluster": {cluster: "nowhere", want: `there is no cluster "nowhere"`},
		"a bound is missing": {
			change: func(r *v1alpha1.ResourceRequest) { r.Spec.Wanted.Quota = quota("pods", "3") }, cluster: cluster, want: "bounds requests.cpu",
		},
		"withdrawn":          {change: func(r *v1alpha1.ResourceRequest) { r.Spec.Withdrawn = true }, cluster: cluster, want: "has withdrawn"},
		"not allowed":        {change: func(r *v1alpha1.ResourceRequest) { r.Spec.User.Name = "yunfan:gone" }, cluster: cluster, want: "may not ask for this, or not any more"},
		"an end in the past": {cluster: cluster, until: "2020-01-01", want: "has passed"},
		"no time":            {cluster: cluster, until: "tomorrow", want: "give a date"},
		"partition is there": {cluster: cluster, want: "partition prod exists", before: func(t *testing.T, req *v1alpha1.ResourceRequest) {
			t.Helper()
			testkit.Create(t, hub.Client, &v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: req.Namespace, Name: "prod"}, Spec: v1alpha1.PartitionSpec{Cluster: cluster}})
		}},
		"was rejected": {cluster: cluster, want: "which is its end", before: func(t *testing.T, req *v1alpha1.ResourceRequest) {
			t.Helper()
			req.Status.Phase = v1alpha1.RequestRejected
			if err := hub.Client.Status().Update(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}},
	}
	d.people.bar("yunfan:gone")
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			tenant := newTenant(t, quota("requests.cpu", "1"))
			req := requestFor(t, tenant, "prod", cluster)
			if tc.change != nil {
				tc.change(req)
			}
			testkit.Create(t, hub.Client, req)
			if tc.before != nil {
				tc.before(t, req)
			}
			_, err := (&allocate{d.Requests}).Run(t.Context(), grants(req, req.Spec.Wanted.Quota, tc.cluster, tc.until))
			g.Expect(err).To(MatchError(ContainSubstring(tc.want)))
			g.Expect(action.IsFailed(err)).To(BeTrue())
			after := &v1alpha1.Tenant{}
			g.Expect(hub.Client.Get(t.Context(), client.ObjectKey{Name: tenant}, after)).To(Succeed())
			g.Expect(after.Annotations).To(BeEmpty(), "nothing is left behind")
			cpu := after.Spec.Quota[corev1.ResourceRequestsCPU]
			g.Expect(cpu.String()).To(Equal("1"))
		})
	}
}
