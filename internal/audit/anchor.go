package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/record"
)

const (
	// anchorTime and anchorRows are how far the hub's anchors are behind the chains at most.
	anchorTime = 10 * time.Second
	anchorRows = 1000
	// anchorsName begins the names of the ConfigMaps; the database's identity follows.
	anchorsName = "audit-anchors-"
)

// Anchors keeps the heads of all chains of a database on the hub, in a ConfigMap named after the database: whoever
// changes the database would have to change the hub, too.
type Anchors struct {
	Hub       client.Client // not a cache
	Database  *record.Database
	Namespace string
}

// Anchor is a head that the hub holds of a chain, and where its rows begin after the oldest were removed by retention.
type Anchor struct {
	Seq     int64     `json:"seq"`
	Hash    string    `json:"hash"`
	Time    time.Time `json:"time"`
	Cut     int64     `json:"cut,omitempty"`
	CutHash string    `json:"cutHash,omitempty"`
}

func (a *Anchors) key() client.ObjectKey {
	return client.ObjectKey{Namespace: a.Namespace, Name: anchorsName + strings.ToLower(a.Database.Identity())}
}

// Read gives the anchors by the writers' numbers.
func (a *Anchors) Read(ctx context.Context) (map[int64]Anchor, error) {
	anchors, _, err := a.read(ctx)
	return anchors, err
}

func (a *Anchors) read(ctx context.Context) (map[int64]Anchor, *corev1.ConfigMap, error) {
	held := &corev1.ConfigMap{}
	err := a.Hub.Get(ctx, a.key(), held)
	if apierrors.IsNotFound(err) {
		return map[int64]Anchor{}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the audit's anchors from ConfigMap %s: %w", a.key(), err)
	}
	anchors := make(map[int64]Anchor, len(held.Data))
	for _, key := range slices.Sorted(maps.Keys(held.Data)) {
		writer, err := strconv.ParseInt(key, 10, 64)
		var anchor Anchor
		if err = errors.Join(err, json.Unmarshal([]byte(held.Data[key]), &anchor)); err != nil {
			return nil, nil, fmt.Errorf("reading the audit's anchor of writer %s from ConfigMap %s: %w", key, a.key(), err)
		}
		anchors[writer] = anchor
	}
	return anchors, held, nil
}

// Set moves anchors forward to heads.
func (a *Anchors) Set(ctx context.Context, heads ...Head) error {
	return a.change(ctx, func(anchors map[int64]Anchor) error {
		for _, head := range heads {
			anchor := anchors[head.Writer]
			if head.Seq < anchor.Seq {
				return fmt.Errorf("the chain of writer %d has %d links, and the hub holds an anchor at %d: rows were cut off, run 'yunfan audit verify'", head.Writer, head.Seq, anchor.Seq)
			}
			anchor.Seq, anchor.Hash, anchor.Time = head.Seq, hex.EncodeToString(head.Hash), time.Now().UTC()
			anchors[head.Writer] = anchor
		}
		return nil
	})
}

// change writes anchors if nobody else has in the meantime, and tries again otherwise.
func (a *Anchors) change(ctx context.Context, do func(map[int64]Anchor) error) error {
	conflict := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(retry.DefaultBackoff, conflict, func() error {
		anchors, held, err := a.read(ctx)
		if err != nil {
			return err
		}
		if err := do(anchors); err != nil {
			return err
		}
		data := make(map[string]string, len(anchors))
		for writer, anchor := range anchors {
			data[strconv.FormatInt(writer, 10)] = string(encode(anchor))
		}
		if held == nil {
			key := a.key()
			return a.Hub.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: data})
		}
		held.Data = data
		return a.Hub.Update(ctx, held)
	})
	if err != nil {
		return fmt.Errorf("anchoring the audit on the hub: %w", err)
	}
	return nil
}

// heads reads the heads of the chains of writers that cannot anchor themselves, such as the registry: those that have
// moved since they were anchored, as far as they still hold what was.
func (a *Anchors) heads(ctx context.Context, own int64) ([]Head, error) {
	anchors, err := a.Read(ctx)
	if err != nil {
		return nil, err
	}
	var moved []Head
	err = a.Database.View(ctx, func(tx *record.Tx) error {
		err := tx.Each(ctx, func(scan func(...any) error) error {
			var head Head
			if err := scan(&head.Writer, &head.Seq, &head.Hash); err != nil {
				return err
			}
			if anchor, known := anchors[head.Writer]; !known || head.Seq > anchor.Seq {
				moved = append(moved, head)
			}
			return nil
		}, `SELECT id, head_seq, head_hash FROM audit_writers WHERE id <> ?`, own)
		if err != nil {
			return err
		}
		for _, head := range moved {
			anchor, known := anchors[head.Writer]
			if !known || anchor.Seq == 0 {
				continue
			}
			hash, err := linkAt(ctx, tx, head.Writer, anchor.Seq)
			if err != nil {
				return err
			}
			if held, err := hex.DecodeString(anchor.Hash); err != nil || hash != nil && !bytes.Equal(hash, held) {
				return fmt.Errorf("the chain of writer %d is not the one that was anchored: run 'yunfan audit verify'", head.Writer)
			}
		}
		return nil
	})
	return moved, err
}

// linkAt is the stored hash of a link; nil if retention has removed it.
func linkAt(ctx context.Context, tx *record.Tx, writer, seq int64) ([]byte, error) {
	var hash []byte
	found, err := tx.One(ctx, []any{&hash}, `SELECT hash FROM audit_rows WHERE writer = ? AND seq = ?`, writer, seq)
	if err != nil || found {
		return hash, err
	}
	_, err = tx.One(ctx, []any{&hash}, `SELECT result_hash FROM audit_rows WHERE result_writer = ? AND result_seq = ?`, writer, seq)
	return hash, err
}
