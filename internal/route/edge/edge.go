// Package edge drives load balancers: what every driver can do, and the program `yunfan edge` that runs one beside the
// load balancer and takes tables from the hub.
package edge

import (
	"context"

	"yunfan.io/yunfan/internal/route/table"
)

// Driver brings a table to one replica of a load balancer.
type Driver interface {
	// Apply makes the table what the replica should serve, without losing a request. It is called again with the same table
	// after failures and restarts. That it answers does not mean that the table is served: State says that.
	Apply(ctx context.Context, t *table.Table) error
	// State tells what the replica serves, and what is in flight there.
	State(ctx context.Context) (*table.State, error)
}
