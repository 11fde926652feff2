package audit

import (
	"context"
	"errors"
	"time"
)

// Start anchors, tends and removes what is too old until ctx ends; then it waits for the requests under way, and
// anchors for the last time.
func (l *Log) Start(ctx context.Context) error {
	anchor, tend, clean := time.NewTicker(anchorTime/anchorChecks), time.NewTicker(tendTime), time.NewTicker(retentionTime)
	defer anchor.Stop()
	defer tend.Stop()
	defer clean.Stop()
	var anchored Head
	var at time.Time
	for {
		var err error
		select {
		case <-ctx.Done():
			return l.stop()
		case <-anchor.C:
			head := l.writer.Head()
			due := head.Writer != anchored.Writer || anchored.Seq == 0 && head.Seq > 0 || head.Seq-anchored.Seq >= anchorRows || time.Since(at) >= anchorTime
			if !due {
				continue
			}
			if err = l.anchor(ctx, head, anchored); err == nil {
				anchored, at = head, time.Now()
			}
		case <-tend.C:
			err = l.writer.tend(ctx)
		case <-clean.C:
			err = l.clean(ctx, time.Now())
		}
		if err != nil && ctx.Err() == nil {
			l.log.Error(err, "Audit is not looked after: it is tried again")
		}
	}
}

// anchorChecks is how often in anchorTime it is looked whether a head has moved far.
const anchorChecks = 20

func (l *Log) anchor(ctx context.Context, head, anchored Head) error {
	others, err := l.anchors.heads(ctx, head.Writer)
	if err != nil {
		return err
	}
	if head.Writer != anchored.Writer || head.Seq != anchored.Seq {
		others = append(others, head)
	}
	if len(others) == 0 {
		return nil
	}
	return l.anchors.Set(ctx, others...)
}

func (l *Log) stop() error {
	drained := make(chan struct{})
	go func() {
		l.underWay.Wait()
		close(drained)
	}()
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
	err := l.writer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), beforeTime)
	defer cancel()
	return errors.Join(err, l.anchors.Set(ctx, l.writer.Head()))
}
