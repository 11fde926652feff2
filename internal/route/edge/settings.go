package edge

import (
	"context"
	"log/slog"
)

// Settings are what a driver of `yunfan edge` is made with.
type Settings struct {
	// Dir is the driver's own folder, of mode 0700: its configuration, sockets and certificates. What was in it at the last
	// start is still there.
	Dir string
	// HTTP and HTTPS are the addresses that requests arrive at, like 198.18.0.1:80; an empty one is not listened at.
	HTTP, HTTPS string
	// Program is the load balancer's program; the driver looks for it where it usually is if empty.
	Program string
	// Log is told what the program prints, and when it is restarted.
	Log *slog.Logger
}

// New makes a driver; every driver that `yunfan edge` knows has a function New of this type. It answers soon and needs
// not have started the program: Apply, which the agent calls at once with the table that was kept, or with an empty one,
// starts it and is called again until it succeeds. The driver starts the program again if it dies (Process does that).
// What a driver cannot do of a table it leaves out and names in State.Unsupported; one pool never costs the others.
type New func(ctx context.Context, s Settings) (Driver, error)

// Closer is a Driver whose program can be stopped in peace: nothing new is accepted, what is under way ends until ctx
// ends, and then the program is gone. The agent calls it last.
type Closer interface {
	Driver
	Close(ctx context.Context) error
}
