// Package traffic is the contract between those who move applications and those who bring requests to them: what can be
// asked of the traffic of a Delivery. It knows neither routes nor rollouts. What should be is in the Delivery's spec.
package traffic

import (
	"context"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Traffic answers for Deliveries. Where no Route names the application everything is settled, and nothing in flight.
type Traffic interface {
	// Settled says whether every replica of every edge, and of the gateway of the Delivery's cluster, serves what the
	// Delivery's spec and the Routes want. Empty if so, else who is waited for, for people: "gateway shanghai/n1 serves an
	// older table". A replica that gets nothing from any edge, since it does not answer their probes, is not waited for; nor is
	// the gateway of a cluster that does not answer, if the Delivery is closed.
	Settled(ctx context.Context, d *v1alpha1.Delivery) (waiting string, err error)
	// Reaches says whether every gateway of the Delivery's cluster reaches pods of the track: it has asked each. Empty if so,
	// else what was answered.
	Reaches(ctx context.Context, d *v1alpha1.Delivery, track v1alpha1.TrackRole) (missing string, err error)
	// InFlight counts what is under way to a Delivery now. Those that ask do so again and again while they drain.
	InFlight(ctx context.Context, d *v1alpha1.Delivery) (InFlight, error)
	// Sample gives the counters of one track of a Delivery; two of them are compared.
	Sample(ctx context.Context, d *v1alpha1.Delivery, track v1alpha1.TrackRole) (Sample, error)
}

// InFlight is what is under way.
type InFlight struct {
	// Edge is the number of requests at the edges for the Delivery's partition, WebSockets among them.
	Edge int
	// Tracks is the number of connections from the gateways to pods of each track: never fewer than the requests.
	Tracks map[v1alpha1.TrackRole]int
}

// Sample are counters since their gateways began. If one of them began anew since the sample before, Restarted differs.
type Sample struct {
	// Requests that were answered, and Failures among them: answers of 500 and more.
	Requests, Failures uint64
	// Slower[i] is how many took longer than Bounds[i] seconds, in rising order.
	Bounds []float64
	Slower []uint64
	// Restarted names the gateways and when they began.
	Restarted string
}
