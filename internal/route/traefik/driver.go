// Package traefik drives one Traefik: it writes the one file that Traefik watches, runs Traefik with a small plugin for
// what it does not do by itself, probes the servers, and asks Traefik what it serves.
package traefik

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"yunfan.io/yunfan/internal/route/edge"
	"yunfan.io/yunfan/internal/route/probe"
	"yunfan.io/yunfan/internal/route/table"
)

// driver brings tables to one Traefik.
type driver struct {
	settings edge.Settings
	program  *program
	ask      *asker
	prober   *probe.Prober
	// changed says that servers went down or came up.
	changed chan struct{}

	mu sync.Mutex
	// table is the newest one that was taken over; nil before the first.
	table       *table.Table
	generation  string
	unsupported []string
	problem     string
	written     []byte
}

var _ edge.New = New

// New makes a driver of a Traefik of its own, which begins with the first table.
func New(ctx context.Context, s edge.Settings) (edge.Driver, error) {
	if s.HTTP == "" && s.HTTPS == "" {
		return nil, errors.New("traefik needs an address at which requests arrive")
	}
	path, err := find(s.Program)
	if err != nil {
		return nil, err
	}
	if err := install(s.Dir); err != nil {
		return nil, err
	}
	d := &driver{settings: s, changed: make(chan struct{}, 1)}
	d.program = &program{path: path, settings: s}
	d.ask = newAsker(s)
	d.prober = probe.New(func() {
		select {
		case d.changed <- struct{}{}:
		default:
		}
	})
	go d.prober.Run(ctx)
	go d.follow(ctx)
	return d, nil
}

// follow writes the configuration anew when servers went down or came up.
func (d *driver) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.changed:
			d.mu.Lock()
			if d.table != nil {
				if err := d.write(d.table, d.generation); err != nil {
					d.settings.Log.ErrorContext(ctx, "Traefik's configuration could not be written", "error", err)
				}
			}
			d.mu.Unlock()
		}
	}
}

// Apply makes the table what Traefik should serve.
func (d *driver) Apply(_ context.Context, t *table.Table) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problem = ""
	if err := d.apply(t); err != nil {
		d.problem = err.Error()
		return err
	}
	return nil
}

func (d *driver) apply(t *table.Table) error {
	generation, err := t.Generation()
	if err != nil {
		return err
	}
	usable, left := t.Usable()
	d.prober.Set(usable)
	if err := d.write(usable, generation); err != nil {
		return err
	}
	d.table, d.generation, d.unsupported = usable, generation, left
	return d.program.start()
}

// write puts the file in place of the former one, if it differs.
func (d *driver) write(t *table.Table, generation string) error {
	port := ""
	if d.settings.HTTPS != "" {
		_, port, _ = net.SplitHostPort(d.settings.HTTPS)
	}
	r := &renderer{down: d.prober.Down, httpsPort: port}
	content, err := r.render(t, generation)
	if err != nil {
		return err
	}
	if bytes.Equal(content, d.written) {
		return nil
	}
	if err := replace(filepath.Join(d.settings.Dir, fileName), content); err != nil {
		return err
	}
	d.written = content
	return nil
}

// replace writes a file that nobody ever sees half of. It holds keys.
func replace(name string, content []byte) error {
	if err := os.WriteFile(name+".new", content, 0o600); err != nil {
		return fmt.Errorf("writing Traefik's configuration: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("putting Traefik's configuration in place: %w", err)
	}
	return nil
}
