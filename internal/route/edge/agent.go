package edge

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"yunfan.io/yunfan/internal/route/table"
)

const (
	tableFile = "table.json"
	tokenFile = "token"
	// applyTimeout bounds one attempt to bring a table to the driver.
	applyTimeout = 2 * time.Minute
	// lookAgain is how often the driver gets the table that it has, so that what went astray comes back.
	lookAgain = 30 * time.Second
	// shortestToken is what a token must have, in characters.
	shortestToken = 16
)

// Options are what `yunfan edge` was called with.
type Options struct {
	// Dir is where everything is kept: the table, the token, the interface's certificate, the load balancer's files.
	Dir string
	// Driver is the name of one of Drivers.
	Driver  string
	Drivers map[string]New
	// Listen is the address of the interface.
	Listen string
	// HTTP and HTTPS are where requests arrive.
	HTTP, HTTPS string
	// TokenFile holds the token; one is made in Dir if empty.
	TokenFile string
	// Program is the load balancer's program, if it is not where it usually is.
	Program string
	// Drain is how long requests may still take when the program is asked to end.
	Drain time.Duration
	Log   *slog.Logger
}

// agent brings tables to one driver.
type agent struct {
	dir    string
	token  string
	driver Driver
	log    *slog.Logger
	wake   chan struct{}

	mu      sync.Mutex
	table   *table.Table
	problem string // why the driver did not take the newest table
}

// Run runs a load balancer and the interface that the hub speaks to, until ctx ends.
func Run(ctx context.Context, o Options) error {
	a, err := newAgent(ctx, o)
	if err != nil {
		return err
	}
	certificate, err := serving(o.Dir, o.Listen)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("opening the edge's interface: %w", err)
	}
	holding, stopHolding := context.WithCancel(ctx)
	defer stopHolding()
	held := make(chan struct{})
	go func() {
		defer close(held)
		a.hold(holding)
	}()
	server := a.server(certificate)
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	o.Log.Info("edge is up", "driver", o.Driver, "interface", listener.Addr().String(), "http", o.HTTP, "https", o.HTTPS)
	select {
	case err = <-served:
		err = fmt.Errorf("serving the edge's interface: %w", err)
	case <-ctx.Done():
	}
	stopHolding()
	<-held
	err = errors.Join(err, a.drain(o.Drain)) // the hub can look while it drains
	return errors.Join(err, server.Close())
}

func newAgent(ctx context.Context, o Options) (*agent, error) {
	newDriver, known := o.Drivers[o.Driver]
	if !known {
		return nil, fmt.Errorf("there is no driver %q: choose one of %s", o.Driver, strings.Join(slices.Sorted(maps.Keys(o.Drivers)), ", "))
	}
	if o.HTTP == "" && o.HTTPS == "" {
		return nil, errors.New("an edge needs an address for requests: give --http, --https, or both")
	}
	dir := filepath.Join(o.Dir, o.Driver)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the edge's folder: %w", err)
	}
	a := &agent{dir: o.Dir, log: o.Log, wake: make(chan struct{}, 1)}
	var err error
	if a.token, err = token(o.Dir, o.TokenFile); err != nil {
		return nil, err
	}
	if a.table, err = kept(o.Dir); err != nil {
		// Better an edge that waits for the hub than none.
		o.Log.Error("the table that was kept cannot be read: the edge begins with an empty one", "error", err)
		a.table = &table.Table{}
	}
	a.driver, err = newDriver(ctx, Settings{Dir: dir, HTTP: o.HTTP, HTTPS: o.HTTPS, Program: o.Program, Log: o.Log})
	return a, err
}

// kept is the table that was served last; an empty one if there was none.
func kept(dir string) (*table.Table, error) {
	content, err := os.ReadFile(filepath.Join(dir, tableFile))
	if errors.Is(err, fs.ErrNotExist) {
		return &table.Table{}, nil
	}
	t := &table.Table{}
	if err == nil {
		err = json.Unmarshal(content, t)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the table that was kept: %w", err)
	}
	return t, nil
}

// token reads the interface's token, or makes one.
func token(dir, file string) (string, error) {
	path := file
	if path == "" {
		path = filepath.Join(dir, tokenFile)
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && file == "" {
		const size = 32
		random := make([]byte, size)
		if _, err := rand.Read(random); err != nil {
			return "", fmt.Errorf("making the edge's token: %w", err)
		}
		content = []byte(base64.RawURLEncoding.EncodeToString(random))
		err = replace(path, append(content, '\n'))
	}
	if err != nil {
		return "", fmt.Errorf("reading the edge's token: %w", err)
	}
	text := strings.TrimSpace(string(content))
	if len(text) < shortestToken {
		return "", fmt.Errorf("the token in %s is too short: %d characters are the least", path, shortestToken)
	}
	return text, nil
}

// replace writes a file that is whole at any time, and that nobody else may read.
func replace(path string, content []byte) error {
	part := path + ".part"
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// take keeps a table and hands it to the driver.
func (a *agent) take(t *table.Table) error {
	content, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("keeping the table: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := replace(filepath.Join(a.dir, tableFile), content); err != nil {
		return fmt.Errorf("keeping the table: %w", err)
	}
	a.table = t
	select {
	case a.wake <- struct{}{}:
	default: // it is awake already, and takes the newest
	}
	return nil
}

// hold brings the newest table to the driver, again and again.
func (a *agent) hold(ctx context.Context) {
	pause := firstPause
	for {
		wait := lookAgain
		if err := a.bring(ctx); err != nil {
			a.log.Error("the driver did not take the table", "error", err)
			wait, pause = pause, min(2*pause, mostPause)
		} else {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
			pause = firstPause
		case <-time.After(wait):
		}
	}
}

func (a *agent) bring(ctx context.Context) error {
	a.mu.Lock()
	newest := a.table
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	err := a.driver.Apply(ctx, newest)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.problem = ""
	if err != nil {
		a.problem = err.Error()
	}
	return err
}

// state is what the driver says, and what the agent knows beyond that.
func (a *agent) state(ctx context.Context) (*table.State, error) {
	state, err := a.driver.State(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.problem != "" {
		state.Problem = a.problem
	}
	return state, nil
}

// drain ends the load balancer.
func (a *agent) drain(patience time.Duration) error {
	closer, ok := a.driver.(Closer)
	if !ok {
		return nil
	}
	a.log.Info("edge ends: what is under way may take", "patience", patience.String())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return closer.Close(ctx)
}
