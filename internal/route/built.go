package route

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/route/table"
)

// facts are what a table is made of. Their order does not matter.
type facts struct {
	routes     []v1alpha1.Route
	hosts      []v1alpha1.RouteHost
	deliveries []v1alpha1.Delivery
	partitions []v1alpha1.Partition
	clusters   []v1alpha1.Cluster
	edges      []v1alpha1.Edge
	// certificates by Route.
	certificates map[client.ObjectKey]*certificate
}

// built is a table with what it was made of.
type built struct {
	table      *table.Table
	generation string
	// contents of the pools by name, each with the certificate of its Route.
	contents map[string]string
	// deliveries are all that there are.
	deliveries map[client.ObjectKey]place
	// routes are all that there are.
	routes map[client.ObjectKey]*outcome
	// partitions by the names of targets, and the servers of targets.
	partitions map[string]client.ObjectKey
	serversOf  map[string][]string
	// edges are the names of all Edges.
	edges []string
}

// place is where a Delivery is in the table.
type place struct {
	// generation of the Delivery from which the table was made.
	generation int64
	target     string
	// pools that it is a target of.
	pools []string
}

// outcome is what became of a Route.
type outcome struct {
	generation int64
	pools      []string
	// problems are why a part of it is not served.
	problems []problem
	// certificate that it has, and what is wrong with its newest version.
	certificate string
}

// problem is why something is not served, for people.
type problem struct{ reason, message string }

// seal names the content of the table and of each of its pools.
func (b *built) seal() error {
	certificates := make(map[string]string, len(b.table.Certificates))
	for i := range b.table.Certificates {
		certificates[b.table.Certificates[i].Name] = b.table.Certificates[i].Chain
	}
	b.contents = make(map[string]string, len(b.table.Pools))
	for i := range b.table.Pools {
		pool := &b.table.Pools[i]
		data, err := json.Marshal(pool)
		if err != nil {
			return fmt.Errorf("naming pool %s: %w", pool.Name, err)
		}
		name := parsePool(pool.Name)
		data = append(data, certificates[name.tenant+"."+name.route]...)
		sum := sha256.Sum256(data)
		b.contents[pool.Name] = hex.EncodeToString(sum[:])
	}
	generation, err := b.table.Generation()
	b.generation = generation
	return err
}
