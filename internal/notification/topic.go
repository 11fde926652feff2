package notification

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
)

// Limits of what a message says, in bytes.
const (
	maxTitle = 200
	maxText  = 8 << 10
	// maxValue of one piece of data, and maxPieces of them.
	maxValue  = 4 << 10
	maxPieces = 50
	maxKey    = 500
)

// pathKey of a message's data is where on the platform it leads, such as /console/requests/a. Messages have it as a
// link.
const pathKey = "path"

// languages in which everything is written.
var languages = []v1alpha1.NotificationLanguage{v1alpha1.Chinese, v1alpha1.English}

// texts of a message, by language.
type texts struct {
	Title, Text map[v1alpha1.NotificationLanguage]string
}

// topics that are known, by name.
type topics map[string]topic

type topic struct {
	title, text map[v1alpha1.NotificationLanguage]*template.Template
}

var topicName = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+$`)

// newTopics checks that every topic has all languages and that its templates can be used.
func newTopics(list []outbound.Topic) (topics, error) {
	known := topics{}
	for _, one := range list {
		if !topicName.MatchString(one.Name) {
			return nil, fmt.Errorf("registering topics: %q is no name of a topic: it is a capability and what happened, with a dot between", one.Name)
		}
		if _, there := known[one.Name]; there {
			return nil, fmt.Errorf("registering topics: two are called %s", one.Name)
		}
		t := topic{map[v1alpha1.NotificationLanguage]*template.Template{}, map[v1alpha1.NotificationLanguage]*template.Template{}}
		for _, language := range languages {
			for _, part := range []struct {
				what string
				from map[string]string
				into map[v1alpha1.NotificationLanguage]*template.Template
			}{{"title", one.Title, t.title}, {"text", one.Text, t.text}} {
				parsed, err := parse(part.from[string(language)])
				if err != nil {
					return nil, fmt.Errorf("registering topics: the %s of %s in %q: %w", part.what, one.Name, language, err)
				}
				part.into[language] = parsed
			}
		}
		known[one.Name] = t
	}
	return known, nil
}

func parse(text string) (*template.Template, error) {
	if strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("it is empty")
	}
	t, err := template.New("").Option("missingkey=zero").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	if err := t.Execute(io.Discard, map[string]string{}); err != nil {
		return nil, fmt.Errorf("trying the template without data: %w", err)
	}
	return t, nil
}

// names of all topics, sorted.
func (t topics) names() []string { return slices.Sorted(maps.Keys(t)) }

// render writes a message in all languages.
func (t topic) render(data map[string]string) (texts, error) {
	out := texts{map[v1alpha1.NotificationLanguage]string{}, map[v1alpha1.NotificationLanguage]string{}}
	for _, language := range languages {
		title, err := execute(t.title[language], data)
		if err != nil {
			return texts{}, err
		}
		text, err := execute(t.text[language], data)
		if err != nil {
			return texts{}, err
		}
		out.Title[language], out.Text[language] = cut(oneLine(title), maxTitle), cut(strings.TrimSpace(text), maxText)
	}
	return out, nil
}

func execute(t *template.Template, data map[string]string) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return "", fmt.Errorf("writing a message: %w", err)
	}
	return b.String(), nil
}

// bounded gives the data with long values cut and without what no text has.
func bounded(data map[string]string) map[string]string {
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if len(out) == maxPieces {
			break
		}
		out[cut(oneLine(name), maxTitle)] = cut(clean(data[name]), maxValue)
	}
	return out
}

// clean takes control characters away but line breaks and tabs: neither a mail nor a phone shows them.
func clean(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "�"), "\r\n", "\n")
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return c
		case c == '\r' || c == '\u2028' || c == '\u2029':
			return '\n'
		case unicode.IsControl(c):
			return -1
		}
		return c
	}, text)
}

// oneLine makes one line of a text: a title can be no second header of a mail.
func oneLine(text string) string { return strings.Join(strings.Fields(clean(text)), " ") }

// cut shortens a text to so many bytes at a whole character.
func cut(text string, limit int) string {
	const more = "…"
	if len(text) <= limit {
		return text
	}
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

// matches says whether one of the patterns means the topic: its name, the beginning of it before .*, or *.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if begin, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(name, begin)
		}
		return pattern == name
	})
}

// Topics of our own.
const (
	topicTest  = "notification.test"
	topicStorm = "notification.storm"
)

func ownTopics() []outbound.Topic {
	return []outbound.Topic{
		{
			Name:  topicTest,
			Title: map[string]string{"zh": "云帆测试消息", "en": "Test message of Yunfan"},
			Text: map[string]string{
				"zh": "这是一条由用户 {{.user}} 发出的测试消息，收到即表示配置正确，无需处理。",
				"en": "User {{.user}} has sent this message to try whether messages arrive. They do. There is nothing to do.",
			},
		},
		{
			Name:  topicStorm,
			Title: map[string]string{"zh": "消息过多，已暂停外发{{if .tenant}}：租户 {{.tenant}}{{end}}", "en": "Too many messages{{if .tenant}} of tenant {{.tenant}}{{end}}: sending is paused"},
			Text: map[string]string{
				"zh": "一小时内的消息超过 {{.limit}} 条。{{.until}} 之前的其余消息不再通过邮件、短信和 Webhook 发送，请在平台收件箱中查看。",
				"en": "There were more than {{.limit}} messages within an hour. Until {{.until}} further ones are not sent by mail, phone or webhook: they are in the inboxes on the platform.",
			},
		},
	}
}
