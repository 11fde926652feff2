// Command deviceplugin offers devices that do not exist to a kubelet, over its real device plugin API, so that GPUs can
// be asked for where there are none. It is for tests, and is called with the kubelet's folder of device plugins, the
// resource's name and the number of devices. It ends with its standard input.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	socket          = "fake.sock"
	registerTimeout = 20 * time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: deviceplugin FOLDER RESOURCE NUMBER")
	}
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("reading the number of devices: %w", err)
	}
	// Names of sockets are short: relative to the folder they always fit.
	if err := os.Chdir(args[0]); err != nil {
		return fmt.Errorf("entering the folder of device plugins: %w", err)
	}
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, &plugin{count: count})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	if err := register(args[1]); err != nil {
		return err
	}
	fmt.Println("registered")
	return <-ended
}

func register(resource string) error {
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	connection, err := grpc.NewClient("unix:"+"kubelet.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to the kubelet: %w", err)
	}
	defer func() { _ = connection.Close() }()
	_, err = api.NewRegistrationClient(connection).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: socket, ResourceName: resource, Options: &api.DevicePluginOptions{},
	}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("registering with the kubelet: %w", err)
	}
	return nil
}

// plugin has count healthy devices for ever.
type plugin struct {
	api.UnimplementedDevicePluginServer

	count int
}

// GetDevicePluginOptions asks for nothing special.
func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch tells the devices once; they never change.
func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	answer := &api.ListAndWatchResponse{}
	for i := range p.count {
		answer.Devices = append(answer.Devices, &api.Device{ID: "fake-" + strconv.Itoa(i), Health: api.Healthy})
	}
	if err := stream.Send(answer); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Allocate tells a container in a variable which devices it has.
func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		answer.ContainerResponses = append(answer.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"FAKE_GPU": fmt.Sprint(container.DevicesIds)},
		})
	}
	return answer, nil
}
