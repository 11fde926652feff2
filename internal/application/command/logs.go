package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// LogOptions choose which logs are shown, and how much of them.
type LogOptions struct {
	Follow, Previous, Timestamps    bool
	Tail                            int
	Component, Partition, Container string
}

// Line is one line of a log, or, if Error is set, why a log cannot be shown.
type Line struct {
	Partition string `json:"partition"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	Text      string `json:"text"`
	Error     string `json:"error"`
}

// Logs shows the logs of all pods of an application, of all partitions at once, each line with where it comes from.
func (c *Command) Logs(ctx context.Context, name string, o LogOptions) error {
	server, err := c.Access.Server(ctx)
	if err != nil {
		return err
	}
	tenant, err := c.Access.Tenant()
	if err != nil {
		return err
	}
	path := "/api/v1/tenants/" + url.PathEscape(tenant) + "/applications/" + url.PathEscape(name) + "/logs"
	stream, err := server.Stream(ctx, http.MethodGet, path, o.query(), nil)
	if err != nil {
		return fmt.Errorf("reading the logs of application %s: %w", name, err)
	}
	defer stream.Close()
	err = c.printLines(stream)
	if ctx.Err() != nil {
		return nil // Ctrl-C is how following ends
	}
	return err
}

func (o LogOptions) query() url.Values {
	query := url.Values{}
	for key, value := range map[string]string{"component": o.Component, "partition": o.Partition, "container": o.Container} {
		if value != "" {
			query.Set(key, value)
		}
	}
	for key, value := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if value {
			query.Set(key, "true")
		}
	}
	if o.Tail > 0 {
		query.Set("tail", strconv.Itoa(o.Tail))
	}
	return query
}

func (c *Command) printLines(stream io.Reader) error {
	const maxLine = 1 << 20
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := Line{}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("reading the server's answer: %w", err)
		}
		from := strings.TrimRight(strings.Join([]string{line.Partition, line.Pod, line.Container}, "/"), "/")
		if line.Error != "" {
			fmt.Fprintf(c.Progress, "[%s] %s\n", from, line.Error)
			continue
		}
		if _, err := fmt.Fprintf(c.Out, "[%s] %s\n", from, line.Text); err != nil {
			return fmt.Errorf("writing the logs: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the logs: %w", err)
	}
	return nil
}
