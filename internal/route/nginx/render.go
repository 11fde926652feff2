package nginx

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/table"
)

// workerCount is the number of processes that take requests.
const workerCount = 2

// renderer makes Nginx's configuration of a table.
type renderer struct {
	dir      string
	settings edge.Settings
	// down says whether a server should get nothing.
	down func(pool, target, address string) bool
	// leaving are sides of former tables by their sockets.
	leaving map[string]side

	out   strings.Builder
	files map[string][]byte
}

// head is what does not depend on the table. Bodies and answers are passed on as they come.
const head = `daemon off;
pid nginx.pid;
worker_processes %d;
events { worker_connections 8192; }
http {
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	scgi_temp_path scgi;
	uwsgi_temp_path uwsgi;
	server_tokens off;
	access_log off;
	keepalive_requests 1000000;
	client_max_body_size 0;
	server_names_hash_max_size 65536;
	server_names_hash_bucket_size 512;
	map_hash_bucket_size 512;
	variables_hash_max_size 16384;
	proxy_http_version 1.1;
	proxy_buffering off;
	proxy_request_buffering off;
	proxy_connect_timeout 5s;
	proxy_read_timeout 1d;
	proxy_send_timeout 1d;
	proxy_next_upstream off;
	limit_req_status 429;
	map $http_upgrade $yf_once { default upgrade; "" close; }
	map $http_upgrade $yf_kept { default upgrade; "" ""; }
	log_format answers '$yf_side $status';
`

// render gives the configuration, and the files that it names.
func (r *renderer) render(t *table.Table, generation string) ([]byte, map[string][]byte, error) {
	r.files = map[string][]byte{}
	r.say(head, workerCount)
	r.networks(t)
	for i := range t.Pools {
		r.choice(&t.Pools[i])
	}
	current := sides(r.dir, t)
	for i := range current {
		r.side(&current[i], affinity(t, current[i].pool))
	}
	for _, socket := range slices.Sorted(maps.Keys(r.leaving)) {
		s := r.leaving[socket]
		r.side(&s, "")
	}
	if err := r.hosts(t, generation); err != nil {
		return nil, nil, err
	}
	r.say("}\n")
	return []byte(r.out.String()), r.files, nil
}

func (r *renderer) say(format string, values ...any) {
	fmt.Fprintf(&r.out, format, values...)
}

// quoted is a text as one word of Nginx's language. Variables are not read in the places where it is used.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// networks are a variable each: the network's name for clients that are in it, else empty.
func (r *renderer) networks(t *table.Table) {
	said := map[string]bool{}
	for _, pool := range t.Pools {
		for _, network := range pool.Networks {
			name := networkVariable(network)
			if said[name] {
				continue
			}
			said[name] = true
			r.say("\tgeo $remote_addr $%s {\n\t\tdefault \"\";\n", name)
			for _, cidr := range network.CIDRs {
				r.say("\t\t%s %s;\n", cidr, quoted(network.Name))
			}
			r.say("\t}\n")
		}
	}
}

func networkVariable(n table.Network) string { return "yf_net_" + short(n.Name) }

// open are the sides that should get requests of a pool.
func (r *renderer) open(p *table.Pool) []table.Target {
	var open []table.Target
	for _, target := range p.Targets {
		alive := slices.ContainsFunc(target.Servers, func(address string) bool { return !r.down(p.Name, target.Name, address) })
		if !target.Closed && target.Weight > 0 && alive {
			open = append(open, target)
		}
	}
	return open
}

// choice is how a pool chooses the side.
func (r *renderer) choice(p *table.Pool) {
	open := r.open(p)
	if p.RateLimit != nil {
		key, size := quoted("all"), "64k"
		if p.RateLimit.PerClient {
			key, size = "$binary_remote_addr", "8m"
		}
		r.say("\tlimit_req_zone %s zone=%s:%s rate=%dr/m;\n", key, zoneName(p), size, perMinute(p.RateLimit))
	}
	if len(open) == 0 {
		return
	}
	r.say("\tupstream %s {\n", poolName(p.Name))
	if p.Affinity != nil && p.Affinity.ClientIP {
		r.say("\t\thash $remote_addr consistent;\n")
	}
	for _, target := range open {
		r.say("\t\tserver unix:%s weight=%d max_fails=0;\n", socketName(r.dir, p.Name, target.Name), target.Weight)
	}
	r.say("\t}\n")
	cookie := cookieName(p.Affinity)
	if cookie == "" {
		return
	}
	for _, target := range open {
		socket := socketName(r.dir, p.Name, target.Name)
		r.say("\tupstream only-%s { server unix:%s max_fails=0; }\n", socket, socket)
	}
	r.say("\tmap $http_cookie $yf_choice_%s {\n\t\tdefault %s;\n", short(p.Name), poolName(p.Name))
	for _, target := range open {
		socket := socketName(r.dir, p.Name, target.Name)
		r.say("\t\t%s only-%s;\n", cookiePattern(cookie, socket), socket)
	}
	r.say("\t}\n")
}

