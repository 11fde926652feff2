package record

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	claimLabel   = "yunfan.io/records"
	claimKind    = "yunfan.io/records-kind"
	claimPlace   = "yunfan.io/records-place"
	claimTime    = 30 * time.Second
	claimRenewal = claimTime / 3
	// claimMemory is how long a claim that ended is kept to be looked at.
	claimMemory = time.Hour
)

// Claim tells on the hub which database a server keeps its records in, by a Lease per server, so that two servers
// never keep them in different places: half of the audit would be missing in each.
type Claim struct {
	// Hub is a client without a cache.
	Hub      client.Client
	Database *Database
	// Namespace holds the Leases.
	Namespace string
	// Holder is the server's place, such as host and address listened on: a server that is started again there takes
	// over at once from the one that was killed.
	Holder string

	taken metav1.MicroTime
}

// Take claims, or says which server that still runs stands in the way. Of two that claim at the same time the first
// wins.
func (c *Claim) Take(ctx context.Context) error {
	c.taken = metav1.NowMicro()
	if err := c.write(ctx); err != nil {
		return err
	}
	leases := &coordinationv1.LeaseList{}
	if err := c.Hub.List(ctx, leases, client.InNamespace(c.Namespace), client.HasLabels{claimLabel}); err != nil {
		return fmt.Errorf("looking for other servers' records: %w", err)
	}
	for _, other := range leases.Items {
		if other.Name == c.name() || other.Spec.RenewTime == nil || other.Spec.HolderIdentity == nil {
			continue
		}
		age := time.Since(other.Spec.RenewTime.Time)
		if age > claimMemory {
			if err := c.Hub.Delete(ctx, &other); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("removing an old claim: %w", err)
			}
		}
		if age > claimTime || !c.conflicts(&other) || c.before(&other) {
			continue
		}
		if err := c.release(ctx); err != nil {
			return err
		}
		return fmt.Errorf("the server %s runs on this hub and keeps its records in %s, this one would in %s: several servers need one PostgreSQL; "+
			"give all of them the same --records postgres://…, or stop that server", *other.Spec.HolderIdentity, other.Annotations[claimPlace], c.Database)
	}
	return nil
}

// conflicts says that the other server's database is not ours, or one that cannot be shared.
func (c *Claim) conflicts(other *coordinationv1.Lease) bool {
	return other.Labels[claimLabel] != c.Database.Identity() || c.Database.Dialect() == SQLite
}

// before says that this claim is the older one. Both servers decide alike.
func (c *Claim) before(other *coordinationv1.Lease) bool {
	if other.Spec.AcquireTime == nil {
		return true
	}
	return cmp.Or(c.taken.Compare(other.Spec.AcquireTime.Time), cmp.Compare(c.name(), other.Name)) < 0
}

// NeedLeaderElection says that every server has a claim of its own.
func (c *Claim) NeedLeaderElection() bool { return false }

// Start renews the claim until ctx ends, and then gives it up.
func (c *Claim) Start(ctx context.Context) error {
	ticker := time.NewTicker(claimRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
			defer cancel()
			return c.release(last)
		case <-ticker.C:
		}
		if err := c.write(ctx); err != nil && ctx.Err() == nil {
			ctrl.LoggerFrom(ctx).Error(err, "Another server may take this one for stopped")
		}
	}
}

func (c *Claim) name() string {
	const length = 8
	sum := sha256.Sum256([]byte(c.Holder))
	return "records-" + hex.EncodeToString(sum[:length])
}

func (c *Claim) write(ctx context.Context) error {
	seconds, now := int32(claimTime.Seconds()), metav1.NowMicro()
	wanted := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: c.name(),
			Labels:      map[string]string{claimLabel: c.Database.Identity()},
			Annotations: map[string]string{claimKind: string(c.Database.Dialect()), claimPlace: c.Database.String()},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &c.Holder, LeaseDurationSeconds: &seconds, AcquireTime: &c.taken, RenewTime: &now},
	}
	present := &coordinationv1.Lease{}
	err := c.Hub.Get(ctx, client.ObjectKeyFromObject(wanted), present)
	switch {
	case err == nil:
		wanted.ResourceVersion = present.ResourceVersion
		err = c.Hub.Update(ctx, wanted)
	case apierrors.IsNotFound(err):
		err = c.Hub.Create(ctx, wanted)
	}
	if err != nil {
		return fmt.Errorf("claiming records on the hub: %w", err)
	}
	return nil
}

func (c *Claim) release(ctx context.Context) error {
	if err := c.Hub.Delete(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.name()}}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("giving up the claim on records: %w", err)
	}
	return nil
}
