package notification

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
)

func TestOPS06_Topics(t *testing.T) {
	both := func(zh, en string) map[string]string { return map[string]string{"zh": zh, "en": en} }
	for name, tc := range map[string]struct {
		reason string
		topics []outbound.Topic
		says   string
	}{
		"Good":       {"", []outbound.Topic{leave()}, ""},
		"Twice":      {"", []outbound.Topic{leave(), leave()}, "two are called"},
		"Ours":       {"", []outbound.Topic{{Name: topicTest, Title: both("a", "b"), Text: both("a", "b")}}, "two are called"},
		"No English": {"", []outbound.Topic{{Name: "a.b", Title: map[string]string{"zh": "a"}, Text: both("a", "b")}}, `the title of a.b in "en": it is empty`},
		"No Chinese": {"", []outbound.Topic{{Name: "a.b", Title: both("a", "b"), Text: both(" ", "b")}}, `the text of a.b in "zh": it is empty`},
		"Syntax":     {"", []outbound.Topic{{Name: "a.b", Title: both("{{.a", "b"), Text: both("a", "b")}}, "reading the template"},
		"Without":    {"Data may be missing", []outbound.Topic{{Name: "a.b", Title: both("{{index .a 5}}", "b"), Text: both("a", "b")}}, "without data"},
		"Name":       {"", []outbound.Topic{{Name: "Approved", Title: both("a", "b"), Text: both("a", "b")}}, "no name of a topic"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newTopics(append(ownTopics(), tc.topics...))
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: got %v, want %q", tc.reason, err, tc.says)
			}
		})
	}
}

func TestRenderIsBounded(t *testing.T) {
	known, err := newTopics([]outbound.Topic{leave()})
	if err != nil {
		t.Fatal(err)
	}
	said, err := known[topicLeave].render(bounded(map[string]string{"name": strings.Repeat("云\r\n帆\x00", 4000), "comment": strings.Repeat("界", 100_000)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, language := range languages {
		title, text := said.Title[language], said.Text[language]
		if len(title) > maxTitle || strings.ContainsAny(title, "\r\n\x00") || !utf8.ValidString(title) || !strings.HasSuffix(title, "…") {
			t.Errorf("title %q", title)
		}
		if len(text) > maxText || !utf8.ValidString(text) {
			t.Errorf("the text has %d bytes", len(text))
		}
	}
}

func TestMatches(t *testing.T) {
	for pattern, want := range map[string]bool{
		"*": true, "request.*": true, topicLeave: true, "request": false, "workflow.*": false, "request.approve": false, "": false,
	} {
		if got := matches([]string{"other", pattern}, topicLeave); got != want {
			t.Errorf("%q: got %v", pattern, got)
		}
	}
	if matches(nil, topicLeave) {
		t.Error("no pattern matches nothing")
	}
}

func TestPause(t *testing.T) {
	s := &Service{}
	s.setDefaults()
	for failures, want := range map[int64]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 10: 30 * time.Minute, 1000: 30 * time.Minute} {
		for range 100 {
			if got := s.pause(failures); got < want*4/5 || got > want*6/5 {
				t.Fatalf("after %d failures it pauses for %s, want about %s", failures, got, want)
			}
		}
	}
	attempts, took := 0, time.Duration(0)
	for ; took < s.Schedule.GiveUp; attempts++ {
		took += s.pause(int64(attempts + 1))
	}
	if attempts < 40 || attempts > 80 {
		t.Errorf("%d attempts in %s", attempts, s.Schedule.GiveUp)
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "30": 30 * time.Second, "-1": 0, "99999999": maxRetryAfter, "soon": 0, time.Now().Add(-time.Hour).UTC().Format(time.RFC1123): 0} {
		if got := retryAfter(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestLinksStayOnThePlatform(t *testing.T) {
	p := &Service{}
	if got := p.link(&envelope{Data: map[string]string{pathKey: "/a"}}); got != "" {
		t.Errorf("got %q without a URL", got)
	}
	p.URL = platformURL(t)
	for path, want := range map[string]string{"/console/a": "https://yunfan.example.com/console/a", "//evil.example.com": "", "https://evil.example.com": "", "/a b": "", `/\evil`: "", "": ""} {
		if got := p.link(&envelope{Data: map[string]string{pathKey: path}}); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestScrubbed(t *testing.T) {
	err := scrubbed(permanent("535 no user li with geheim-4711\r\nin"), "geheim-4711")
	if got := err.Error(); got != "535 no user li with *** in" || !failureOf(err).permanent {
		t.Errorf("got %q, %+v", got, failureOf(err))
	}
	if phone.MatchString("+86138001380001234567") || !phone.MatchString("13800138000") || isMail("a@b c") || !isMail("a.b+c@example.com") || v1alpha1.Chinese != languages[0] {
		t.Error("addresses are read wrongly")
	}
}
