package member

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// retryInterval is the pause before a controller that could not be started for a member is started again.
const retryInterval = 5 * time.Second

// Set holds the connections to all members and starts and stops the controllers that run for each of them. A
// connection goes through three states: connected (probed, not used yet), admitted (its cache is filled and, while this
// server leads, the controllers run for it) and retired (the controllers are stopped, the client still works).
type Set struct {
	hub         manager.Manager
	controllers []Controller

	mu          sync.Mutex
	connections map[string]*connections
	subscribers []chan event.GenericEvent
}

// connections are those to one cluster: the one in use and, after its kubeconfig has changed, the one to come.
type connections struct {
	current, next *connection
}

type connection struct {
	member      *Member
	fingerprint string
	retired     bool
	stopUse     context.CancelFunc // the controllers and the cache; nil before it is admitted
	stopProbes  context.CancelFunc
	probesEnded chan struct{}
}

// NewSet makes a set whose controllers run until the hub's manager stops.
func NewSet(hub manager.Manager) (*Set, error) {
	s := &Set{hub: hub, connections: map[string]*connections{}}
	return s, hub.Add(s)
}

// Start lets go of all members when ctx ends.
func (s *Set) Start(ctx context.Context) error {
	<-ctx.Done()
	s.disconnectAll()
	return nil
}

// NeedLeaderElection says that every server has connections.
func (s *Set) NeedLeaderElection() bool { return false }

// Register adds controllers. They are started, in order, for every member admitted from now on.
func (s *Set) Register(controllers ...Controller) {
	s.controllers = append(s.controllers, controllers...)
}

// Subscribe gives a channel of events, one each time any member starts or stops answering.
func (s *Set) Subscribe() <-chan event.GenericEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	const waiting = 1024 // More than the clusters there will be; each is in it a few times at most.
	c := make(chan event.GenericEvent, waiting)
	s.subscribers = append(s.subscribers, c)
	return c
}

// Member finds an admitted member.
func (s *Set) Member(name string) (*Member, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connections[name]
	if c == nil || c.current == nil || c.current.retired {
		return nil, false
	}
	return c.current.member, true
}

// Connection finds the newest connection to a cluster, admitted or not.
func (s *Set) Connection(name string) (*Member, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.connections[name]; c != nil {
		return c.newest().member, true
	}
	return nil, false
}

func (c *connections) newest() *connection {
	if c.next != nil {
		return c.next
	}
	return c.current
}

// Connect starts probing a cluster. The fingerprint stands for the kubeconfig: while it stays the same, so does the
// connection. When it changes, what is in use stays in use until Admit or Suspend.
func (s *Set) Connect(name, fingerprint string, config *rest.Config) (*Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connections[name]
	if c != nil && c.newest().fingerprint == fingerprint {
		return c.newest().member, nil
	}
	m, err := New(name, config)
	if err != nil {
		return nil, err
	}
	m.subscribers = append(m.subscribers, s.subscribers...)
	ctx, cancel := context.WithCancel(context.Background())
	next := &connection{member: m, fingerprint: fingerprint, stopProbes: cancel, probesEnded: make(chan struct{})}
	go func() {
		defer close(next.probesEnded)
		m.Run(ctx)
	}()
	if c == nil {
		c = &connections{}
		s.connections[name] = c
	}
	if c.next != nil {
		c.next.stop()
	}
	c.next = next
	return m, nil
}

// Admit starts the cache and, once this server leads, the controllers for the newest connection to a cluster, in place
// of those for an older one. Once done, or if there is none, it does nothing.
func (s *Set) Admit(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connections[name]
	if c == nil || c.next == nil {
		return
	}
	if c.current != nil {
		c.current.stop()
	}
	c.current, c.next = c.next, nil
	ctx, cancel := context.WithCancel(context.Background())
	c.current.stopUse = cancel
	go s.use(ctx, c.current.member)
}

func (s *Set) use(ctx context.Context, m *Member) {
	logger := log.Log.WithValues("cluster", m.Name)
	go func() {
		if err := m.Cache.Start(ctx); err != nil {
			logger.Error(err, "The member's cache ended")
		}
	}()
	select {
	case <-s.hub.Elected():
	case <-ctx.Done():
	}
	for _, c := range s.controllers {
		for ctx.Err() == nil {
			err := c.StartForMember(ctx, s.hub, m)
			if err == nil {
				break
			}
			logger.Error(err, "A controller could not be started for the member and will be again", "controller", fmt.Sprintf("%T", c))
			select {
			case <-ctx.Done():
			case <-time.After(retryInterval):
			}
		}
	}
}

// Suspend makes the connection in use count as not answering, for the reason given, until another is admitted.
func (s *Set) Suspend(name, reason, message string) {
	s.mu.Lock()
	c := s.connections[name]
	s.mu.Unlock()
	if c == nil || c.current == nil {
		return
	}
	c.current.stopProbes()
	<-c.current.probesEnded
	c.current.member.Suspend(reason, message)
}

// Retire stops the controllers and the cache of the connection in use; its client goes on working. It is not admitted
// again: Disconnect and Connect instead.
func (s *Set) Retire(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.connections[name]; c != nil && c.current != nil && !c.current.retired {
		c.current.stopUse()
		c.current.retired = true
	}
}

// Disconnect ends everything that runs for a cluster.
func (s *Set) Disconnect(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.connections[name]; c != nil {
		c.stop()
		delete(s.connections, name)
	}
}

func (s *Set) disconnectAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.connections {
		c.stop()
		delete(s.connections, name)
	}
}

func (c *connections) stop() {
	for _, one := range []*connection{c.current, c.next} {
		if one != nil {
			one.stop()
		}
	}
}

func (c *connection) stop() {
	c.stopProbes()
	if c.stopUse != nil {
		c.stopUse()
	}
}
