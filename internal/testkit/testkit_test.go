package testkit_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

func TestHubHasKinds(t *testing.T) {
	for _, list := range []client.ObjectList{&v1alpha1.ClusterList{}, &v1alpha1.ApplicationList{}, &corev1.PodList{}} {
		if err := hub.Client.List(t.Context(), list); err != nil {
			t.Errorf("listing %T: %v", list, err)
		}
	}
}

func TestProxy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(server.Close)
	proxy := testkit.NewProxy(t, strings.TrimPrefix(server.URL, "http://"))
	fresh := func() error { return get(proxy.Address(), &http.Transport{DisableKeepAlives: true}) }
	kept := &http.Transport{}

	timeout := func(err error) bool {
		var ne net.Error
		return errors.As(err, &ne) && ne.Timeout()
	}
	cases := map[string]struct {
		reason  string
		disturb func(testing.TB)
		want    func(error) bool
	}{
		"Refuse": {"a port without a listener", proxy.Refuse, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }},
		"Freeze": {"a server that hangs", proxy.Freeze, timeout},
		"Drop":   {"packets that are lost", proxy.Drop, timeout},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if err := get(proxy.Address(), kept); err != nil {
				t.Fatalf("before %s: %v", tc.reason, err)
			}
			tc.disturb(t)
			if err := fresh(); !tc.want(err) {
				t.Errorf("%s, new connection: got %v", tc.reason, err)
			}
			if err := get(proxy.Address(), kept); !tc.want(err) {
				t.Errorf("%s, kept connection: got %v", tc.reason, err)
			}
			kept.CloseIdleConnections()
			proxy.Pass(t)
			if err := fresh(); err != nil {
				t.Errorf("after %s: %v", tc.reason, err)
			}
		})
	}
}

func get(address string, transport *http.Transport) error {
	c := http.Client{Transport: transport, Timeout: 300 * time.Millisecond}
	response, err := c.Get("http://" + address)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
