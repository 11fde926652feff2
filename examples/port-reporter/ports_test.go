package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestRES12_Listening(t *testing.T) {
	var config net.ListenConfig
	all, err := config.Listen(context.Background(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	own, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	datagrams, err := config.ListenPacket(context.Background(), "udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	report, err := listening("/proc", true)
	if err != nil {
		t.Fatal(err)
	}
	line := func(a net.Addr) string {
		_, port, _ := net.SplitHostPort(a.String())
		return fmt.Sprintf("\n%s port-reporter", port)
	}
	for reason, tc := range map[string]struct {
		address net.Addr
		want    bool
	}{"everybody's": {all.Addr(), true}, "UDP": {datagrams.LocalAddr(), true}, "loopback": {own.Addr(), false}} {
		if got := strings.Contains("\n"+report, line(tc.address)); got != tc.want {
			t.Errorf("%s: want reported %v, got %v:\n%s", reason, tc.want, got, report)
		}
	}
	without, err := listening("/proc", false)
	if err != nil || strings.Contains(without, "port-reporter") || strings.TrimSpace(without) == "" {
		t.Errorf("ports without programs: %q, %v", without, err)
	}
}
