package usage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/internal/record"
)

// amount is what of one resource was used during a span: on average, at most, and of how much; without a bound hard is
// nil. CPU is in cores, memory and storage in bytes, the rest in pieces.
type amount struct {
	Used float64  `json:"u"`
	Peak float64  `json:"p"`
	Hard *float64 `json:"h,omitempty"`
}

type amounts map[corev1.ResourceName]amount

func newAmounts(used, hard corev1.ResourceList) amounts {
	out := amounts{}
	names := map[corev1.ResourceName]bool{}
	for name := range used {
		names[name] = true
	}
	for name := range hard {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if len(out) == maxResources {
			break
		}
		q := used[name]
		a := amount{Used: q.AsApproximateFloat64(), Peak: q.AsApproximateFloat64()}
		if bound, ok := hard[name]; ok {
			value := bound.AsApproximateFloat64()
			a.Hard = &value
		}
		out[name] = a
	}
	return out
}

// mean joins spans of time into one: averages by their length, the highest peak, and the bound of the last.
type mean struct {
	total  map[corev1.ResourceName]float64
	length map[corev1.ResourceName]float64
	out    amounts
}

func newMean() *mean {
	return &mean{total: map[corev1.ResourceName]float64{}, length: map[corev1.ResourceName]float64{}, out: amounts{}}
}

// add takes the next span, in the order of time.
func (m *mean) add(a amounts, seconds int64) {
	for name, now := range a {
		m.total[name] += now.Used * float64(seconds)
		m.length[name] += float64(seconds)
		m.out[name] = amount{Used: m.total[name] / m.length[name], Peak: max(now.Peak, m.out[name].Peak), Hard: now.Hard}
	}
}

func compareSubjects(a, b subject) int {
	return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.partition, b.partition))
}

// insert writes a row. One that is there stays: two servers that led one after the other saw the same.
func insert(ctx context.Context, tx *record.Tx, s subject, at, span int64, values amounts) error {
	encoded, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("writing amounts: %w", err)
	}
	return tx.Exec(ctx, `INSERT INTO usage_samples (tenant, partition, at, span, amounts) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (tenant, partition, at) DO NOTHING`, s.tenant, s.partition, at, span, string(encoded))
}

func decode(text string) (amounts, error) {
	var a amounts
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, fmt.Errorf("reading amounts: %w", err)
	}
	return a, nil
}
