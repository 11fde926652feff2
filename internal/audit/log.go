package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/member"
	"yunfan.io/yunfan/internal/record"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// beforeTime is how long the state before a write may take to be read.
	beforeTime = 3 * time.Second
	// drainTime is how long requests under way may take to end when the server stops, before their results are lost.
	drainTime = 12 * time.Second
	tendTime  = 10 * time.Second
	// collection bounds the objects that are named of a deletecollection.
	collection = 500
	// requestIDHeader tells the user the number under which his request is found.
	requestIDHeader = "X-Request-ID"
	memberIndex     = "audit.memberNamespace"
)

// Options are what an administrator may choose.
type Options struct {
	// TrustedProxies are believed what they say of where a request comes from (X-Forwarded-For).
	TrustedProxies []netip.Prefix
	// Keep is how long rows are kept, and MaxRows how many; for ever, and all, if zero.
	Keep    time.Duration
	MaxRows int64
}

// Log is the audit of one server.
type Log struct {
	Options

	db      *record.Database
	writer  *Writer
	hub     client.Reader // the cache
	live    client.Client // the hub without a cache, as the platform
	members member.Lookup
	anchors *Anchors
	log     logr.Logger

	underWay sync.WaitGroup
	refusals refusals
}

// New begins the audit of the server at place, which is the same after a restart. Its writer is ended by Start.
func New(ctx context.Context, mgr ctrl.Manager, db *record.Database, members member.Lookup, namespace, place string, o Options) (*Log, error) {
	live, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient()})
	if err != nil {
		return nil, fmt.Errorf("making the hub's client: %w", err)
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.Partition{}, memberIndex, func(o client.Object) []string {
		p := o.(*v1alpha1.Partition)
		return []string{p.Spec.Cluster + "/" + p.MemberNamespace()}
	})
	if err != nil {
		return nil, fmt.Errorf("indexing partitions: %w", err)
	}
	log := ctrl.Log.WithName("audit")
	writer, err := NewWriter(ctx, db, place, log)
	if err != nil {
		return nil, err
	}
	anchors := &Anchors{Hub: live, Database: db, Namespace: namespace}
	l := &Log{Options: o, db: db, writer: writer, hub: mgr.GetClient(), live: live, members: members, anchors: anchors, log: log}
	if err := anchors.Set(ctx, writer.Head()); err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	return l, nil
}

// Wrap surrounds a handler: what it changes has a row, whose intent is on disk before the handler begins.
func (l *Log) Wrap(next rest.Handler) rest.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		intent, t, durable := l.describe(r)
		w.Header().Set(requestIDHeader, intent.RequestID)
		if !durable || !l.mayBegin(r, intent) {
			return l.afterwards(next, w, r, intent, t)
		}
		l.underWay.Add(1)
		defer l.underWay.Done()
		return l.around(next, w, r, intent, t)
	}
}

// around does what Wrap says.
func (l *Log) around(next rest.Handler, w http.ResponseWriter, r *http.Request, intent Intent, t target) error {
	var body []byte
	if t.kubernetes && r.Method == http.MethodPost && t.name == "" || !t.kubernetes && !secretPath(r) {
		body = readAhead(w, r)
	}
	a := &attempt{log: l, target: t, intent: intent, asked: body, contentType: r.Header.Get("Content-Type")}
	a.fromBody()
	before := l.readBefore(r, t)
	row, err := l.writer.Begin(r.Context(), a.intent)
	if err != nil {
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		return apierrors.NewServiceUnavailable(fmt.Sprintf("nothing was changed, because its audit cannot be written: %v", err))
	}
	_, stream := streamed[t.subresource]
	answer := &recorder{ResponseWriter: w, keep: !stream && r.Header.Get("Upgrade") == "" && r.Method != http.MethodGet}
	defer answer.release()
	if answer.keep {
		r.Header.Del("Accept-Encoding") // a compressed answer could not be read; the connection to the API server is compressed all the same
	}
	ended := false
	defer func() {
		if !ended { // a panic
			l.writer.End(row, a.outcome(r, answer, errPanic, <-before))
		}
	}()
	err = next(answer, r)
	ended = true
	l.writer.End(row, a.outcome(r, answer, err, <-before))
	return err
}

var errPanic = errors.New("the server failed")

// secretPath says that what is sent to one of our own paths is never kept: passwords, tokens and secrets' values.
func secretPath(r *http.Request) bool {
	for _, word := range []string{"session", "password", "token", "secret", "oidc", "certificate", "users", "kubeconfig"} {
		if containsFold(r.URL.Path, word) {
			return true
		}
	}
	return false
}