func poolName(pool string) string { return "pool-" + short(pool) }

func zoneName(p *table.Pool) string {
	if p.RateLimit.PerClient {
		return "each-" + short(p.Name)
	}
	return "all-" + short(p.Name)
}

func affinity(t *table.Table, pool string) string {
	for i := range t.Pools {
		if t.Pools[i].Name == pool {
			return cookieName(t.Pools[i].Affinity)
		}
	}
	return ""
}

func cookieName(a *table.Affinity) string {
	switch {
	case a == nil || a.ClientIP:
		return ""
	case a.Cookie == "":
		return table.DefaultCookie
	default:
		return a.Cookie
	}
}

// side is the inner side of a target.
func (r *renderer) side(s *side, cookie string) {
	servers := slices.DeleteFunc(slices.Clone(s.target.Servers), func(address string) bool {
		return r.down(s.pool, s.target.Name, address)
	})
	if len(servers) == 0 {
		// Nothing new is sent here; what is on the way may still be lucky.
		servers = s.target.Servers
	}
	if len(servers) > 0 {
		r.say("\tupstream %s {\n", s.socket)
		for _, address := range servers {
			r.say("\t\tserver %s max_fails=0;\n", address)
		}
		r.say("\t\tkeepalive 64;\n\t}\n")
	}
	if cookie != "" {
		value := quoted(cookie + "=" + s.socket + "; Path=/; HttpOnly")
		r.say("\tmap $http_cookie $yf_cookie_%s {\n\t\tdefault %s;\n\t\t%s \"\";\n\t}\n",
			short(s.socket), value, cookiePattern(cookie, s.socket))
	}
	r.say("\tserver {\n\t\tlisten unix:%s;\n\t\tset $yf_side %s;\n", s.socket, s.socket)
	r.say("\t\taccess_log syslog:server=unix:%s,nohostname answers;\n", answersSocket)
	if len(servers) == 0 {
		r.say("\t\tlocation / { return 503; }\n\t}\n")
		return
	}
	r.retried("/", "inner", s.retries, func() {
		r.say("\t\t\tproxy_pass http://%s;\n", s.socket)
		r.say("\t\t\tproxy_set_header Host $http_host;\n\t\t\tproxy_set_header Upgrade $http_upgrade;\n")
		r.say("\t\t\tproxy_set_header Connection $yf_kept;\n")
		r.say("\t\t\tproxy_set_header %s %s;\n", table.HeaderPartition, s.target.Name)
		if cookie != "" {
			r.say("\t\t\tadd_header Set-Cookie $yf_cookie_%s always;\n", short(s.socket))
		}
	})
	r.say("\t}\n")
}

// retried is a location, with another for the requests that must not be sent twice if there are retries.
func (r *renderer) retried(location, name string, retries int, body func()) {
	r.say("\t\tlocation %s {\n", location)
	if retries > 0 {
		r.say("\t\t\terror_page 418 = @once-%s;\n", name)
		r.say("\t\t\tif ($request_method !~ \"^(GET|HEAD|OPTIONS)$\") { return 418; }\n")
		r.say("\t\t\tproxy_next_upstream error timeout http_502;\n\t\t\tproxy_next_upstream_tries %d;\n", retries+1)
	}
	body()
	r.say("\t\t}\n")
	if retries > 0 {
		r.say("\t\tlocation @once-%s {\n", name)
		body()
		r.say("\t\t}\n")
	}
}

