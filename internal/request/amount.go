package request

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// largest is the largest amount that is taken for meant: beyond it, sums lose their exactness.
var largest = resource.MustParse("1E")

// product is an item of a request as it was when it was checked.
type product struct {
	Product string            `json:"product"`
	Count   int32             `json:"count"`
	CPU     resource.Quantity `json:"cpu"`
	Memory  resource.Quantity `json:"memory"`
}

// asked is the quota that a request asks for: that of its products and what it names itself, together.
func asked(ctx context.Context, from client.Reader, wanted *v1alpha1.WantedResources) (corev1.ResourceList, []product, error) {
	sum := corev1.ResourceList{}
	var products []product
	for _, item := range wanted.Items {
		p := &v1alpha1.Product{}
		err := from.Get(ctx, client.ObjectKey{Name: item.Product}, p)
		if apierrors.IsNotFound(err) {
			return nil, nil, action.Failed(fmt.Errorf("there is no product %q: 'yunfan products' lists those there are", item.Product))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading product %s: %w", item.Product, err)
		}
		if p.Spec.Available != nil && !*p.Spec.Available {
			return nil, nil, action.Failed(fmt.Errorf("product %s cannot be had at present: 'yunfan products' lists those that can", item.Product))
		}
		products = append(products, product{item.Product, item.Count, p.Spec.CPU, p.Spec.Memory})
		cpu, memory := p.Spec.CPU.DeepCopy(), p.Spec.Memory.DeepCopy()
		cpu.Mul(int64(item.Count))
		memory.Mul(int64(item.Count))
		v1alpha1.AddQuota(sum, corev1.ResourceList{corev1.ResourceRequestsCPU: cpu, corev1.ResourceRequestsMemory: memory})
	}
	v1alpha1.AddQuota(sum, wanted.Quota)
	if len(sum) == 0 {
		return nil, nil, nil
	}
	return sum, products, sound(sum)
}

// sound refuses amounts that cannot be meant.
func sound(quota corev1.ResourceList) error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(quota)) {
		switch q := quota[name]; {
		case q.Sign() < 0:
			problems = append(problems, fmt.Errorf("%s is %s: it cannot be below 0", name, q.String()))
		case q.Cmp(largest) > 0:
			problems = append(problems, fmt.Errorf("%s is %s: that is more than there can be", name, q.String()))
		}
		if !soundName(string(name)) {
			problems = append(problems, fmt.Errorf("%.80q is no resource of a quota: use names such as requests.cpu, requests.memory, limits.cpu, pods", string(name)))
		}
	}
	if problems == nil {
		return nil
	}
	return action.Failed(errors.Join(problems...))
}

// soundName says whether Kubernetes may take a name for one of a quota.
func soundName(name string) bool {
	const longest = 253
	return name != "" && len(name) <= longest && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-._/") == "" &&
		strings.Count(name, "/") <= 1 && !strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/")
}

// grant is what a partition is given: what was asked for, or less where whoever approved gave less. Bounds that were not
// asked for may be added; one that is there is not raised that way.
func grant(asked, approved, current corev1.ResourceList) (granted corev1.ResourceList, remarks []string) {
	asked, approved, current = v1alpha1.NormalizedQuota(asked), v1alpha1.NormalizedQuota(approved), v1alpha1.NormalizedQuota(current)
	granted = corev1.ResourceList{}
	maps.Copy(granted, asked)
	for _, name := range slices.Sorted(maps.Keys(approved)) {
		given := approved[name]
		most, bounded := asked[name]
		if !bounded {
			most, bounded = current[name]
		}
		if bounded && given.Cmp(most) > 0 {
			remarks = append(remarks, fmt.Sprintf("%s: %s were approved, but no more than %s are given, which was asked for", name, given.String(), most.String()))
			given = most
		}
		granted[name] = given
	}
	return granted, remarks
}

// over is a quota with some of its resources set anew.
func over(quota, with corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	maps.Copy(out, v1alpha1.NormalizedQuota(quota))
	maps.Copy(out, v1alpha1.NormalizedQuota(with))
	return out
}

// words writes a quota for people, in the order of names.
func words(quota corev1.ResourceList) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(quota)) {
		q := quota[name]
		parts = append(parts, string(name)+" "+q.String())
	}
	if parts == nil {
		return "no quota"
	}
	return strings.Join(parts, ", ")
}

// sameQuota says whether two quotas bound the same resources to the same amounts.
func sameQuota(a, b corev1.ResourceList) bool {
	return maps.EqualFunc(v1alpha1.NormalizedQuota(a), v1alpha1.NormalizedQuota(b), func(x, y resource.Quantity) bool { return x.Cmp(y) == 0 })
}
