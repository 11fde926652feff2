package main

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// socketDir is where MariaDB's own tools look for the server.
const socketDir = "/run/mysqld"

//go:embed scores.sql
var scoresSQL string

type settings struct {
	home         string // the volume
	server       string
	installer    string
	bind         string // address the server listens on
	port         int
	bufferPool   string // a size as MariaDB writes it
	rootPassword string
	database     string
	user         string
	password     string
}

func (s settings) dataDir() string { return filepath.Join(s.home, "data") }

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)
	sizePattern = regexp.MustCompile(`^[0-9]{1,6}[KMG]$`)
)

func settingsFromEnv(env func(string) string) (settings, error) {
	s := settings{
		home:         cmp.Or(env("DB_HOME"), "/var/lib/mysql"),
		server:       cmp.Or(env("DB_SERVER"), "/usr/sbin/mariadbd"),
		installer:    cmp.Or(env("DB_INSTALLER"), "/usr/bin/mariadb-install-db"),
		bind:         cmp.Or(env("MYSQL_BIND_ADDRESS"), "*"),
		bufferPool:   cmp.Or(env("MYSQL_BUFFER_POOL"), "64M"),
		rootPassword: env("MYSQL_ROOT_PASSWORD"),
		database:     cmp.Or(env("MYSQL_DATABASE"), "HPE_APP"),
		user:         env("MYSQL_USER"),
		password:     env("MYSQL_PASSWORD"),
	}
	var err error
	if s.port, err = strconv.Atoi(cmp.Or(env("MYSQL_PORT"), "3306")); err != nil || s.port < 1 || s.port > 65535 {
		return settings{}, errors.New("MYSQL_PORT is not a port number")
	}
	if !sizePattern.MatchString(s.bufferPool) {
		return settings{}, fmt.Errorf("MYSQL_BUFFER_POOL %q is not a size such as 64M", s.bufferPool)
	}
	return s, nil
}

// initSQL is what the first start runs. The server reads it line by line, hence no line breaks inside a statement.
func initSQL(s settings) (string, error) {
	if s.rootPassword == "" {
		return "", errors.New("MYSQL_ROOT_PASSWORD is empty: set it from a Secret for the first start")
	}
	if (s.user == "") != (s.password == "") {
		return "", errors.New("MYSQL_USER and MYSQL_PASSWORD belong together: set both or none")
	}
	if !namePattern.MatchString(s.database) || (s.user != "" && (!namePattern.MatchString(s.user) || s.user == "root")) {
		return "", errors.New("MYSQL_DATABASE and MYSQL_USER consist of letters, digits and _; the user is not root")
	}
	for _, p := range []struct{ name, value string }{{"MYSQL_ROOT_PASSWORD", s.rootPassword}, {"MYSQL_PASSWORD", s.password}} {
		if strings.ContainsAny(p.value, "\n\r\x00") {
			return "", fmt.Errorf("%s contains a line break: Secrets made from a file often end in one", p.name)
		}
	}
	// Bootstrap starts without accounts; FLUSH PRIVILEGES loads them.
	sql := []string{
		"FLUSH PRIVILEGES;",
		"ALTER USER 'root'@'localhost' IDENTIFIED BY " + quote(s.rootPassword) + ";",
		"DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');",
		"CREATE DATABASE `" + s.database + "` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;",
	}
	if s.user != "" {
		sql = append(sql,
			"CREATE USER '"+s.user+"'@'%' IDENTIFIED BY "+quote(s.password)+";",
			"GRANT ALL ON `"+s.database+"`.* TO '"+s.user+"'@'%';")
	}
	sql = append(sql, "USE `"+s.database+"`;", "SET NAMES utf8mb4;", scoresSQL)
	return strings.Join(sql, "\n") + "\n", nil
}

// quote writes an SQL string.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}
