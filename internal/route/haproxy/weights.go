package haproxy

import (
	"math"

	"yunfan.io/yunfan/internal/route/table"
)

// mostWeight is the largest weight of a server in HAProxy.
const mostWeight = 256

// weights gives the weight of each server of each target, such that the targets' shares come as near as they can to what
// is wanted. Targets that get nothing have 0, and all others at least 1.
func weights(targets []table.Target) []int {
	each, largest := make([]float64, len(targets)), 0.0
	for i, target := range targets {
		if !target.Closed && target.Weight > 0 && len(target.Servers) > 0 {
			each[i] = float64(target.Weight) / float64(len(target.Servers))
			largest = max(largest, each[i])
		}
	}
	best, least := make([]int, len(targets)), math.Inf(1)
	if largest == 0 {
		return best
	}
	for most := 1; most <= mostWeight; most++ {
		tried := make([]int, len(targets))
		for i := range targets {
			if each[i] > 0 {
				tried[i] = max(1, int(math.Round(each[i]/largest*float64(most))))
			}
		}
		// Smaller numbers are as good where they give the same shares.
		if off := deviation(targets, each, tried); off < least-1e-9 {
			best, least = tried, off
		}
	}
	return best
}

// deviation is the largest difference between a target's share and the one that is wanted.
func deviation(targets []table.Target, wanted []float64, given []int) float64 {
	var all, sum float64
	for i := range targets {
		servers := float64(len(targets[i].Servers))
		all += wanted[i] * servers
		sum += float64(given[i]) * servers
	}
	worst := 0.0
	for i := range targets {
		servers := float64(len(targets[i].Servers))
		worst = max(worst, math.Abs(wanted[i]*servers/all-float64(given[i])*servers/sum))
	}
	return worst
}
