package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"time"
)

// shutdownTime is how long requests under way may take to end when the server stops.
const shutdownTime = 10 * time.Second

// Server listens on one address. Every replica of the platform runs it, leader or not.
type Server struct {
	Listener net.Listener
	Handler  http.Handler
	// Certificate gives the server's certificate; plain HTTP if nil.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// NeedLeaderElection says that every replica serves.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends, then lets requests under way end.
func (s *Server) Start(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    128 << 10,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:          quiet(),
	}
	listener := s.Listener
	if s.Certificate != nil {
		// Certificates of clients are looked at by the Authenticator, whose CA may change while we run.
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, GetCertificate: s.Certificate, NextProtos: []string{"h2", "http/1.1"}}
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving on %s: %w", s.Listener.Addr(), err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := server.Shutdown(last); errors.Is(err, context.DeadlineExceeded) {
		return server.Close() // streams such as watches and logs have no end of their own
	} else if err != nil {
		return fmt.Errorf("stopping to serve on %s: %w", s.Listener.Addr(), err)
	}
	return nil
}

// quiet drops what net/http says of broken handshakes: any port scan would fill the log.
func quiet() *stdlog.Logger { return stdlog.New(io.Discard, "", 0) }
