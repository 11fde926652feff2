package main

import (
	"cmp"
	"net"
	"os"
	"time"
)

// settings come from the environment alone, so that one image runs everywhere.
type settings struct {
	listen     string
	version    string // shown on the page; set by the image
	color      string // of the page's heading; tells versions apart at a glance
	instance   string // pod
	partition  string
	cluster    string
	dbHost     string
	dbPort     string
	dbUser     string
	dbPassword string
	dbName     string
	configFile string
	drainDelay time.Duration // how long the pod goes on answering after it left the service
	drills     bool          // offers ways to break the program; for exercises only
}

func settingsFromEnv(env func(string) string) settings {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	delay, err := time.ParseDuration(cmp.Or(env("SCORE_DRAIN_DELAY"), "2s"))
	if err != nil || delay < 0 || delay > drainTimeout {
		delay = 2 * time.Second
	}
	return settings{
		listen:     cmp.Or(env("SCORE_LISTEN"), ":8080"),
		version:    cmp.Or(env("SCORE_VERSION"), "dev"),
		color:      cmp.Or(env("SCORE_COLOR"), "#1677ff"),
		instance:   cmp.Or(env("POD_NAME"), hostname),
		partition:  env("YUNFAN_PARTITION"),
		cluster:    env("YUNFAN_CLUSTER"),
		dbHost:     cmp.Or(env("MYSQL_SERVICE_HOST"), "db-service"),
		dbPort:     cmp.Or(env("MYSQL_SERVICE_PORT"), "3306"),
		dbUser:     env("MYSQL_USER"),
		dbPassword: env("MYSQL_PASSWORD"),
		dbName:     cmp.Or(env("MYSQL_DATABASE"), "HPE_APP"),
		configFile: cmp.Or(env("SCORE_CONFIG"), "/config-center/server.xml"),
		drainDelay: delay,
		drills:     env("SCORE_DRILLS") == "1",
	}
}

func (s settings) databaseAddress() string { return net.JoinHostPort(s.dbHost, s.dbPort) }
