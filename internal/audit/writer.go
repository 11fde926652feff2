package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"yunfan.io/yunfan/internal/record"
)

const (
	// queueLength is how many links wait to be written; more wait outside of it, for intentTime.
	queueLength = 4096
	// maxBatch links, and about maxBatchBytes, are written in one transaction.
	maxBatch      = 512
	maxBatchBytes = 8 << 20
	// intentTime is how long a request waits for its intent to be on disk before it is refused.
	intentTime = 5 * time.Second
	// commitTime bounds one transaction.
	commitTime = 12 * time.Second
	// retryTime is the pause while the database does not take rows.
	retryTime = 500 * time.Millisecond
	// outcomeMemory bounds the results that are kept while the database does not take rows. No request begins then,
	// so there are at most as many as were under way.
	outcomeMemory = 8192
)

// Writer writes rows, in one chain of its own. All methods may be called at once by many.
type Writer struct {
	db   *record.Database
	name string
	log  logr.Logger

	queue  chan *entry
	ended  chan struct{} // closed when the last link is written
	ending chan struct{} // closed to end
	once   sync.Once

	// Only run and those it calls use these.
	chain   chain
	unsure  []*entry // of a transaction whose end is not known
	wanted  []byte   // the head if it was committed
	lastID  int64
	failing bool

	head    atomic.Pointer[Head]
	written func(Head)
}

// Head is the newest link of a writer's chain.
type Head struct {
	Writer int64
	Seq    int64
	Hash   []byte
}

// chain is the state of a writer's chain.
type chain struct {
	writer, seq int64
	hash        []byte
}

// entry is one link to be written. Both kinds have the row's id, which an intent is given when it is written.
type entry struct {
	row     *open
	outcome *Outcome // nil for an intent
	text    []byte
	done    chan error // with a place for the answer; nil if nobody waits
	state   atomic.Int32
}

// Who waits for an intent, and what he was told.
const (
	waiting int32 = iota
	told
	left
)

// open is a row that was begun.
type open struct {
	id     int64
	intent Intent
	text   []byte // of the intent
}

// NewWriter begins a chain named name, such as the place of the server. Rows that a writer of the same name left open
// get the result Unknown: it has ended, since this one has its place.
func NewWriter(ctx context.Context, db *record.Database, name string, log logr.Logger) (*Writer, error) {
	if err := db.Migrate(ctx, Migrations()...); err != nil {
		return nil, fmt.Errorf("making the tables of audit: %w", err)
	}
	w := &Writer{
		db: db, name: name, log: log,
		queue: make(chan *entry, queueLength), ended: make(chan struct{}), ending: make(chan struct{}),
		written: func(Head) {},
	}
	if err := w.register(ctx); err != nil {
		return nil, fmt.Errorf("beginning the audit of %s: %w", name, err)
	}
	go w.run()
	if err := w.closeOpen(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("closing the rows of a server that was killed: %w", err), w.Close())
	}
	return w, nil
}

// Begin writes an intent. When it returns without an error the intent is on disk; otherwise nothing may be done.
func (w *Writer) Begin(ctx context.Context, intent Intent) (*open, error) {
	intent.bounded()
	row := &open{intent: intent, text: encode(intent)}
	e := &entry{row: row, text: row.text, done: make(chan error, 1)}
	timer := time.NewTimer(intentTime)
	defer timer.Stop()
	select {
	case w.queue <- e:
	case <-w.ending:
		return nil, errors.New("the server is stopping")
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, errors.New("the records database takes rows too slowly")
	}
	select {
	case err := <-e.done:
		return row, err
	case <-ctx.Done():
		return row, e.leave(ctx.Err())
	case <-timer.C:
		return row, e.leave(errors.New("the records database takes rows too slowly"))
	}
}

// leave gives up waiting, unless the answer came in the same moment.
func (e *entry) leave(err error) error {
	if e.state.CompareAndSwap(waiting, left) {
		return err
	}
	return <-e.done
}

// tell gives the answer to whoever waits; false if he has left.
func (e *entry) tell(err error) bool {
	if !e.state.CompareAndSwap(waiting, told) {
		return false
	}
	if e.done != nil {
		e.done <- err
	}
	return true
}

// End writes the result of a row. It returns once the result is in the queue, which keeps it until it is on disk or
// the server ends.
func (w *Writer) End(row *open, outcome Outcome) {
	outcome.bounded()
	select {
	case w.queue <- &entry{row: row, outcome: &outcome, text: encode(outcome)}:
	case <-w.ended:
	}
}

// Close writes what is in the queue, as long as the database takes it, and ends the chain.
func (w *Writer) Close() error {
	w.once.Do(func() { close(w.ending) })
	<-w.ended
	ctx, cancel := context.WithTimeout(context.Background(), commitTime)
	defer cancel()
	err := w.db.Update(ctx, func(tx *record.Tx) error {
		return tx.Exec(ctx, `UPDATE audit_writers SET ended = `+clock(tx.Dialect())+` WHERE id = ? AND ended IS NULL`, w.chain.writer)
	})
	if err != nil {
		return fmt.Errorf("ending the audit of %s: %w", w.name, err)
	}
	return nil
}

// Head is the newest link that is on disk.
func (w *Writer) Head() Head { return *w.head.Load() }

// run writes batches until the writer is closed: everything that came while one was written is the next one.
func (w *Writer) run() {
	defer close(w.ended)
	var kept []*entry // results that could not be written
	for {
		batch, ending := w.collect(kept)
		kept = nil
		if len(batch) == 0 && ending {
			return
		}
		err := w.write(batch)
		if err != nil {
			err = w.write(batch) // a connection that was lost, or a database that was started again
		}
		if w.failing != (err != nil) {
			w.failing = err != nil
			if w.failing {
				w.log.Error(err, "No row of audit can be written: writes are refused until it is put right")
			} else {
				w.log.Info("Rows of audit are written again")
			}
		}
		if err == nil {
			continue
		}
		for _, e := range batch {
			if e.outcome == nil {
				e.tell(err)
			} else if len(kept) < outcomeMemory {
				kept = append(kept, e)
			}
		}
		if ending {
			return // the successor says that these results are unknown
		}
		pause := time.NewTimer(retryTime)
		select {
		case <-pause.C:
		case <-w.ending:
			pause.Stop()
		}
	}
}

// collect takes what is in the queue, and waits for something if it is empty.
func (w *Writer) collect(batch []*entry) (_ []*entry, ending bool) {
	size := 0
	take := func(e *entry) {
		batch = append(batch, e)
		size += len(e.text)
		if e.outcome != nil {
			size += len(e.outcome.Before) + len(e.outcome.After)
		}
	}
	if len(batch) == 0 {
		select {
		case e := <-w.queue:
			take(e)
		case <-w.ending:
			ending = true
		}
	}
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case e := <-w.queue:
			take(e)
			continue
		default:
		}
		break
	}
	select {
	case <-w.ending:
		ending = true
	default:
	}
	return batch, ending
}
