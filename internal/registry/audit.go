package registry

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Change is an image that is put or deleted.
type Change struct {
	// User is the machine's user at the other end of the push socket; empty for an address of the network.
	User, Address, UserAgent string
	Method, Path             string
	// Repository and Reference, a tag or digest, name the image.
	Repository, Reference string
}

// Audit writes down that an image is about to be changed. Nothing is changed if it fails; otherwise end is called with
// the answer's code and the image's digest.
type Audit func(ctx context.Context, change Change) (end func(code int, digest string), err error)

// audited has every change of an image written down before it is made. Blobs alone change no image.
func audited(audit Audit, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repository, reference, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		if audit == nil || !ok || r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		change := Change{UserAgent: r.UserAgent(), Method: r.Method, Path: r.URL.Path, Repository: repository, Reference: reference, Address: r.RemoteAddr}
		change.User, _ = r.Context().Value(peerKey{}).(string)
		end, err := audit(r.Context(), change)
		if err != nil {
			unavailable(w, "the image was not changed, because its audit cannot be written: "+err.Error())
			return
		}
		status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { end(status.status, w.Header().Get("Docker-Content-Digest")) }()
		next.ServeHTTP(status, r)
	})
}

func unavailable(w http.ResponseWriter, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	if err := json.NewEncoder(w).Encode(map[string][]entry{"errors": {{"UNAVAILABLE", message}}}); err != nil {
		return // the client hung up
	}
}

type peerKey struct{}

// withPeer finds out which of the machine's users opened the push socket.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	if limited, ok := conn.(*limitedConn); ok {
		conn = limited.Conn
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return ctx
	}
	name := ""
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return
		}
		name = strconv.Itoa(int(peer.Uid))
		if known, err := user.LookupId(name); err == nil {
			name = known.Username
		}
	})
	if err != nil || name == "" {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, name)
}
