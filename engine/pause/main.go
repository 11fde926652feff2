// Command pause is the first process of every pod: it holds the pod's namespaces open while containers come and go,
// and reaps the orphans of containers that share its process namespace.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("pause v1")
		return
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	wait(ended, orphans)
}

// wait returns when a signal arrives on ended. Signals of many children may have merged into one, so each one on
// orphans reaps all that have exited.
func wait(ended, orphans <-chan os.Signal) {
	for {
		select {
		case <-ended:
			return
		case <-orphans:
			reap()
		}
	}
}

// reap collects every child that has exited, without waiting for the rest.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != syscall.EINTR && pid <= 0 {
			return
		}
	}
}
