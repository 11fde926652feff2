package image

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

var allRules = []string{"base", "maintainer", "version-tag", "env", "expose", "foreground", "comments"}

func brokenRules(violations []Violation) []string {
	var out []string
	for _, v := range violations {
		out = append(out, v.Rule)
	}
	return out
}

// The form of a Java web application's Dockerfile: small official base, settings as environment, foreground.
const goodDockerfile = `# Score record, the web part of the student score system
ARG TOMCAT=9-alpine
FROM tomcat:${TOMCAT}
LABEL maintainer="paas-team@example.com" \
      version="v1"
ENV MYSQL_SERVICE_HOST=db-service \
    MYSQL_SERVICE_PORT=3306
# The time zone data is needed to show local times.
RUN apk add --no-cache tzdata \
    && cp /usr/share/zoneinfo/Asia/Shanghai /etc/localtime
COPY score.war /usr/local/tomcat/webapps/
EXPOSE 8080
CMD ["catalina.sh", "run"]
`

func TestIMG08_Dockerfile(t *testing.T) {
	replace := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(goodDockerfile) }
	start := func(command string) string { return replace(`CMD ["catalina.sh", "run"]`, command) }
	for reason, c := range map[string]struct {
		file, tag string
		want      []string
	}{
		"a good one":                              {goodDockerfile, "v1", nil},
		"everything wrong":                        {"FROM example.com/huge\nRUN a && b\nCMD service tomcat start\n", "latest", allRules},
		"a base nobody publishes":                 {replace("tomcat:${TOMCAT}", "example.com/team/base:1"), "v1", []string{"base"}},
		"a base without version":                  {replace("tomcat:${TOMCAT}", "alpine"), "v1", []string{"base"}},
		"a base that moves":                       {replace("tomcat:${TOMCAT}", "debian:latest"), "v1", []string{"base"}},
		"scratch":                                 {replace("tomcat:${TOMCAT}", "scratch"), "v1", nil},
		"an official distribution":                {replace("tomcat:${TOMCAT}", "docker.io/library/debian:12"), "v1", nil},
		"a base by digest":                        {replace("tomcat:${TOMCAT}", "alpine@sha256:1234"), "v1", nil},
		"through an earlier stage":                {"FROM golang:1.26 AS build\nFROM alpine:3.20 AS base\n" + replace("FROM tomcat:${TOMCAT}", "FROM base"), "v1", nil},
		"an argument whose name begins another's": {"ARG BASE=nothing\nARG BASES=alpine:3.20\n" + replace("tomcat:${TOMCAT}", "$BASES"), "v1", nil},
		"maintainer in the old form":              {replace("LABEL maintainer=\"paas-team@example.com\" \\\n     ", "MAINTAINER paas-team\nLABEL"), "v1", nil},
		"no maintainer":                           {replace("maintainer=", "owner="), "v1", []string{"maintainer"}},
		"tag latest":                              {goodDockerfile, "latest", []string{"version-tag"}},
		"tag without a number":                    {goodDockerfile, "prod", []string{"version-tag"}},
		"tag unknown":                             {goodDockerfile, "", nil},
		"only PATH as environment":                {replace("MYSQL_SERVICE_HOST=db-service \\\n    MYSQL_SERVICE_PORT=3306", "PATH=/bin"), "v1", []string{"env"}},
		"environment in the old form":             {replace("MYSQL_SERVICE_HOST=db-service \\\n    MYSQL_SERVICE_PORT=3306", "MYSQL_HOST the database"), "v1", nil},
		"no port":                                 {replace("EXPOSE 8080\n", ""), "v1", []string{"expose"}},
		"no port, and says so":                    {replace("EXPOSE 8080", `LABEL yunfan.io/listens="nothing"`), "v1", nil},
		"no start command":                        {start(""), "v1", []string{"foreground"}},
		"background by shell":                     {start("CMD /app/start.sh &"), "v1", []string{"foreground"}},
		"background in a shell's argument":        {start(`CMD ["sh", "-c", "/app/start.sh &"]`), "v1", []string{"foreground"}},
		"two commands with and":                   {start("CMD migrate && exec serve"), "v1", nil},
		"output of errors redirected":             {start("CMD serve 2>&1"), "v1", nil},
		"nohup":                                   {start("CMD nohup java -jar app.jar"), "v1", []string{"foreground"}},
		"system service":                          {start("CMD systemctl start nginx"), "v1", []string{"foreground"}},
		"supervisord":                             {start("CMD supervisord -n"), "v1", []string{"foreground"}},
		"tomcat in the background":                {start("CMD /usr/local/tomcat/bin/startup.sh"), "v1", []string{"foreground"}},
		"nginx in the background":                 {start("CMD nginx"), "v1", []string{"foreground"}},
		"nginx in the foreground":                 {start(`CMD ["nginx", "-g", "daemon off;"]`), "v1", nil},
		"apache in the background":                {start("CMD apachectl start"), "v1", []string{"foreground"}},
		"apache in the foreground":                {start("CMD apachectl -DFOREGROUND"), "v1", nil},
		"redis as daemon":                         {start("CMD redis-server --daemonize yes"), "v1", []string{"foreground"}},
		"redis not as daemon":                     {start("CMD redis-server --daemonize no"), "v1", nil},
		"a shell with a log":                      {start("CMD start.sh && tail -f /var/log/app.log"), "v1", []string{"foreground"}},
		"entrypoint and its arguments":            {start("ENTRYPOINT [\"java\"]\nCMD [\"-jar\", \"app.jar\"]"), "v1", nil},
		"an entrypoint replaces a command":        {start("CMD serve &\nENTRYPOINT [\"java\"]"), "v1", nil},
		"a long step without comment":             {replace("# The time zone data is needed to show local times.\n", ""), "v1", []string{"comments"}},
		"a comment inside a long step":            {replace("# The time zone data is needed to show local times.\n", "", "tzdata \\\n", "tzdata \\\n    # local times\n"), "v1", nil},
		"a comment further up":                    {replace("local times.\n", "local times.\n\n"), "v1", []string{"comments"}},
		"a here-document without comment":         {goodDockerfile + "RUN <<EOF\napk add curl\nEOF\n", "v1", []string{"comments"}},
		"a here-document with a comment":          {goodDockerfile + "RUN <<EOF\n# for the health check\napk add curl\nEOF\n", "v1", nil},
		"a short step needs no comment":           {goodDockerfile + "RUN apk add curl\n", "v1", nil},
		"instructions in the here-document":       {goodDockerfile + "# settings\nCOPY <<EOF /etc/app\nCMD serve &\nEOF\n", "v1", nil},
	} {
		t.Run(reason, func(t *testing.T) {
			violations, err := CheckDockerfile(strings.NewReader(c.file), c.tag)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, brokenRules(violations)); diff != "" {
				t.Errorf("%s\n%v", diff, violations)
			}
		})
	}
	if _, err := CheckDockerfile(strings.NewReader("hello: world\n"), "v1"); err == nil {
		t.Error("a file without FROM was taken for a Dockerfile")
	}
}

