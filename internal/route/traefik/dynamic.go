package traefik

// dynamic is the part of Traefik's dynamic configuration that is used.
type dynamic struct {
	HTTP httpPart `json:"http"`
	TLS  *tlsPart `json:"tls,omitempty"`
}

type httpPart struct {
	Routers           map[string]router     `json:"routers"`
	Services          map[string]service    `json:"services,omitempty"`
	Middlewares       map[string]middleware `json:"middlewares"`
	ServersTransports map[string]transport  `json:"serversTransports"`
}

type router struct {
	EntryPoints []string `json:"entryPoints"`
	Middlewares []string `json:"middlewares,omitempty"`
	Service     string   `json:"service"`
	Rule        string   `json:"rule"`
	Priority    int      `json:"priority"`
	// TLS is an empty object where it is spoken.
	TLS *struct{} `json:"tls,omitempty"`
}

type service struct {
	Middlewares         []string      `json:"middlewares,omitempty"`
	LoadBalancer        *loadBalancer `json:"loadBalancer,omitempty"`
	Weighted            *weighted     `json:"weighted,omitempty"`
	HighestRandomWeight *weighted     `json:"highestRandomWeight,omitempty"`
}

type loadBalancer struct {
	Servers          []server `json:"servers"`
	PassHostHeader   bool     `json:"passHostHeader"`
	ServersTransport string   `json:"serversTransport"`
}

type server struct {
	URL string `json:"url"`
}

type weighted struct {
	Services []weightedService `json:"services"`
	Sticky   *sticky           `json:"sticky,omitempty"`
}

type weightedService struct {
	Name   string `json:"name"`
	Weight int    `json:"weight"`
}

type sticky struct {
	Cookie cookie `json:"cookie"`
}

type cookie struct {
	Name     string `json:"name"`
	HTTPOnly bool   `json:"httpOnly"`
}

type middleware struct {
	Plugin map[string]pluginConfig `json:"plugin,omitempty"`
	Retry  *retry                  `json:"retry,omitempty"`
}

type pluginConfig struct {
	JSON string `json:"json"`
}

type retry struct {
	Attempts int      `json:"attempts"`
	Status   []string `json:"status,omitempty"`
}

type transport struct {
	MaxIdleConnsPerHost int      `json:"maxIdleConnsPerHost"`
	ForwardingTimeouts  timeouts `json:"forwardingTimeouts"`
}

type timeouts struct {
	DialTimeout     string `json:"dialTimeout"`
	IdleConnTimeout string `json:"idleConnTimeout"`
}

type tlsPart struct {
	Certificates []certificate `json:"certificates"`
}

// certificate has its content in place of file names.
type certificate struct {
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
}