// afterwards writes a row only if the request is refused: nothing is changed then that could be without one.
func (l *Log) afterwards(next rest.Handler, w http.ResponseWriter, r *http.Request, intent Intent, t target) error {
	answer := &recorder{ResponseWriter: w}
	err := next(answer, r)
	a := &attempt{log: l, target: t, intent: intent}
	o := a.outcome(r, answer, err, state{})
	facts := rest.FactsOf(r.Context())
	if o.Result != ResultRefused && facts.Action == "" {
		return err
	}
	if o.Result != ResultSucceeded {
		var write bool
		if write, intent.Suppressed = l.refusals.take(intent.Address + " " + cmp.Or(facts.User, intent.User)); !write {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), intentTime)
	defer cancel()
	row, failure := l.writer.Begin(ctx, intent)
	if failure != nil {
		l.log.Error(failure, "A refusal has no row", "path", r.URL.Path)
		return err
	}
	l.writer.End(row, o)
	return err
}

// mayBegin keeps those who are not known from filling the database: of theirs, only so many requests are written
// beforehand; of the rest, the refusals that are counted.
func (l *Log) mayBegin(r *http.Request, intent Intent) bool {
	if rest.UserOf(r.Context()).Name != "" {
		return true
	}
	return l.refusals.room(intent.Address + " ")
}

// state is an object before a write.
type state struct {
	text, version string
}

// readBefore reads the object as it is now, as the platform, while the intent is written. What comes of it is kept only
// if the user's write succeeds: whoever is refused could otherwise read what he may not.
func (l *Log) readBefore(r *http.Request, t target) <-chan state {
	result := make(chan state, 1)
	write := r.Method == http.MethodPut || r.Method == http.MethodPatch || r.Method == http.MethodDelete
	if !t.kubernetes || t.resource == "" || !write || rest.UserOf(r.Context()).Name == "" {
		result <- state{}
		return result
	}
	go func() {
		ctx, cancel := context.WithTimeout(r.Context(), beforeTime)
		defer cancel()
		before, err := l.read(ctx, r, t)
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			l.log.V(1).Info("The state before a change is not known", "path", r.URL.Path, "error", err.Error())
		}
		result <- before
	}()
	return result
}

func (l *Log) read(ctx context.Context, r *http.Request, t target) (state, error) {
	from := l.live
	if t.cluster != "" {
		m, ok := l.members.Member(t.cluster)
		if !ok {
			return state{}, rest.NotFound("clusters", t.cluster)
		}
		from = m.Client
	}
	gvk, err := from.RESTMapper().KindFor(schema.GroupVersionResource{Group: t.group, Version: t.version, Resource: t.resource})
	if err != nil {
		return state{}, fmt.Errorf("finding the kind of %s: %w", t.resource, err)
	}
	if t.name == "" {
		return readCollection(ctx, from, gvk, r, t)
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(gvk)
	namespace := t.namespace
	if t.resource == "namespaces" {
		namespace = ""
	}
	if err := from.Get(ctx, client.ObjectKey{Namespace: namespace, Name: t.name}, object); err != nil {
		return state{}, fmt.Errorf("reading the state before: %w", err)
	}
	text, err := object.MarshalJSON()
	if err != nil {
		return state{}, fmt.Errorf("reading the state before: %w", err)
	}
	shown, err := mask(text)
	return state{shown, object.GetResourceVersion()}, err
}

// tenant finds whose object it is: on the hub the namespace says so, on a member the partition.
func (l *Log) tenant(ctx context.Context, t target) string {
	switch {
	case t.cluster != "" && t.namespace != "":
		partitions := &v1alpha1.PartitionList{}
		if err := l.hub.List(ctx, partitions, client.MatchingFields{memberIndex: t.cluster + "/" + t.namespace}, client.Limit(1)); err != nil || len(partitions.Items) == 0 {
			return ""
		}
		return partitions.Items[0].Namespace
	case t.cluster != "":
		return ""
	}
	name := t.namespace
	if t.resource == "tenants" {
		name = t.name
	}
	if name == "" || l.hub.Get(ctx, client.ObjectKey{Name: name}, &v1alpha1.Tenant{}) != nil {
		return ""
	}
	return name
}

// NeedLeaderElection says that every server has an audit of its own.
func (l *Log) NeedLeaderElection() bool { return false }
