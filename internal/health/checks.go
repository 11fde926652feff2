package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	maxAnswer = 4 << 20 // of what is read of a component's answer, in bytes

	// A disk is Degraded with less than a tenth or 2 GiB left, Failed with less than 512 MiB.
	lowShare, lowBytes, fullBytes = 10, 2 << 30, 512 << 20
)

// Leader says which replica leads: the controllers run there.
func Leader(hub client.Reader, namespace, lease string) Check {
	return Check{Name: "server", Advice: "start a server, or look into the servers' logs: nothing is delivered without a leader", Look: func(ctx context.Context) ([]Component, error) {
		l := &coordinationv1.Lease{}
		if err := hub.Get(ctx, client.ObjectKey{Namespace: namespace, Name: lease}, l); err != nil {
			return nil, fmt.Errorf("looking for the leader: %w", err)
		}
		holder, renewed, life := "", time.Time{}, int32(0)
		if l.Spec.HolderIdentity != nil && l.Spec.RenewTime != nil && l.Spec.LeaseDurationSeconds != nil {
			holder, renewed, life = *l.Spec.HolderIdentity, l.Spec.RenewTime.Time, *l.Spec.LeaseDurationSeconds
		}
		if holder == "" || time.Since(renewed) > 2*time.Duration(life)*time.Second {
			return nil, fmt.Errorf("no server leads: the last one, %q, was seen at %s", holder, renewed.UTC().Format(time.RFC3339))
		}
		return one("server", "leader %s", holder), nil
	}}
}

// Hub asks the hub's API server how it and its etcd are.
func Hub(config *clientrest.Config) Check {
	advice := "see the logs of the hub's control plane; members go on running without it (docs/break-glass.md)"
	return Check{Name: "hub API", Advice: advice, Look: func(ctx context.Context) ([]Component, error) {
		c, err := clientrest.HTTPClientFor(config)
		if err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
		base, _, err := clientrest.DefaultServerUrlFor(config)
		if err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
		parts := []Component{}
		for _, one := range []struct{ name, path string }{{"hub API", "/readyz"}, {"hub etcd", "/readyz/etcd"}} {
			part := Component{Name: one.name, State: OK}
			if err := get(ctx, c, base.JoinPath(one.path).String()); err != nil {
				part.State, part.Message = Failed, err.Error()
			}
			parts = append(parts, part)
		}
		return parts, nil
	}}
}

// Registry asks the registry.
func Registry(address string) Check {
	return Check{
		Name: "registry", Advice: "start it again ('yunfan-engine start services/registry' for the embedded one): running pods go on, new ones that need an image do not start",
		Look: func(ctx context.Context) ([]Component, error) {
			if err := get(ctx, http.DefaultClient, strings.TrimSuffix(address, "/")+"/v2/"); err != nil {
				return nil, err
			}
			return one("registry", "%s", address), nil
		},
	}
}

func get(ctx context.Context, c *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	response, err := c.Do(request)
	if err != nil {
		return fmt.Errorf("asking: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}

// Members tells what the members' Ready conditions say.
func Members(hub client.Reader) Check {
	return Check{Name: "members", Advice: "see docs/cluster.md for the reason; its applications go on running", Look: func(ctx context.Context) ([]Component, error) {
		list := &v1alpha1.ClusterList{}
		if err := hub.List(ctx, list); err != nil {
			return nil, fmt.Errorf("listing clusters: %w", err)
		}
		var parts []Component
		for i := range list.Items {
			c := &list.Items[i]
			parts = append(parts, ofCondition("member "+c.Name, meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady)))
		}
		return parts, nil
	}}
}

// Directories tells what the directories' Ready conditions say.
func Directories(hub client.Reader) Check {
	return Check{Name: "directories", Advice: "see docs/directory.md for the reason; local accounts can still sign in", Look: func(ctx context.Context) ([]Component, error) {
		list := &v1alpha1.DirectoryList{}
		if err := hub.List(ctx, list); err != nil {
			return nil, fmt.Errorf("listing directories: %w", err)
		}
		var parts []Component
		for i := range list.Items {
			d := &list.Items[i]
			parts = append(parts, ofCondition("directory "+d.Name, meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionReady)))
		}
		return parts, nil
	}}
}

// Records asks the database of records.
func Records(check func(context.Context) error) Check {
	return Check{Name: "records", Advice: "see docs/records.md; writes are refused as long as they cannot be audited", Look: func(ctx context.Context) ([]Component, error) {
		if err := check(ctx); err != nil {
			return nil, err
		}
		return one("records", "the database answers"), nil
	}}
}

// Certificates tells of those that end soon.
func Certificates(ends func(context.Context) (first string, days int, unseen []string)) Check {
	const warn, every = 14, 10 * time.Minute
	return Check{Name: "certificates", Every: every, Advice: "see 'yunfan certificates' and docs/certificates.md", Look: func(ctx context.Context) ([]Component, error) {
		first, days, unseen := ends(ctx)
		switch {
		case days < 0:
			return nil, fmt.Errorf("%s has ended", first)
		case days < warn:
			return []Component{{Name: "certificates", State: Degraded, Message: fmt.Sprintf("%s ends in %d days", first, days)}}, nil
		case len(unseen) > 0:
			return []Component{{Name: "certificates", State: Degraded, Message: "they cannot be seen: " + strings.Join(unseen, ", ")}}, nil
		}
		return one("certificates", "the first to end, in %d days, is %s", days, first), nil
	}}
}

// Disk tells how much room is left where a folder is.
func Disk(folder string) Check {
	return Check{Name: "disk", Advice: "make room or move the data to a larger disk: with a full disk nothing can be stored", Look: func(context.Context) ([]Component, error) {
		var s unix.Statfs_t
		if err := unix.Statfs(folder, &s); err != nil {
			return nil, fmt.Errorf("looking at the disk of %s: %w", folder, err)
		}
		free, size := s.Bavail*uint64(s.Bsize), s.Blocks*uint64(s.Bsize)
		part := Component{Name: "disk", State: OK, Message: fmt.Sprintf("%d of %d GiB are free where %s is", free>>30, size>>30, folder)}
		switch {
		case free < fullBytes:
			part.State = Failed
		case free < lowBytes || free < size/lowShare:
			part.State = Degraded
		}
		return []Component{part}, nil
	}}
}

// Engine asks the engine of the embedded clusters for its processes.
func Engine(dataDir string) Check {
	socket := filepath.Join(dataDir, "engine.sock")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	return Check{Name: "engine", Advice: "see 'yunfan-engine status'; 'yunfan up' starts what is missing", Look: func(ctx context.Context) ([]Component, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/status", bytes.NewReader([]byte("{}")))
		if err != nil {
			return nil, fmt.Errorf("asking the engine: %w", err)
		}
		response, err := c.Do(request)
		if err != nil {
			return nil, fmt.Errorf("asking the engine: %w", err)
		}
		defer response.Body.Close()
		var status struct {
			Processes []struct{ Target, State, LastError string }
		}
		if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&status); err != nil {
			return nil, fmt.Errorf("reading the engine's answer: %w", err)
		}
		if len(status.Processes) == 0 {
			return nil, errors.New("it runs nothing")
		}
		parts := one("engine", "%d processes", len(status.Processes))
		for _, p := range status.Processes {
			if p.State != "Ready" && p.State != "Done" {
				parts = append(parts, Component{Name: "engine " + p.Target, State: Failed, Message: strings.TrimSpace(p.State + " " + p.LastError)})
			}
		}
		return parts, nil
	}}
}
