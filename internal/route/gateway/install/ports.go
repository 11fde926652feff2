package install

// Ports at which a gateway's pod answers: what edges send, its metrics, and the gauge of its connections.
const (
	WebPort      = webPort
	InternalPort = internalPort
	GaugePort    = gaugePort
)
