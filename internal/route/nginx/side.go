package nginx

import (
	"crypto/sha256"
	"encoding/hex"

	"yunfan.io/yunfan/internal/route/table"
)

// side is the inner side of one target of one pool.
type side struct {
	pool   string
	target table.Target
	// socket is the name of its socket in the folder that Nginx runs in: of no other Nginx on this machine.
	socket string
	// retries between the target's servers.
	retries int
}

// sides are those of all targets of a table, closed ones too.
func sides(dir string, t *table.Table) []side {
	var all []side
	for _, pool := range t.Pools {
		for _, target := range pool.Targets {
			all = append(all, side{
				pool: pool.Name, target: target, socket: socketName(dir, pool.Name, target.Name), retries: pool.Retries,
			})
		}
	}
	return all
}

func socketName(dir, pool, target string) string {
	return "t-" + short(dir+"\x00"+pool+"\x00"+target)
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
