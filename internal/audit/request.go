package audit

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/rest"
)

const requestIDLength = 16

// target is what a request is about, as far as its path says.
type target struct {
	// kubernetes says that it goes on to an API server, with the object's path there.
	kubernetes                                                      bool
	cluster, group, version, resource, subresource, namespace, name string
}

// actions of Kubernetes that are no writes by their method.
var streamed = map[string]string{"exec": "exec", "attach": "attach", "portforward": "portforward", "proxy": "proxy"}

// reviews ask what one may, and change nothing, though they are sent with POST.
var reviews = []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}

// describe says what a request is about, and whether it needs an intent before it goes on.
func (l *Log) describe(r *http.Request) (Intent, target, bool) {
	t := targetOf(r)
	user := rest.UserOf(r.Context())
	intent := Intent{
		Time: time.Now().UnixMilli(), Address: l.address(r), UserAgent: r.UserAgent(), RequestID: strings.ToLower(rand.Text()[:requestIDLength]),
		Action: t.action(r), Cluster: t.cluster, Group: t.group, Resource: t.resource, Subresource: t.subresource, Namespace: t.namespace, Name: t.name,
		Method: r.Method, Path: shownPath(r.URL), DryRun: r.URL.Query().Get("dryRun") != "",
	}
	intent.User, intent.Origin, intent.Via = who(user, r)
	intent.Tenant = l.tenant(r.Context(), t)
	write := slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, r.Method)
	write = write && !(t.group == "authorization.k8s.io" && slices.Contains(reviews, t.resource)) && r.Pattern != "POST /api/v1/access-review"
	_, stream := streamed[t.subresource]
	secret := t.kubernetes && t.group == "" && t.resource == "secrets"
	return intent, t, write || stream || secret || r.Header.Get("Upgrade") != ""
}

// who is the user as he is shown.
func who(user rest.User, r *http.Request) (name, origin, via string) {
	name, ours := user.OfPlatform()
	switch {
	case name == "":
		return "", "", ""
	case ours:
		for _, known := range []string{"session", "access-token"} {
			if names := user.Extra["yunfan.io/"+known]; len(names) == 1 {
				return name, originYunfan, known + "/" + names[0]
			}
		}
		return name, originYunfan, ""
	case r.Header.Get("Authorization") == "" && r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		return name, originHub, "certificate"
	}
	return name, originHub, "token"
}

// targetOf reads what the path says: of an API server's path as Kubernetes does, of ours the last word.
func targetOf(r *http.Request) target {
	path, cluster := r.URL.Path, ""
	if rest, ok := strings.CutPrefix(path, "/clusters/"); ok {
		cluster, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	} else if !strings.HasSuffix(r.Pattern, "{path...}") {
		return target{resource: ownResource(r), namespace: r.PathValue("namespace"), name: cmp.Or(r.PathValue("name"), r.PathValue("id")), cluster: r.PathValue("cluster")}
	}
	t := target{kubernetes: true, cluster: cluster}
	parts := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	switch {
	case len(parts) > 2 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		t.group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return target{kubernetes: true, cluster: cluster}
	}
	if parts[0] == "watch" && len(parts) > 1 {
		parts = parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		t.namespace, parts = parts[1], parts[2:]
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.subresource = parts[2]
	}
	if t.resource == "namespaces" && t.group == "" {
		t.namespace = t.name
	}
	return t
}

// ownResource is the word of one of our paths that says what it is about: /api/v1/applications/x/scale is about
// applications.
func ownResource(r *http.Request) string {
	_, pattern, _ := strings.Cut(r.Pattern, " ")
	for part := range strings.SplitSeq(strings.TrimPrefix(pattern, "/api/v1/"), "/") {
		if part != "" && !strings.HasPrefix(part, "{") && part != "tenants" || part == "tenants" && strings.Count(pattern, "/") <= len("api/v1") {
			return part
		}
	}
	return strings.Trim(r.URL.Path, "/")
}

// action is Kubernetes' verb, or of our own paths what the last word says.
func (t target) action(r *http.Request) string {
	if action, ok := streamed[t.subresource]; ok && t.kubernetes {
		return action
	}
	if !t.kubernetes {
		_, pattern, _ := strings.Cut(r.Pattern, " ")
		last := pattern[strings.LastIndexByte(pattern, '/')+1:]
		if r.Method == http.MethodPost && last != "" && last != t.resource && !strings.HasPrefix(last, "{") {
			return last
		}
	}
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply-patch") {
			return "apply"
		}
		return "patch"
	case http.MethodDelete:
		if t.kubernetes && t.name == "" {
			return "deletecollection"
		}
		return "delete"
	}
	switch query := r.URL.Query(); {
	case query.Get("watch") == "true" || query.Get("watch") == "1" || strings.Contains(r.URL.Path, "/watch/"):
		return "watch"
	case t.name == "":
		return "list"
	}
	return "get"
}

// shownPath is the path with its query, without what may be a secret in it.
func shownPath(u *url.URL) string {
	if u.RawQuery == "" {
		return u.EscapedPath()
	}
	query := u.Query()
	for key := range query {
		if secretWord(key) || key == "code" || key == "state" { // of OpenID Connect
			query.Set(key, masked)
		}
	}
	return u.EscapedPath() + "?" + query.Encode()
}

// address is where the request comes from: what proxies say of it is believed if they are ours.
func (l *Log) address(r *http.Request) string {
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		address, err := netip.ParseAddr(peer)
		if err != nil || !slices.ContainsFunc(l.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(address.Unmap()) }) {
			break
		}
		if next, err := netip.ParseAddr(strings.TrimSpace(hop)); err == nil {
			peer = next.Unmap().String()
		} else {
			break
		}
	}
	return peer
}

// readAhead reads a body, as far as one may be large, so that the intent can name what is created. The handler reads
// the same again.
func readAhead(w http.ResponseWriter, r *http.Request) []byte {
	if r.Body == nil || r.ContentLength == 0 || r.Header.Get("Upgrade") != "" {
		return nil
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(rest.RequestTimeout)) // a recorder in a test has none
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	var buffer bytes.Buffer
	_, err := io.Copy(&buffer, io.LimitReader(r.Body, rest.MaxBody+1))
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failing{err}
	}
	body := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(buffer.Bytes()), rest), body}
	return buffer.Bytes()
}

// failing gives the error that reading ahead met.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// named is what every object says of itself.
type named struct {
	Metadata struct {
		Name            string `json:"name"`
		GenerateName    string `json:"generateName"`
		Namespace       string `json:"namespace"`
		UID             string `json:"uid"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

func nameOf(state []byte) (n named) {
	_ = json.Unmarshal(state, &n) // what cannot be read has no name
	return n
}