func TestIMG08_Image(t *testing.T) {
	big, err := random.Image(smallImage, 1)
	if err != nil {
		t.Fatal(err)
	}
	for reason, c := range map[string]struct {
		ref  string
		img  v1.Image
		with func(*v1.Config)
		want []string
	}{
		"everything right": {"r.io/web:v1", empty.Image, func(*v1.Config) {}, nil},
		"everything wrong": {"r.io/web:latest", big, func(c *v1.Config) { *c = v1.Config{} }, []string{"base", "maintainer", "version-tag", "env", "expose", "foreground"}},
		"small and nothing said about the base": {"r.io/web:v1", empty.Image, func(c *v1.Config) { delete(c.Labels, labelBase) },
			[]string{"base"}},
		"a base of one's own":      {"r.io/web:v1", empty.Image, func(c *v1.Config) { c.Labels[labelBase] = "r.io/base:1" }, []string{"base"}},
		"referred to by digest":    {"r.io/web@sha256:" + strings.Repeat("0", 64), empty.Image, func(*v1.Config) {}, nil},
		"a shell in the way":       {"r.io/web:v1", empty.Image, func(c *v1.Config) { c.Entrypoint = []string{"/bin/sh"} }, []string{"foreground"}},
		"listens to nobody":        {"r.io/web:v1", empty.Image, func(c *v1.Config) { c.ExposedPorts = nil; c.Labels[LabelListens] = "nothing" }, nil},
		"nothing to set":           {"r.io/web:v1", empty.Image, func(c *v1.Config) { c.Env = nil; c.Labels[LabelSettings] = "nothing" }, nil},
		"only an old style author": {"r.io/web:v1", empty.Image, func(c *v1.Config) { c.Labels["maintainer"] = "me"; delete(c.Labels, labelMaintainer) }, nil},
	} {
		t.Run(reason, func(t *testing.T) {
			config := v1.Config{
				Labels:       map[string]string{labelBase: "scratch", labelMaintainer: "Yunfan"},
				Env:          []string{"PATH=/bin", "PORT=80"},
				ExposedPorts: map[string]struct{}{"80/tcp": {}},
				Entrypoint:   []string{"/web"},
			}
			c.with(&config)
			img, err := mutate.Config(c.img, config)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference(c.ref)
			if err != nil {
				t.Fatal(err)
			}
			violations, err := CheckImage(ref, img)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, brokenRules(violations)); diff != "" {
				t.Errorf("%s\n%v", diff, violations)
			}
		})
	}
}

// TestIMG08_Recipes packs nothing: what the rules look at is in the recipe.
func TestIMG08_Recipes(t *testing.T) {
	recipes := map[string]*Recipe{}
	for _, path := range globRecipes(t) {
		r, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		recipes[path] = r
	}
	for _, path := range slices.Sorted(maps.Keys(recipes)) {
		r := recipes[path]
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		ref, err := r.Reference()
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.Config(empty.Image, r.containerConfig())
		if err != nil {
			t.Fatal(err)
		}
		violations, err := CheckImage(ref, img)
		if err != nil || len(violations) > 0 {
			t.Errorf("%s: %v %v", path, violations, err)
		}
	}
}
