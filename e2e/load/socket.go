package load

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	opcodeText  = 1
	opcodeClose = 8
	// maxFrame bounds one message, in bytes.
	maxFrame = 64 << 10
	// beat is how often a word is sent over a WebSocket.
	beat = 500 * time.Millisecond
)

// Socket is a WebSocket over which a word goes to the server and back, twice a second.
type Socket struct {
	// Who is at the other end.
	Who Who

	conn *connection
	done chan struct{}

	mu     sync.Mutex
	echoes int
	code   int
	err    error
	ended  time.Time
}

// WebSocket opens one.
func (l *Load) WebSocket(path string) (*Socket, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.config.Timeout)
	defer cancel()
	c, err := l.pool.dial(ctx)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 16)
	rand.Read(key)
	deadline, _ := ctx.Deadline()
	err = c.SetDeadline(deadline)
	if err == nil {
		_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
			path, l.config.Host, base64.StdEncoding.EncodeToString(key))
	}
	var response *http.Response
	if err == nil {
		response, err = c.response(http.MethodGet)
	}
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New("the answer is " + response.Status)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("opening a WebSocket: %w", err)
	}
	h := response.Header
	s := &Socket{conn: c, done: make(chan struct{}), Who: Who{Version: h.Get(HeaderVersion), Partition: h.Get(HeaderPartition), Pod: h.Get(HeaderPod)}}
	go s.talk(l.config.Timeout)
	return s, nil
}

// talk sends and receives until one side ends it.
func (s *Socket) talk(timeout time.Duration) {
	defer close(s.done)
	defer s.conn.Close()
	for {
		s.conn.limit.N = maxAnswer
		err := s.conn.SetDeadline(time.Now().Add(timeout))
		if err == nil {
			err = writeFrame(s.conn, opcodeText, []byte("word"))
		}
		if err != nil {
			s.end(0, fmt.Errorf("send: %w", err))
			return
		}
		opcode, content, err := readFrame(s.conn.read)
		switch {
		case err != nil:
			s.end(0, fmt.Errorf("answer: %w", err))
			return
		case opcode == opcodeClose:
			code := 1005 // none was said
			if len(content) >= 2 {
				code = int(binary.BigEndian.Uint16(content))
			}
			s.end(code, nil)
			_ = writeFrame(s.conn, opcodeClose, content) // it is over in any case
			return
		}
		s.mu.Lock()
		s.echoes++
		s.mu.Unlock()
		if !s.pause() {
			return
		}
	}
}

// pause waits for the next beat, or for the server's word that it wants to end.
func (s *Socket) pause() bool {
	if err := s.conn.SetReadDeadline(time.Now().Add(beat)); err != nil {
		s.end(0, err)
		return false
	}
	_, err := s.conn.read.Peek(1)
	var timeout interface{ Timeout() bool }
	if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		s.end(0, fmt.Errorf("answer: %w", err))
		return false
	}
	return true
}

func (s *Socket) end(code int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.err, s.ended = code, err, time.Now()
}

// Echoes is how many words came back until now.
func (s *Socket) Echoes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.echoes
}

// Ended says when it ended, and how: with the code by which the server closed it in peace, such as 1001 for going away,
// or with the error that broke it. ok is false while it lives.
func (s *Socket) Ended() (at time.Time, code int, err error, ok bool) { //nolint:revive // an error that is data, not a failure of this
	select {
	case <-s.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.ended, s.code, s.err, true
	default:
		return time.Time{}, 0, nil, false
	}
}

// Close ends it from this side.
func (s *Socket) Close() {
	s.conn.Close()
	<-s.done
}

// writeFrame sends a whole message, masked as clients must.
func writeFrame(w io.Writer, opcode byte, content []byte) error {
	frame := []byte{0x80 | opcode, 0x80 | byte(len(content))} // short ones only
	mask := [4]byte{}
	rand.Read(mask[:])
	frame = append(frame, mask[:]...)
	for i, b := range content {
		frame = append(frame, b^mask[i%4])
	}
	_, err := w.Write(frame)
	return err
}

// readFrame reads a whole message of a server.
func readFrame(r *bufio.Reader) (opcode byte, content []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1] & 0x7f)
	if size >= 126 {
		extended := make([]byte, map[uint64]int{126: 2, 127: 8}[size])
		if _, err := io.ReadFull(r, extended); err != nil {
			return 0, nil, err
		}
		size = 0
		for _, b := range extended {
			size = size<<8 | uint64(b)
		}
	}
	if size > maxFrame {
		return 0, nil, fmt.Errorf("a message of %d bytes is too long", size)
	}
	content = make([]byte, size)
	_, err = io.ReadFull(r, content)
	return head[0] & 0x0f, content, err
}
