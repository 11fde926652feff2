package audit

import (
	"sync"
	"time"
)

const (
	// perMinute is how many refusals of one user at one address have a row of their own in a minute; the rest are
	// counted in the next row. Somebody who guesses fills no disk.
	perMinute = 60
	// maxSources are told apart; beyond them all others are one.
	maxSources = 4096
)

// refusals counts refusals by source.
type refusals struct {
	mu      sync.Mutex
	minute  int64
	sources map[string]*source
}

type source struct{ rows, suppressed int }

// take says whether a refusal gets a row, and how many before it did not.
func (r *refusals) take(key string) (row bool, suppressed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.source(key)
	if s.rows >= perMinute {
		s.suppressed++
		return false, 0
	}
	s.rows++
	suppressed, s.suppressed = s.suppressed, 0
	return true, suppressed
}

// room says whether a source has rows left, and takes one.
func (r *refusals) room(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.source(key)
	if s.rows >= perMinute {
		return false
	}
	s.rows++
	return true
}

func (r *refusals) source(key string) *source {
	if minute := time.Now().Unix() / int64(time.Minute/time.Second); minute != r.minute || r.sources == nil {
		kept := map[string]*source{}
		for key, s := range r.sources {
			if s.suppressed > 0 {
				kept[key] = &source{suppressed: s.suppressed}
			}
		}
		r.minute, r.sources = minute, kept
	}
	if _, known := r.sources[key]; !known && len(r.sources) >= maxSources {
		key = ""
	}
	if r.sources[key] == nil {
		r.sources[key] = &source{}
	}
	return r.sources[key]
}
