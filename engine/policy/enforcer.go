package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"yunfan.io/engine/policy/attach"
	"yunfan.io/engine/policy/kernel"
	"yunfan.io/engine/policy/rules"
)

const (
	// patience is how long a pod that the API server has not told of yet is waited for.
	patience = 8 * time.Second
	// The pause before a failed write is tried again, growing.
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	maxRequest = 4 << 10 // bytes
)

// enforcer puts the model's rules in force and answers the CNI plugin.
type enforcer struct {
	folder attach.Folder
	model  *rules.Model
	kernel *kernel.Kernel
	log    *slog.Logger

	mu      sync.Mutex
	written uint64        // number of the last change written
	changed chan struct{} // closed and replaced with each
}

// write puts every change in force until the context ends. While one is being written the next ones gather.
func (e *enforcer) write(ctx context.Context) {
	pause := firstPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.model.Changed:
		}
		begun := time.Now()
		change := e.model.Take()
		if err := e.kernel.Write(ctx, change); err != nil {
			if ctx.Err() != nil {
				return
			}
			e.log.Error("rules stay as they were", "error", err, "again", pause)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, maxPause)
			e.model.Distrust()
			continue
		}
		pause = firstPause
		if !change.Empty() {
			e.log.Info("rules written", "sets", len(change.Sets), "chains", len(change.Chains), "gone", len(change.GoneSets)+len(change.GoneChains),
				"all", change.All, "took", time.Since(begun).Round(time.Microsecond))
		}
		e.mu.Lock()
		e.written = change.Number
		close(e.changed)
		e.changed = make(chan struct{})
		e.mu.Unlock()
	}
}

// inForce waits until the sandbox's pod is known and its rules are written.
func (e *enforcer) inForce(ctx context.Context, id string) error {
	need := uint64(0)
	for {
		e.mu.Lock()
		written, changed := e.written, e.changed
		e.mu.Unlock()
		if need > 0 && written >= need {
			return nil
		}
		if need == 0 {
			if known, number := e.model.Attached(id); known {
				need = number
				continue
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// listen answers the plugin on the folder's socket until the context ends.
func (e *enforcer) listen(ctx context.Context) error {
	path := e.folder.Socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the old socket: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /sandboxes/{id}", e.add)
	mux.HandleFunc("DELETE /sandboxes/{id}", e.remove)
	server := &http.Server{Handler: mux, ReadTimeout: patience, WriteTimeout: 2 * patience, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// add takes a new sandbox and answers when its pod's rules are in force.
func (e *enforcer) add(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var s attach.Sandbox
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&s)
	if err != nil || s.Pod == "" || !s.Address.Is4() {
		http.Error(w, "a sandbox has a pod and an IPv4 address", http.StatusBadRequest)
		return
	}
	if err := e.folder.Remember(id, s); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	e.model.Attach(id, s.Pod, s.Address)
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	begun := time.Now()
	if err := e.inForce(ctx, id); err != nil {
		http.Error(w, fmt.Sprintf("no rules for pod %s (%s) after %s: does the API server answer, and does it know the pod?", s.Name, s.Pod, patience), http.StatusGatewayTimeout)
		return
	}
	e.log.Info("pod attached", "pod", s.Name, "address", s.Address, "after", time.Since(begun).Round(time.Microsecond))
}

// remove forgets a sandbox; that it is not known is no fault.
func (e *enforcer) remove(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if err := e.folder.Forget(id); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	e.model.Detach(id)
}

// restore gives the model the sandboxes that were attached before this process started.
func (e *enforcer) restore() error {
	recorded, err := e.folder.Recorded()
	if err != nil {
		return err
	}
	for id, s := range recorded {
		e.model.Attach(id, s.Pod, s.Address)
	}
	return nil
}

// run enforces policies until the context ends. Nothing is written before everything was seen once: until then the rules
// of the process before stay.
func run(ctx context.Context, node, kubeconfig, uplink string, pods netip.Prefix, log *slog.Logger) error {
	k, err := kernel.Open(uplink)
	if err != nil {
		return err
	}
	e := &enforcer{folder: attach.Dir, model: rules.New(node, pods, uplink), kernel: k, log: log, changed: make(chan struct{})}
	if err := os.MkdirAll(string(e.folder), 0o700); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	if err := e.restore(); err != nil {
		return err
	}
	synced, err := watch(ctx, kubeconfig, e.model, log)
	if err != nil {
		return err
	}
	if err := synced(ctx); err != nil {
		return nil // told to end before the API server answered
	}
	go e.write(ctx)
	first, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := e.settled(first); err != nil {
		return fmt.Errorf("writing the first rules: %w", err)
	}
	return e.listen(ctx)
}

// settled waits for the first write.
func (e *enforcer) settled(ctx context.Context) error {
	for {
		e.mu.Lock()
		written, changed := e.written, e.changed
		e.mu.Unlock()
		if written > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
