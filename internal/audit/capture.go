package audit

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"sync/atomic"
)

const (
	// maxCaptured is the largest answer whose object is read: objects are at most 1.5 MiB in etcd.
	maxCaptured = 3 << 20
	// capturedBudget bounds the memory of all answers that are being read, in bytes.
	capturedBudget = 64 << 20
)

// capturing is how much of it is in use.
var capturing atomic.Int64

// recorder passes an answer on and keeps its code, and a copy of its body unless that is a stream.
type recorder struct {
	http.ResponseWriter
	code int
	keep bool // the body is wanted
	body bytes.Buffer
	lost bool // it was too large
}

// WriteHeader passes the answer's code on.
func (r *recorder) WriteHeader(code int) {
	if r.code == 0 || r.code < http.StatusOK {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Write passes a part of the body on.
func (r *recorder) Write(b []byte) (int, error) {
	if r.code < http.StatusOK {
		r.code = http.StatusOK
	}
	r.copy(b)
	return r.ResponseWriter.Write(b)
}

func (r *recorder) copy(b []byte) {
	if !r.keep || r.lost {
		return
	}
	if r.body.Len()+len(b) > maxCaptured || capturing.Load()+int64(len(b)) > capturedBudget {
		r.release()
		r.lost = true
		return
	}
	capturing.Add(int64(len(b)))
	r.body.Write(b)
}

// release gives the memory back.
func (r *recorder) release() {
	capturing.Add(-int64(r.body.Len()))
	r.body = bytes.Buffer{}
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Hijack hands the connection over, for exec, attach and port-forward.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.code = http.StatusSwitchingProtocols
	}
	return conn, buffer, err
}
