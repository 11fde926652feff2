package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"yunfan.io/yunfan/internal/record"
)

// openRecords opens the database for rows beside the hub, unless another server of the hub keeps them elsewhere.
// It also gives the server's place: another process there can only be a successor.
func openRecords(ctx context.Context, mgr manager.Manager, location string, listen net.Addr) (*record.Database, string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, "", fmt.Errorf("finding this machine's name: %w", err)
	}
	place := host + "/" + listen.String()
	database, err := record.Open(ctx, location)
	if err != nil {
		return nil, "", err
	}
	if err := claimRecords(ctx, mgr, database, place); err != nil {
		return nil, "", errors.Join(err, database.Close())
	}
	return database, place, nil
}

func claimRecords(ctx context.Context, mgr manager.Manager, database *record.Database, place string) error {
	hub, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient()})
	if err != nil {
		return fmt.Errorf("making the hub's client: %w", err)
	}
	claim := &record.Claim{Hub: hub, Database: database, Namespace: Namespace, Holder: place}
	if err := claim.Take(ctx); err != nil {
		return err
	}
	return mgr.Add(claim)
}
