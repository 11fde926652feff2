package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the storage driver used below
	"github.com/sirupsen/logrus"
)

// newApp builds the distribution registry over dir.
func newApp(ctx context.Context, dir string, log *slog.Logger) (app *handlers.App, err error) {
	if dir == "" {
		return nil, errors.New("the registry needs a directory: give --dir")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the image directory: %w", err)
	}
	if err := writable(dir); err != nil {
		return nil, err
	}
	secret, err := uploadSecret(secretPath(dir))
	if err != nil {
		return nil, err
	}
	bridgeLogs(log)
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": {"rootdirectory": filepath.Join(dir, "images")},
			"delete":     {"enabled": true},
		},
		HTTP: configuration.HTTP{Secret: secret, RelativeURLs: true},
	}
	// The library panics on a bad configuration.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening the image directory %s: %v", dir, p)
		}
	}()
	return handlers.NewApp(ctx, config), nil
}

// uploadSecret keeps the key that signs the state of unfinished uploads: with a new one after each start, no upload
// could be resumed.
func uploadSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil && len(data) > 0 {
		return string(data), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the upload secret: %w", err)
	}
	secret := rand.Text()
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		return "", fmt.Errorf("keeping the upload secret: %w", err)
	}
	return secret, nil
}

// bridgeLogs sends what the library logs through logrus' global logger to ours, without its line per request.
func bridgeLogs(log *slog.Logger) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.WarnLevel)
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logHook{log})
}

type logHook struct{ log *slog.Logger }

func (logHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

func (h logHook) Fire(e *logrus.Entry) error {
	// "Is this blob there?" answered with no is the normal start of every push.
	if status, ok := e.Data["http.response.status"].(int); ok && status < 500 {
		return nil
	}
	level := slog.LevelError
	if e.Level == logrus.WarnLevel {
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{}
	for _, key := range []string{"http.request.method", "http.request.uri", "http.response.status", "err.code", "err.message", "err.detail"} {
		if v, ok := e.Data[key]; ok {
			attrs = append(attrs, slog.Any(key, v))
		}
	}
	h.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}
