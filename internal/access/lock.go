package access

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// backoff says how long somebody waits after attempts that failed, one after another.
type backoff struct {
	free        int32 // so many cost nothing
	first, most time.Duration
}

var (
	// A user is locked for half a minute after five wrong passwords, then twice as long each time.
	userBackoff = backoff{free: 5, first: 30 * time.Second, most: 15 * time.Minute}
	// Many people may be behind one address: it is given more, and never waits for long.
	sourceBackoff = backoff{free: 30, first: 5 * time.Second, most: time.Minute}
)

// after gives the pause after so many failures.
func (b backoff) after(failures int32) time.Duration {
	if failures < b.free {
		return 0
	}
	const tooMany = 20 // doublings
	return min(b.most, b.first<<min(failures-b.free, tooMany))
}

const (
	// lockMemory is how long failures of names and addresses are remembered, and lockEntries of how many of each.
	lockMemory  = 30 * time.Minute
	lockEntries = 4096
	// attemptTries is how often a lost race for a user's status is run again.
	attemptTries = 5
)

// locks remembers failures of addresses, and of names that are no users: those must be locked as users are, or the
// answer would tell who exists. Users' own failures are kept in their status, for all servers and beyond a restart.
type locks struct {
	now     func() time.Time
	mu      sync.Mutex
	names   *cache.LRUExpireCache
	sources *cache.LRUExpireCache
}

type failures struct {
	count int32
	until time.Time
}

func newLocks(now func() time.Time) *locks {
	return &locks{now: now, names: cache.NewLRUExpireCache(lockEntries), sources: cache.NewLRUExpireCache(lockEntries)}
}

// attempt counts one failure ahead and gives how long the name is locked; 0 if it may be tried.
func (l *locks) attempt(name string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if wait := l.wait(l.names, name); wait > 0 {
		return wait
	}
	l.count(l.names, name, userBackoff)
	return 0
}

// forget takes a name's failures away.
func (l *locks) forget(name string) { l.names.Remove(name) }

// source gives how long an address is locked.
func (l *locks) source(address string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wait(l.sources, network(address))
}

// failed counts a failure of an address.
func (l *locks) failed(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(l.sources, network(address), sourceBackoff)
}

func (l *locks) wait(table *cache.LRUExpireCache, key string) time.Duration {
	if known, ok := table.Get(key); ok {
		return max(0, known.(failures).until.Sub(l.now()))
	}
	return 0
}

func (l *locks) count(table *cache.LRUExpireCache, key string, b backoff) {
	entry := failures{}
	if known, ok := table.Get(key); ok {
		entry = known.(failures)
	}
	entry.count++
	entry.until = l.now().Add(b.after(entry.count))
	table.Add(key, entry, lockMemory)
}

// network is what stands for an address: one host has a whole network of IPv6.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Is4() {
		return address
	}
	const bits = 64
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return address
	}
	return prefix.String()
}

// attempt counts one failure of a user ahead, so that attempts side by side are counted, on whatever server they are
// made; success takes it back. A locked user gives an error.
func (s *Service) attempt(ctx context.Context, user *v1alpha1.User) error {
	for range attemptTries {
		if until := user.Status.LockedUntil; until != nil && until.After(s.now()) {
			return locked(until.Sub(s.now()))
		}
		user.Status.FailedAttempts++
		user.Status.LockedUntil = nil
		if wait := userBackoff.after(user.Status.FailedAttempts); wait > 0 {
			until := metav1.NewTime(s.now().Add(wait))
			user.Status.LockedUntil = &until
		}
		err := s.hub.Status().Update(ctx, user)
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("counting an attempt to sign in: %w", err)
		}
		if err := s.live.Get(ctx, client.ObjectKeyFromObject(user), user); err != nil {
			return fmt.Errorf("counting an attempt to sign in: %w", err)
		}
	}
	return locked(time.Second)
}

// locked is the answer to somebody who must wait, whether he exists or not.
func locked(wait time.Duration) error {
	seconds := int(math.Ceil(wait.Seconds()))
	return apierrors.NewTooManyRequests(fmt.Sprintf("too many attempts to sign in failed: wait %d seconds", seconds), seconds)
}
