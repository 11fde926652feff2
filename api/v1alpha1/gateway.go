package v1alpha1

// The gateway that the platform runs on members.
const (
	// GatewayNamespace is where it runs: the DaemonSet, the Service and the Gateway of the Gateway API.
	GatewayNamespace = "yunfan-gateway"
	// GatewayName is the name of the Gateway, of its class, of the DaemonSet and of the Service.
	GatewayName = "yunfan"
	// DefaultGatewayPort is the node port at which it answers the edge.
	DefaultGatewayPort = 30080
	// ConditionGatewayReady on a Cluster says that the gateway of every node answers. It is there in mode Managed only.
	ConditionGatewayReady = "GatewayReady"
)

// Port at which the gateway of each node answers the edge.
func (g *Gateway) Port() int32 {
	if g.NodePort != 0 {
		return g.NodePort
	}
	return DefaultGatewayPort
}
