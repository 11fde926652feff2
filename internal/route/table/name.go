package table

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// NetworkName names a set of ranges by its content: the edge puts it into HeaderClient, and the gateway looks for it.
// Order and repetition do not matter.
func NetworkName(cidrs []string) string {
	sorted := slices.Compact(slices.Sorted(slices.Values(cidrs)))
	sum := sha256.Sum256([]byte(strings.Join(sorted, "\n")))
	return "n" + hex.EncodeToString(sum[:6])
}

// TargetName names the partition that has a namespace of a cluster. Namespaces have no dots, and two clusters may have
// the same one.
func TargetName(namespace, cluster string) string { return namespace + "." + cluster }
