package action_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// names is what the capability works with: a name server.
type names interface {
	Set(ctx context.Context, name string, address netip.Addr) error
	Look(ctx context.Context, name string) (netip.Addr, error)
}

// point lets a name point to an address, and waits until the world sees it.
type point struct{ names names }

// Describe says what the action takes and gives. Workflows are checked against it.
func (*point) Describe() action.Description {
	return action.Description{
		Name: "name.point", Summary: "Lets a name point to an address.", Timeout: 5 * time.Minute,
		Inputs: []action.Field{
			{Name: "name", Type: v1alpha1.TypeString, Required: true, Doc: "The name."},
			{Name: "address", Type: v1alpha1.TypeString, Required: true, Doc: "The address, as 10.1.2.3."},
		},
		Outputs: []action.Field{{Name: "address", Type: v1alpha1.TypeString, Doc: "What the name points to."}},
	}
}

// Run sets the desired state and waits for it. It may be called any number of times, also after a server was killed in
// the middle of it: setting what is set already changes nothing.
func (p *point) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	var in struct{ Name, Address string }
	if err := call.Decode(&in); err != nil {
		return action.Outcome{}, err
	}
	address, err := netip.ParseAddr(in.Address)
	if err != nil {
		return action.Outcome{}, action.Failed(fmt.Errorf("address: %w", err)) // trying again does not mend it
	}
	seen, err := p.names.Look(ctx, in.Name)
	if err != nil {
		return action.Outcome{}, fmt.Errorf("looking %s up: %w", in.Name, err) // tried again if the step says so
	}
	if seen == address {
		return action.Done(map[string]any{"address": address.String()}), nil
	}
	if err := call.Fence(ctx); err != nil { // another server carries the run by now
		return action.Outcome{}, fmt.Errorf("before setting %s: %w", in.Name, err)
	}
	if err := p.names.Set(ctx, in.Name, address); err != nil {
		return action.Outcome{}, fmt.Errorf("setting %s: %w", in.Name, err)
	}
	call.Log("%s points to %s", in.Name, address)
	return action.Again(5*time.Second, "waits until "+in.Name+" is seen to point to "+in.Address), nil
}

// fake is a name server that needs a while.
type fake struct{ set, seen netip.Addr }

func (f *fake) Set(_ context.Context, _ string, address netip.Addr) error {
	f.set = address
	return nil
}

func (f *fake) Look(context.Context, string) (netip.Addr, error) { return f.seen, nil }

func Example() {
	server := &fake{}
	catalogue, err := action.NewCatalogue(&point{server})
	if err != nil {
		fmt.Println(err)
		return
	}
	call := &action.Call{
		Key:    "point-1",
		Inputs: map[string]json.RawMessage{"name": json.RawMessage(`"score.example.org"`), "address": json.RawMessage(`"10.1.2.3"`)},
		Log:    func(format string, args ...any) { fmt.Printf(format+"\n", args...) },
		Fence:  func(context.Context) error { return nil },
	}
	for {
		outcome, err := catalogue["name.point"].Run(context.Background(), call)
		if err != nil || outcome.Done {
			fmt.Println(outcome.Outputs, err)
			return
		}
		fmt.Println(outcome.Message)
		server.seen = server.set // the world sees it
	}
	// Output:
	// score.example.org points to 10.1.2.3
	// waits until score.example.org is seen to point to 10.1.2.3
	// map[address:10.1.2.3] <nil>
}
