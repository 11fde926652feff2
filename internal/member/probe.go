package member

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"yunfan.io/yunfan/api/v1alpha1"
)

// A member that stops answering is noticed after probeFailures probes, each probeInterval after the one before or, if
// that timed out, right after it: within 7 s, however it fails.
const (
	probeInterval   = 2 * time.Second
	probeTimeout    = 2500 * time.Millisecond
	probeFailures   = 2
	versionInterval = 30 * time.Second
)

// prober asks the member for its identity, on connections of its own. The question passes authentication,
// authorisation and the cluster's storage, so its answer says that the control plane works.
type prober struct {
	api         *corev1client.CoreV1Client
	connections *connrotation.Dialer
	versionRead time.Time
}

func newProber(config *rest.Config) (*prober, error) {
	p := &prober{connections: connrotation.NewDialer(dial)}
	own := rest.CopyConfig(config)
	own.QPS = -1
	own.UserAgent = "yunfan-probe"
	own.Dial = p.connections.DialContext
	own.Timeout = probeTimeout
	var err error
	p.api, err = corev1client.NewForConfig(own)
	return p, err
}

func (p *prober) run(ctx context.Context, m *Member) {
	defer p.connections.CloseAll()
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	failures := 0
	for {
		uid, err := p.identity(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			p.answered(ctx, m, uid)
		} else {
			failures++
			// The next probe must not wait on a connection that is dead.
			p.connections.CloseAll()
			if failures >= probeFailures || !m.State().Answering {
				reason, message := explain(err)
				m.observe(func(s *State) { s.Answering, s.Reason, s.Message = false, reason, message })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (p *prober) answered(ctx context.Context, m *Member, uid string) {
	seen := time.Now()
	running := m.State().Version
	if running == "" || seen.Sub(p.versionRead) > versionInterval || !m.State().Answering {
		if v, err := p.version(ctx); err == nil {
			running, p.versionRead = v, seen
		}
	}
	m.observe(func(s *State) {
		*s = State{Answering: true, LastSeen: seen, UID: uid, Version: running}
	})
}

func (p *prober) identity(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	ns, err := p.api.Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return string(ns.UID), nil
}

func (p *prober) version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	data, err := p.api.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var info version.Info
	if err := json.Unmarshal(data, &info); err != nil {
		return "", fmt.Errorf("reading the version: %w", err)
	}
	return info.GitVersion, nil
}

// explain turns a probe's error into a reason and a message that says what to do.
func explain(err error) (reason, message string) {
	var unverified *tls.CertificateVerificationError
	switch {
	case apierrors.IsUnauthorized(err):
		return v1alpha1.ReasonCredentialsInvalid, "the cluster refuses the credentials in the kubeconfig (401): put valid ones into the Secret"
	case apierrors.IsForbidden(err):
		return v1alpha1.ReasonCredentialsInvalid, "the user in the kubeconfig may not read the namespace kube-system (403): " +
			"use one that is bound to the ClusterRole cluster-admin"
	case errors.As(err, &unverified):
		return v1alpha1.ReasonCredentialsInvalid, fmt.Sprintf("the server's certificate cannot be verified with the authority "+
			"in the kubeconfig (%v): check certificate-authority-data and server", unverified.Err)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return v1alpha1.ReasonUnreachable, fmt.Sprintf("no answer within %s: check the cluster's control plane and the network to it", probeTimeout)
	}
	return v1alpha1.ReasonUnreachable, fmt.Sprintf("%v: check the cluster's control plane and the network to it", err)
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
