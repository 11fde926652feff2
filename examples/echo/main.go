// Command echo is a small program of many uses for trying out a platform: a web server that says what it was asked and
// who answered, and the few commands that one wants inside a container that has no shell.
//
// It is called by the name of a command (a symbolic link) or as "echo COMMAND ARGUMENT…".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// exitCode ends the program with that code and says nothing.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

type command struct {
	usage string
	run   func(ctx context.Context, args []string, out io.Writer) error
}

// commandList is a function because "sh" and "help" look into it again.
func commandList() map[string]command {
	return map[string]command{
		"serve":    {"[--http :8080] [--tcp ADDR] [--udp ADDR] [--start-after 0s] [--ready-after 0s] [--graceful=true]  answer requests until SIGTERM", serve},
		"cat":      {"FILE…                 show files", cat},
		"ls":       {"[DIR…]                list folders", list},
		"write":    {"FILE TEXT…            write a file and store it safely", write},
		"nslookup": {"NAME                  look up addresses", lookup},
		"get":      {"URL [HEADER:VALUE…]   show status and body of a page; exits 1 unless it is 2xx or 3xx", get},
		"dial":     {"tcp|udp HOST:PORT [TEXT]   send a line and show one that comes back", dial},
		"reach":    {"tcp|udp://HOST:PORT… say which of many addresses answer, once or as it changes", reach},
		"env":      {"                      show the environment", environment},
		"print":    {"TEXT…                 show words", printWords},
		"sleep":    {"DURATION              wait, as in 1m30s or 90", sleep},
		"exit":     {"CODE [TEXT…]          end with this code", exit},
		"hog":      {"MIB [cpu]             take memory and keep it; cpu: and keep one core busy", hog},
		"sh":       {"-c 'A b && C d; E'    run commands of this list in a row", shell},
		"help":     {"                      this list", help},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	words := os.Args[1:]
	if name := filepath.Base(os.Args[0]); name != "echo" {
		words = append([]string{name}, words...)
	}
	if len(words) == 0 {
		words = []string{"serve"}
	}
	err := run(ctx, words, os.Stdout)
	stop()
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string, out io.Writer) error {
	c, ok := commandList()[words[0]]
	if !ok {
		return fmt.Errorf("unknown command %q: try help", words[0])
	}
	return c.run(ctx, words[1:], out)
}

func help(_ context.Context, _ []string, out io.Writer) error {
	commands := commandList()
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		fmt.Fprintf(out, "%-8s %s\n", name, commands[name].usage)
	}
	return nil
}

// shell runs "A b && C d; E" without variables, pipes or patterns: what follows "&&" runs only after success.
func shell(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 || args[0] != "-c" {
		return errors.New("usage: sh -c 'COMMAND && COMMAND; COMMAND'")
	}
	words, err := split(args[1])
	if err != nil {
		return err
	}
	var current []string
	var last error
	skip := false
	for _, w := range append(words, ";") {
		if w != ";" && w != "&&" {
			current = append(current, w)
			continue
		}
		if len(current) > 0 && !skip {
			last = run(ctx, current, out)
		}
		skip = w == "&&" && last != nil
		current = nil
	}
	return last
}

// split cuts a line in words; quotes keep a word together.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	end := func() {
		if open {
			words = append(words, word.String())
		}
		word.Reset()
		open = false
	}
	for _, c := range strings.ReplaceAll(line, "&&", " && ") {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t' || c == '\n':
			end()
		case c == ';':
			end()
			words = append(words, ";")
		default:
			open = true
			word.WriteRune(c)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	end()
	return words, nil
}
