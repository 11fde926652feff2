package main

import (
	"strings"
	"testing"
)

func TestInitSQL(t *testing.T) {
	good := map[string]string{"MYSQL_ROOT_PASSWORD": "root pw", "MYSQL_USER": "score", "MYSQL_PASSWORD": "pw"}
	for reason, c := range map[string]struct {
		change map[string]string
		want   []string
		err    string
	}{
		"as in the example":           {nil, []string{"CREATE DATABASE `HPE_APP`", "CREATE USER 'score'@'%'", "张伟"}, ""},
		"quotes in a password":        {map[string]string{"MYSQL_PASSWORD": `a'; DROP TABLE x; -- \`}, []string{`IDENTIFIED BY 'a''; DROP TABLE x; -- \\';`}, ""},
		"no user":                     {map[string]string{"MYSQL_USER": "", "MYSQL_PASSWORD": ""}, []string{"USE `HPE_APP`"}, ""},
		"no root password":            {map[string]string{"MYSQL_ROOT_PASSWORD": ""}, nil, "set it from a Secret"},
		"a user without password":     {map[string]string{"MYSQL_PASSWORD": ""}, nil, "belong together"},
		"a password without user":     {map[string]string{"MYSQL_USER": ""}, nil, "belong together"},
		"a user called root":          {map[string]string{"MYSQL_USER": "root"}, nil, "the user is not root"},
		"a name that is not one":      {map[string]string{"MYSQL_DATABASE": "a`b"}, nil, "letters, digits and _"},
		"a line break in a password":  {map[string]string{"MYSQL_PASSWORD": "pw\n"}, nil, "contains a line break"},
		"another name for everything": {map[string]string{"MYSQL_DATABASE": "shop", "MYSQL_USER": "web"}, []string{"ON `shop`.* TO 'web'@'%'"}, ""},
	} {
		t.Run(reason, func(t *testing.T) {
			s, err := settingsFromEnv(func(k string) string {
				if v, ok := c.change[k]; ok {
					return v
				}
				return good[k]
			})
			if err != nil {
				t.Fatal(err)
			}
			sql, err := initSQL(s)
			if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("got error %v, want %q", err, c.err)
			}
			if err != nil {
				return
			}
			for _, want := range c.want {
				if !strings.Contains(sql, want) {
					t.Errorf("%q is missing in\n%s", want, sql)
				}
			}
			for line := range strings.SplitSeq(strings.TrimSpace(sql), "\n") {
				if !strings.HasSuffix(line, ";") {
					t.Errorf("a statement goes over more than one line: %s", line)
				}
			}
		})
	}
}

func TestSettings(t *testing.T) {
	for reason, c := range map[string]struct{ name, value, err string }{
		"a port that is none":   {"MYSQL_PORT", "x", "MYSQL_PORT"},
		"a port too high":       {"MYSQL_PORT", "65536", "MYSQL_PORT"},
		"options in a size":     {"MYSQL_BUFFER_POOL", "1M --skip-grant-tables", "MYSQL_BUFFER_POOL"},
		"everything as default": {"", "", ""},
	} {
		t.Run(reason, func(t *testing.T) {
			_, err := settingsFromEnv(func(k string) string {
				if k == c.name {
					return c.value
				}
				return ""
			})
			if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
		})
	}
}
