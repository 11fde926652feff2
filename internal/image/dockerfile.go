package image

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// instruction is one Dockerfile instruction with its continuation lines joined.
type instruction struct {
	line      int
	name      string // upper case
	args      string
	commented bool // a comment stands directly above or inside
	long      bool // several lines or several commands
}

// CheckDockerfile checks a Dockerfile against the packaging rules; tag is the one its image will get, empty if unknown.
func CheckDockerfile(r io.Reader, tag string) ([]Violation, error) {
	instructions, err := parseDockerfile(r)
	if err != nil {
		return nil, fmt.Errorf("reading Dockerfile: %w", err)
	}
	f := facts{tag: tag, tagKnown: tag != "", labels: map[string]string{}}
	stages, args := map[string]string{}, map[string]string{}
	entrypoint, cmd := "", ""
	for _, i := range instructions {
		switch i.name {
		case "ARG":
			key, value, _ := strings.Cut(i.args, "=")
			args[key] = strings.Trim(value, `"'`)
		case "FROM":
			// Only the last stage becomes the image; what an earlier one set counts where the last one builds on it.
			f.base = fromBase(i.args, stages, args)
		case "MAINTAINER":
			f.maintainer = true
		case "LABEL":
			maps.Copy(f.labels, keyValues(i.args))
		case "ENV":
			f.env = append(f.env, slices.Sorted(maps.Keys(keyValues(i.args)))...)
		case "EXPOSE":
			f.ports += len(strings.Fields(i.args))
		case "ENTRYPOINT":
			entrypoint, cmd = command(i.args), ""
		case "CMD":
			cmd = command(i.args)
		}
		if i.name == "RUN" && i.long && !i.commented {
			f.uncommented = append(f.uncommented, fmt.Sprintf("line %d, %s", i.line, shorten("RUN "+i.args)))
		}
	}
	if f.base == "" {
		return nil, errors.New("reading Dockerfile: there is no FROM: is this a Dockerfile?")
	}
	f.maintainer = f.maintainer || hasMaintainer(f.labels)
	f.start = strings.TrimSpace(entrypoint + " " + cmd)
	return f.check(), nil
}

// fromBase gives the image that a FROM builds on, through earlier stages and build arguments.
func fromBase(line string, stages, args map[string]string) string {
	fields := slices.DeleteFunc(strings.Fields(line), func(s string) bool { return strings.HasPrefix(s, "--") })
	if len(fields) == 0 {
		return ""
	}
	base := os.Expand(fields[0], func(name string) string {
		if value, ok := args[name]; ok {
			return value
		}
		return "${" + name + "}"
	})
	if earlier, ok := stages[strings.ToLower(base)]; ok {
		base = earlier
	}
	if len(fields) == 3 && strings.EqualFold(fields[1], "as") {
		stages[strings.ToLower(fields[2])] = base
	}
	return base
}

// command gives the words of a start command in JSON or shell form as one line.
func command(args string) string {
	var words []string
	if json.Unmarshal([]byte(args), &words) != nil {
		return args
	}
	if len(words) == 3 && words[1] == "-c" { // ["sh", "-c", "…"] is the shell form written out
		return words[2]
	}
	return strings.Join(words, " ")
}

var pair = regexp.MustCompile(`([\w.\-/]+)=("(?:[^"\\]|\\.)*"|'[^']*'|\S*)`)

// keyValues reads the arguments of ENV and LABEL, in the form K=V … or the old form K V.
func keyValues(args string) map[string]string {
	out := map[string]string{}
	if first, rest, ok := strings.Cut(args, " "); ok && !strings.Contains(first, "=") {
		out[first] = strings.TrimSpace(rest)
		return out
	}
	for _, m := range pair.FindAllStringSubmatch(args, -1) {
		out[m[1]] = strings.Trim(m[2], `"'`)
	}
	return out
}

func shorten(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

var heredoc = regexp.MustCompile(`<<-?["']?(\w+)["']?`)

func parseDockerfile(r io.Reader) ([]instruction, error) {
	var out []instruction
	var current *instruction
	commented, end := false, "" // end: the word that closes a here-document
	scanner := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		switch {
		case end != "":
			if line == end {
				end, current = "", nil
			} else if strings.HasPrefix(line, "#") {
				current.commented = true
			}
			continue
		case strings.HasPrefix(line, "#"):
			if current != nil {
				current.commented = true
			}
			commented = true
			continue
		case line == "":
			commented = false
			continue
		}
		text, more := strings.CutSuffix(line, `\`)
		if current == nil {
			name, args, _ := strings.Cut(strings.TrimSpace(text), " ")
			out = append(out, instruction{line: n, name: strings.ToUpper(name), args: strings.TrimSpace(args), commented: commented})
			current = &out[len(out)-1]
		} else {
			current.args += " " + strings.TrimSpace(text)
			current.long = true
		}
		current.long = current.long || strings.Contains(text, "&&") || strings.Contains(text, ";")
		if m := heredoc.FindStringSubmatch(text); m != nil && slices.Contains([]string{"RUN", "COPY"}, current.name) {
			end, current.long = m[1], true
		} else if !more {
			current, commented = nil, false
		}
	}
	return out, scanner.Err()
}
