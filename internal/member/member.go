// Package member is how the platform's controllers work with one joined cluster: its clients, its cache, whether it
// answers, and the controllers that run for it alone. One slow or dead member costs only its own rows, so nothing here
// is shared between members: each has its own connections, timeouts, cache and queues.
package member

import (
	"context"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// Member is one joined cluster.
type Member struct {
	// Name of the Cluster object.
	Name string
	// Config of the platform's own identity there. Requests have a timeout of a few seconds, watches none.
	Config *rest.Config
	// Client of the platform's own identity, not cached. It never writes a tenant's objects.
	Client client.Client
	// Cache holds what the platform looks at in the member: nodes, pods (cut down to what is used), and the delivered
	// kinds as far as they carry the label yunfan.io/partition.
	Cache cache.Cache
	// Changes gives an event each time the member starts or stops answering; one channel per Subscribe.
	// (see Subscribe)
}

// As gives a client that acts as the delivery service account of a namespace: it may do there what the partition may,
// and nothing anywhere else. Clients are kept, one per namespace, until the member is removed.
func (m *Member) As(namespace string) (client.Client, error) { panic("C writes this") }

// Answering says whether the member answered its last probe, and when it last did.
func (m *Member) Answering() (bool, time.Time) { panic("C writes this") }

// Subscribe gives a channel of events, one each time the member starts or stops answering, for source.Channel.
func (m *Member) Subscribe() <-chan event.GenericEvent { panic("C writes this") }

// Controller is a controller that runs once for each member, with a queue of its own.
type Controller interface {
	// StartForMember starts what is needed for the member, with hub as the way to the hub's cache and client. What it
	// starts ends with ctx.
	StartForMember(ctx context.Context, hub manager.Manager, m *Member) error
}

// Lookup finds a joined member; false if there is none of that name or it has never answered.
type Lookup interface {
	Member(name string) (*Member, bool)
}
