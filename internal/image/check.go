package image

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Violation is one broken packaging rule.
type Violation struct {
	Rule    string // base, maintainer, version-tag, env, expose, foreground or comments
	Message string // what is wrong and what to do
}

func (v Violation) String() string { return v.Rule + ": " + v.Message }

// facts is what the rules look at, from an image or from a Dockerfile.
type facts struct {
	base        string // reference of the base image; empty: not known
	size        int64  // compressed bytes; 0: not known
	maintainer  bool
	tag         string
	tagKnown    bool
	env         []string // names
	ports       int
	labels      map[string]string
	start       string   // the whole start command
	uncommented []string // important steps of a Dockerfile that no comment explains
}

// smallImage is the size in bytes up to which an image needs no known base: Alpine and busybox are about 5 MB.
const smallImage = 16 << 20

// officialDistributions are base images that a distribution publishes itself.
var officialDistributions = []string{
	"scratch", "alpine", "busybox", "debian", "ubuntu", "fedora", "centos", "rockylinux", "almalinux", "opensuse/leap",
	"amazonlinux", "oraclelinux", "openeuler/openeuler", "openanolis/anolisos", "photon", "distroless/static", "distroless/base",
}

var (
	versionPattern = regexp.MustCompile(`[0-9]`)
	movingTags     = []string{"", "latest", "stable", "edge", "master", "main", "dev", "nightly"}
	slimTag        = regexp.MustCompile(`(^|[-_.])(alpine|slim|busybox|distroless)`)
	backgrounds    = []struct {
		pattern *regexp.Regexp
		advice  string
	}{
		{regexp.MustCompile(`(^|[^&>])&\s*$`), "ends in \"&\": run the program itself as the last command"},
		{regexp.MustCompile(`\bnohup\b`), "uses nohup: run the program itself"},
		{regexp.MustCompile(`\b(service\s+\S+\s+(re)?start|/etc/init\.d/|systemctl\s|rc-service\s)`), "starts a system service: run the program itself"},
		{regexp.MustCompile(`\bsupervisord\b`), "hides the program behind supervisord: run one program per container"},
		{regexp.MustCompile(`\b(catalina\.sh|catalina)\s+start\b|\bstartup\.sh\b`), "starts Tomcat in the background: use \"catalina.sh run\""},
		{regexp.MustCompile(`\b(apachectl|apache2ctl|httpd)\b.*\bstart\b`), "starts Apache in the background: use \"-DFOREGROUND\""},
		{regexp.MustCompile(`\s(--daemon(ize)?(=yes|=true|\s+yes|\s+-|\s*$)|-daemon\b)`), "asks for a daemon: leave that option out"},
		{regexp.MustCompile(`^(sh|bash|/bin/sh|/bin/bash)$|tail\s+-[fF]\s+\S+\s*$`), "keeps something else in the foreground: run the program itself"},
	}
	nginx = regexp.MustCompile(`\bnginx\b`)
)

// rules in the order they are reported; each returns a message when it is broken.
var rules = []struct {
	name  string
	check func(facts) string
}{
	{"base", checkBase},
	{"maintainer", func(f facts) string {
		if f.maintainer {
			return ""
		}
		return "nobody answers for the image: set the label maintainer or " + labelMaintainer
	}},
	{"version-tag", checkTag},
	{"env", func(f facts) string {
		if slices.ContainsFunc(f.env, func(n string) bool { return n != "PATH" }) || f.labels[LabelSettings] == "nothing" {
			return ""
		}
		return "no setting can be seen: declare what can be set with ENV, or set the label " + LabelSettings + "=nothing"
	}},
	{"expose", func(f facts) string {
		if f.ports > 0 || f.labels[LabelListens] == "nothing" {
			return ""
		}
		return "no port is exposed: use EXPOSE, or the label " + LabelListens + "=nothing for a program that does not listen"
	}},
	{"foreground", checkForeground},
	{"comments", func(f facts) string {
		if len(f.uncommented) == 0 {
			return ""
		}
		return "no comment says why: " + strings.Join(f.uncommented, "; ")
	}},
}

func (f facts) check() []Violation {
	var out []Violation
	for _, r := range rules {
		if message := r.check(f); message != "" {
			out = append(out, Violation{r.name, message})
		}
	}
	return out
}

func checkBase(f facts) string {
	const advice = "use scratch, a small base such as alpine, or a distribution's official image"
	if f.base == "" {
		if f.size > 0 && f.size <= smallImage {
			return ""
		}
		return fmt.Sprintf("the base image is not known: set the label %s, and %s", labelBase, advice)
	}
	if f.base == "scratch" {
		return ""
	}
	repository, tag := splitReference(f.base)
	if slices.Contains(movingTags, tag) {
		return fmt.Sprintf("the base %s has no version: name one", f.base)
	}
	if slices.Contains(officialDistributions, officialName(repository)) || slimTag.MatchString(tag) {
		return ""
	}
	return fmt.Sprintf("the base %s is neither small nor an official distribution: %s", f.base, advice)
}

// splitReference splits a reference in its repository and tag; a digest counts as a tag.
func splitReference(ref string) (repository, tag string) {
	if repository, digest, ok := strings.Cut(ref, "@"); ok {
		return repository, digest
	}
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}

// officialName is the repository without registry and without Docker Hub's "library".
func officialName(repository string) string {
	if host, rest, ok := strings.Cut(repository, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		repository = rest
	}
	return strings.TrimPrefix(repository, "library/")
}

func checkTag(f facts) string {
	if !f.tagKnown || (!slices.Contains(movingTags, f.tag) && versionPattern.MatchString(f.tag)) {
		return ""
	}
	return fmt.Sprintf("the tag %q is not a version: use one such as v1.2.0", f.tag)
}

func checkForeground(f facts) string {
	if f.start == "" {
		return "there is no start command: set ENTRYPOINT or CMD"
	}
	for _, b := range backgrounds {
		if b.pattern.MatchString(f.start) {
			return fmt.Sprintf("the start command %q %s", f.start, b.advice)
		}
	}
	if nginx.MatchString(f.start) && path.Base(strings.Fields(f.start)[0]) == "nginx" && !strings.Contains(f.start, "daemon off") {
		return fmt.Sprintf("the start command %q puts nginx in the background: add -g \"daemon off;\"", f.start)
	}
	return ""
}

// CheckImage checks an image against the packaging rules.
func CheckImage(ref name.Reference, img v1.Image) ([]Violation, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading configuration of %s: %w", ref, err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading manifest of %s: %w", ref, err)
	}
	c := config.Config
	f := facts{
		base: c.Labels[labelBase], labels: c.Labels, ports: len(c.ExposedPorts),
		maintainer: hasMaintainer(c.Labels) || config.Author != "",
		start:      strings.Join(slices.Concat(c.Entrypoint, c.Cmd), " "),
	}
	if t, ok := ref.(name.Tag); ok {
		f.tag, f.tagKnown = t.TagStr(), true
	}
	for _, l := range manifest.Layers {
		f.size += l.Size
	}
	for _, e := range c.Env {
		key, _, _ := strings.Cut(e, "=")
		f.env = append(f.env, key)
	}
	return f.check(), nil
}

func hasMaintainer(labels map[string]string) bool {
	for _, key := range []string{"maintainer", labelMaintainer, "org.opencontainers.image.vendor"} {
		if labels[key] != "" {
			return true
		}
	}
	return false
}
