package builtin

import (
	"strings"
	"testing"
	"text/template"
	"time"

	"yunfan.io/yunfan/internal/action"
)

func TestOPS10_Wait(t *testing.T) {
	at := func(d time.Duration) string { return time.Now().Add(d).Format(time.RFC3339) }
	for name, tc := range map[string]struct {
		inputs  map[string]any
		started time.Duration // how long ago
		done    bool
		again   time.Duration // at most
		err     string
	}{
		"some time that begins":            {inputs: map[string]any{"for": "30s"}, again: 30 * time.Second},
		"a long time":                      {inputs: map[string]any{"for": "24h"}, again: waitPoll},
		"the rest after a restart":         {inputs: map[string]any{"for": "30s"}, started: 20 * time.Second, again: 10 * time.Second},
		"a time that passed in a restart":  {inputs: map[string]any{"for": "30s"}, started: time.Minute, done: true},
		"no time":                          {inputs: map[string]any{"for": "0s"}, done: true},
		"until a time":                     {inputs: map[string]any{"until": at(50 * time.Second)}, again: 50 * time.Second},
		"until a time that has passed":     {inputs: map[string]any{"until": "2020-01-01T00:00:00+08:00"}, done: true},
		"neither":                          {err: "one of the two"},
		"both":                             {inputs: map[string]any{"for": "1s", "until": at(0)}, err: "one of the two"},
		"something that is no time":        {inputs: map[string]any{"until": "tomorrow"}, err: `until: "tomorrow" is no time`},
		"something that is no duration":    {inputs: map[string]any{"for": "1d"}, err: `for: "1d" is no duration`},
		"a duration that goes back":        {inputs: map[string]any{"for": "-1s"}, err: "is no duration"},
		"for longer than anybody can mean": {inputs: map[string]any{"for": "9000h"}, err: "more than a year"},
	} {
		t.Run(name, func(t *testing.T) {
			call := callOf(&journal{}, tc.inputs)
			call.Started = time.Now().Add(-tc.started)
			out, err := wait{}.Run(t.Context(), call)
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) || !action.IsFailed(err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
			case err != nil || out.Done != tc.done || out.Waiting == tc.done || out.Again > tc.again:
				t.Errorf("got %+v and %v", out, err)
			}
		})
	}
}

func TestActionsDescribeThemselves(t *testing.T) {
	catalogue, err := action.NewCatalogue(Actions(Options{})...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"approve", "wait", "http", "notify", "container"} {
		a := catalogue[name]
		if a == nil {
			t.Fatalf("there is no action %s", name)
		}
		d := a.Describe()
		if d.Summary == "" || d.Internal {
			t.Errorf("%s: %+v", name, d)
		}
		for _, field := range append(d.Inputs, d.Outputs...) {
			if field.Doc == "" || !strings.HasSuffix(field.Doc, ".") {
				t.Errorf("%s.%s is not described in a sentence", name, field.Name)
			}
		}
		given := callOf(&journal{}, map[string]any{"no-such-input": 1})
		if _, err := a.Run(t.Context(), given); !action.IsFailed(err) {
			t.Errorf("%s takes an input that it does not have: %v", name, err)
		}
	}
}

func TestTopicsHaveBothLanguages(t *testing.T) {
	data := map[string]string{
		"run": "release", "tenant": "edu", "step": "s", "user": "li", "subject": "release 2", "values": "a: 1", "title": "t", "text": "x",
	}
	for _, topic := range Topics {
		for _, language := range []string{"zh", "en"} {
			for _, text := range []string{topic.Title[language], topic.Text[language]} {
				var out strings.Builder
				parsed, err := template.New(topic.Name).Option("missingkey=error").Parse(text)
				if err != nil || text == "" {
					t.Fatalf("%s in %s: %q: %v", topic.Name, language, text, err)
				}
				if err := parsed.Execute(&out, data); err != nil {
					t.Errorf("%s in %s: %v", topic.Name, language, err)
				}
			}
		}
	}
}
