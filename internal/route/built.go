package route

import (
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/route/table"
)

// built is a table with what it was made of.
type built struct {
	table      *table.Table
	generation string
	// contents of the pools by name, each with the certificates of its hosts.
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
	// problems are why a part of it is not served, for people.
	problems []problem
}

type problem struct{ reason, message string }

// certificate is one that was read.
type certificate struct{}
