package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/rest"
)

const (
	// maxOpen is how many requests one user may have open at once, watches and terminals included.
	maxOpen = 200
	// settle is how long changes of rights are gathered before all that is open is looked at again.
	settle = 200 * time.Millisecond
)

// errLost ends what a user has open when his rights have changed.
var errLost = errors.New("rights have been taken away, or the session has ended")

// Open knows every request that is being answered, and ends those whose user has lost a right with which they began.
type Open struct {
	// Now gives the groups in which a user is now; false if his session has ended or he may not sign in any more.
	Now func(ctx context.Context, user rest.User) (groups []string, still bool)

	mu       sync.Mutex
	requests map[*openRequest]struct{}
	users    map[string]int
	changed  chan struct{}
}

type openRequest struct {
	user rest.User
	end  context.CancelCauseFunc
}

// NewOpen makes an empty register.
func NewOpen(now func(context.Context, rest.User) ([]string, bool)) *Open {
	return &Open{Now: now, requests: map[*openRequest]struct{}{}, users: map[string]int{}, changed: make(chan struct{}, 1)}
}

// SetupWithManager has everything that is open looked at again when people's rights change.
func (o *Open) SetupWithManager(mgr manager.Manager) error {
	if err := mgr.Add(o); err != nil {
		return fmt.Errorf("adding to the manager: %w", err)
	}
	again := toolscache.ResourceEventHandlerFuncs{
		UpdateFunc: func(any, any) { o.look() },
		DeleteFunc: func(any) { o.look() },
	}
	for _, object := range []client.Object{
		&v1alpha1.Membership{}, &v1alpha1.UserGroup{}, &v1alpha1.User{}, &v1alpha1.Session{}, &v1alpha1.AccessToken{},
	} {
		informer, err := mgr.GetCache().GetInformer(context.Background(), object)
		if err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
		if _, err := informer.AddEventHandler(again); err != nil {
			return fmt.Errorf("watching %T: %w", object, err)
		}
	}
	return nil
}

// NeedLeaderElection says that every replica does this.
func (*Open) NeedLeaderElection() bool { return false }

// look has everything looked at again. Changes that come together cost one look.
func (o *Open) look() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// Start ends what must end until ctx ends.
func (o *Open) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
		o.review(ctx)
	}
}

// review asks once for each user and session what they may now.
func (o *Open) review(ctx context.Context) {
	o.mu.Lock()
	all := make([]*openRequest, 0, len(o.requests))
	for r := range o.requests {
		all = append(all, r)
	}
	o.mu.Unlock()
	type state struct {
		groups []string
		still  bool
	}
	known := map[string]state{}
	for _, r := range all {
		key := fmt.Sprint(r.user.Name, r.user.UID, r.user.Extra)
		now, asked := known[key]
		if !asked {
			now.groups, now.still = o.Now(ctx, r.user)
			known[key] = now
		}
		lost := func(group string) bool {
			return strings.HasPrefix(group, v1alpha1.UserPrefix) && !slices.Contains(now.groups, group)
		}
		if !now.still || slices.ContainsFunc(r.user.Groups, lost) {
			r.end(errLost)
		}
	}
}

// Wrap registers every request of the platform's users while it is answered.
func (o *Open) Wrap(next rest.Handler) rest.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user := rest.UserOf(r.Context())
		if !ours(user) {
			return next(w, r)
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		one := &openRequest{user, cancel}
		if !o.add(one) {
			return apierrors.NewTooManyRequests(fmt.Sprintf("%d requests of yours are open: close watches and terminals that you do not need", maxOpen), 1)
		}
		defer o.remove(one)
		return next(w, r.WithContext(ctx))
	}
}

func (o *Open) add(r *openRequest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users[r.user.Name] >= maxOpen {
		return false
	}
	o.users[r.user.Name]++
	o.requests[r] = struct{}{}
	return true
}

func (o *Open) remove(r *openRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.requests, r)
	if o.users[r.user.Name]--; o.users[r.user.Name] <= 0 {
		delete(o.users, r.user.Name)
	}
}
