// Command yunfan-policy (CNI) is the last plugin of the chain that gives a pod its network. It tells the enforcer of
// network policies which pod got which address, and lets the pod start when its rules are in force. Without that, a pod
// could send before anybody knew that it may not.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"yunfan.io/engine/policy/attach"
)

// How long a pod waits for its rules, and how long its end may be held up. Without an answer kubelet tries again later.
const (
	addTimeout    = 10 * time.Second
	removeTimeout = 3 * time.Second
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: add, Del: remove,
		Check: func(*skel.CmdArgs) error { return nil }, GC: func(*skel.CmdArgs) error { return nil }, Status: func(*skel.CmdArgs) error { return nil },
	}, version.All, "yunfan-policy: waits until a pod's network policies are in force")
}

// podArgs is what the container runtime tells of the pod.
type podArgs struct {
	types.CommonArgs

	K8S_POD_UID, K8S_POD_NAMESPACE, K8S_POD_NAME types.UnmarshallableString //nolint:staticcheck // the runtime's words
}

func add(args *skel.CmdArgs) error {
	var config types.PluginConf
	if err := json.Unmarshal(args.StdinData, &config); err != nil {
		return fmt.Errorf("reading the network's configuration: %w", err)
	}
	if err := version.ParsePrevResult(&config); err != nil {
		return fmt.Errorf("reading the result of the plugin before: %w", err)
	}
	if config.PrevResult == nil {
		return errors.New("yunfan-policy must come after a plugin that gives addresses")
	}
	result, err := current.NewResultFromResult(config.PrevResult)
	if err != nil {
		return fmt.Errorf("reading the result of the plugin before: %w", err)
	}
	var pod podArgs
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return fmt.Errorf("reading the pod's name: %w", err)
	}
	address, err := v4(result)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), addTimeout)
	defer cancel()
	err = attach.Folder(attach.Dir).Add(ctx, args.ContainerID, attach.Sandbox{
		Pod: string(pod.K8S_POD_UID), Name: string(pod.K8S_POD_NAMESPACE + "/" + pod.K8S_POD_NAME), Address: address,
	})
	if err != nil {
		return err
	}
	return types.PrintResult(config.PrevResult, config.CNIVersion)
}

func v4(result *current.Result) (netip.Addr, error) {
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP.To4()); ok {
			return a, nil
		}
	}
	return netip.Addr{}, errors.New("the pod was given no IPv4 address")
}

// remove never holds up the end of a pod: should nobody answer, the record is taken away, so that the enforcer does not
// find it when it comes back.
func remove(args *skel.CmdArgs) error {
	folder := attach.Folder(attach.Dir)
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	if folder.Remove(ctx, args.ContainerID) == nil {
		return nil
	}
	return folder.Forget(args.ContainerID)
}
