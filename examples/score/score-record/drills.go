package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	maxHogMiB = 16 << 10
	maxSlow   = time.Minute
)

// addDrills offers ways to break this program, for exercises and tests; only with SCORE_DRILLS=1.
func (a *app) addDrills(mux *http.ServeMux) {
	mux.HandleFunc("/crash", a.crash)
	mux.HandleFunc("/break", a.breakProbe)
	mux.HandleFunc("/hog", a.hog)
	mux.Handle("/slow", a.measure("/slow", a.gate.wrap(http.HandlerFunc(a.slow))))
}

// crash ends the program with ?code=.
func (a *app) crash(_ http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil || code < 0 || code > 255 {
		code = 1
	}
	a.log.Error("drill: crashing", "code", code)
	os.Exit(code)
}

// breakProbe breaks ?probe=liveness or readiness, or repairs it with &repair=1.
func (a *app) breakProbe(w http.ResponseWriter, r *http.Request) {
	broken := r.FormValue("repair") != "1"
	switch r.FormValue("probe") {
	case "liveness":
		a.dead.Store(broken)
	case "readiness":
		a.unready.Store(broken)
	default:
		http.Error(w, "probe is liveness or readiness", http.StatusBadRequest)
		return
	}
	a.log.Warn("drill: probe", "probe", r.FormValue("probe"), "broken", broken)
	fmt.Fprintln(w, "ok")
}

// hog takes ?mb= MiB of memory and keeps them; 0 gives them back.
func (a *app) hog(w http.ResponseWriter, r *http.Request) {
	mb, err := strconv.Atoi(r.FormValue("mb"))
	if err != nil || mb < 0 || mb > maxHogMiB {
		http.Error(w, fmt.Sprintf("mb is a number up to %d", maxHogMiB), http.StatusBadRequest)
		return
	}
	a.log.Warn("drill: taking memory", "MiB", mb)
	memory := make([]byte, mb<<20)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1 // only touched pages are taken
	}
	a.hogged.Store(&memory)
	fmt.Fprintln(w, "ok")
}

// slow answers after ?duration=, to have a request in flight.
func (a *app) slow(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("duration"))
	if err != nil || d < 0 || d > maxSlow {
		http.Error(w, fmt.Sprintf("duration is one such as 3s, up to %s", maxSlow), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		fmt.Fprintln(w, "ok")
	case <-r.Context().Done():
	}
}