// hosts are the servers that clients see: of each host, and of those that nobody names.
func (r *renderer) hosts(t *table.Table, generation string) error {
	places := map[string][]place{"": nil}
	for i := range t.Pools {
		p := &t.Pools[i]
		hosts := p.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, host := range hosts {
			places[host] = append(places[host], placesOf(p)...)
		}
	}
	if r.settings.HTTPS != "" {
		chain, key, err := nobodys(r.dir)
		if err != nil {
			return err
		}
		r.files["nobody.crt"], r.files["nobody.key"] = chain, key
		for _, c := range t.Certificates {
			name := short(c.Name)
			r.files[name+".crt"], r.files[name+".key"] = []byte(c.Chain), []byte(c.Key)
		}
	}
	for _, host := range slices.Sorted(maps.Keys(places)) {
		here := inOrder(places[host])
		if r.settings.HTTP != "" {
			r.host(host, r.settings.HTTP, "", here, generation)
		}
		if r.settings.HTTPS != "" {
			r.host(host, r.settings.HTTPS, certificateFor(t, host), here, generation)
		}
	}
	return nil
}

// host is one server that clients see. It speaks TLS if a certificate is given, by the name of its files.
func (r *renderer) host(host, address, certificate string, places []place, generation string) {
	r.say("\tserver {\n\t\tlisten %s", address)
	if certificate != "" {
		r.say(" ssl http2")
	}
	if host == "" {
		r.say(" default_server;\n\t\tserver_name _;\n")
	} else {
		r.say(";\n\t\tserver_name %s;\n", quoted(host))
	}
	if certificate != "" {
		r.say("\t\tssl_certificate %s;\n\t\tssl_certificate_key %s;\n",
			quoted(r.dir+"/"+certificate+".crt"), quoted(r.dir+"/"+certificate+".key"))
	}
	r.say("\t\tlocation = %s { default_type text/plain; return 200 %s; }\n", table.MarkerPath, quoted(generation))
	everything := false
	for i, place := range places {
		everything = everything || place.location == "/"
		r.place(&place, fmt.Sprint(i), certificate == "")
	}
	if !everything {
		r.say("\t\tlocation / { return 404; }\n")
	}
	r.say("\t}\n")
}

// place is what one location of a host does.
func (r *renderer) place(here *place, name string, plain bool) {
	p := here.pool
	switch {
	case plain && p.RedirectHTTP && r.settings.HTTPS != "":
		port := ""
		if _, own, err := net.SplitHostPort(r.settings.HTTPS); err == nil && own != "443" {
			port = ":" + own
		}
		r.say("\t\tlocation %s { return 308 https://$host%s$request_uri; }\n", here.location, port)
		return
	case len(r.open(p)) == 0:
		r.say("\t\tlocation %s { return 503; }\n", here.location)
		return
	}
	r.retried(here.location, name, p.Retries, func() {
		for _, cidr := range p.Deny {
			r.say("\t\t\tdeny %s;\n", cidr)
		}
		for _, cidr := range p.Allow {
			r.say("\t\t\tallow %s;\n", cidr)
		}
		if len(p.Allow) > 0 {
			r.say("\t\t\tdeny all;\n")
		}
		if p.RateLimit != nil {
			r.say("\t\t\tlimit_req zone=%s burst=%d nodelay;\n", zoneName(p), max(p.RateLimit.Requests-1, 0))
		}
		if cookieName(p.Affinity) != "" {
			r.say("\t\t\tproxy_pass http://$yf_choice_%s;\n", short(p.Name))
		} else {
			r.say("\t\t\tproxy_pass http://%s;\n", poolName(p.Name))
		}
		r.say("\t\t\tproxy_set_header Host $http_host;\n\t\t\tproxy_set_header Upgrade $http_upgrade;\n")
		r.say("\t\t\tproxy_set_header Connection $yf_once;\n")
		r.say("\t\t\tproxy_set_header X-Forwarded-For $remote_addr;\n\t\t\tproxy_set_header X-Forwarded-Proto $scheme;\n")
		r.say("\t\t\tproxy_set_header X-Forwarded-Host $http_host;\n")
		if len(p.Networks) == 0 {
			r.say("\t\t\tproxy_set_header %s \"\";\n", table.HeaderClient)
		}
		for _, network := range p.Networks {
			r.say("\t\t\tproxy_set_header %s $%s;\n", table.HeaderClient, networkVariable(network))
		}
	})
}
