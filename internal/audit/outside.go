package audit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"yunfan.io/yunfan/internal/record"
)

// Outside is the audit of a process that is no server, such as the registry: it opens the records when there is
// something to write for the first time, so that a database that is away holds up nothing else.
type Outside struct {
	// Location of the records, and the name of the chain.
	Location, Name string
	Log            logr.Logger

	mu     sync.Mutex
	db     *record.Database
	writer *Writer
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// Begin writes an intent. Nothing may be done if it fails; otherwise end is called with the result.
func (o *Outside) Begin(ctx context.Context, intent Intent) (end func(Outcome), err error) {
	writer, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	intent.Time = time.Now().UnixMilli()
	row, err := writer.Begin(ctx, intent)
	if err != nil {
		return nil, err
	}
	return func(outcome Outcome) {
		outcome.Time, outcome.Result = time.Now().UnixMilli(), resultOf(outcome.Code)
		writer.End(row, outcome)
	}, nil
}

func (o *Outside) open(ctx context.Context) (*Writer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writer != nil {
		return o.writer, nil
	}
	db, err := record.Open(ctx, o.Location)
	if err != nil {
		return nil, err
	}
	writer, err := NewWriter(ctx, db, o.Name, o.Log)
	if err != nil {
		_ = db.Close() // the first error counts
		return nil, err
	}
	tending, stop := context.WithCancel(context.WithoutCancel(ctx))
	o.db, o.writer, o.stop = db, writer, stop
	o.ended.Go(func() {
		ticker := time.NewTicker(tendTime)
		defer ticker.Stop()
		for {
			select {
			case <-tending.Done():
				return
			case <-ticker.C:
				if err := writer.tend(tending); err != nil && tending.Err() == nil {
					o.Log.Error(err, "Audit is not looked after: it is tried again")
				}
			}
		}
	})
	return writer, nil
}

// Close ends the chain, if there is one. Nothing may begin any more.
func (o *Outside) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writer == nil {
		return nil
	}
	o.stop()
	o.ended.Wait()
	err := o.writer.Close()
	if closing := o.db.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("ending audit: %w", err)
	}
	return nil
}
