package placement

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

func partition(name, cluster string, labels map[string]string) v1alpha1.Partition {
	return v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: v1alpha1.PartitionSpec{Cluster: cluster}}
}

func deleted(p v1alpha1.Partition, policy v1alpha1.DeletionPolicy) v1alpha1.Partition {
	p.DeletionTimestamp, p.Spec.DeletionPolicy = &metav1.Time{Time: time.Unix(1, 0)}, policy
	return p
}

func TestChoose(t *testing.T) {
	partitions := []v1alpha1.Partition{
		partition("prod-sh", "shanghai", map[string]string{"tier": "gold"}),
		partition("prod-bj", "beijing", map[string]string{"tier": "gold"}),
		partition("test-bj", "beijing", map[string]string{"region": "special"}),
		deleted(partition("leaving", "beijing", map[string]string{"tier": "gone"}), v1alpha1.DeletionRefuse),
		deleted(partition("gone", "beijing", map[string]string{"tier": "gone"}), v1alpha1.DeletionDelete),
	}
	clusters := map[string]map[string]string{"beijing": {"region": "north"}, "shanghai": {"region": "east"}}
	byLabel := func(key, value string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	seven := int32(7)

	cases := map[string]struct {
		reason  string
		list    []v1alpha1.PartitionChoice
		want    []string
		missing []string
		refused string
	}{
		"by name":                    {reason: "the order of the list is kept", list: []v1alpha1.PartitionChoice{{Name: "prod-sh"}, {Name: "prod-bj"}}, want: []string{"prod-sh", "prod-bj"}},
		"by partition label":         {reason: "in the order of names", list: []v1alpha1.PartitionChoice{{Selector: byLabel("tier", "gold")}}, want: []string{"prod-bj", "prod-sh"}},
		"by cluster label":           {reason: "the cluster's labels count as the partition's", list: []v1alpha1.PartitionChoice{{Selector: byLabel("region", "north")}}, want: []string{"leaving", "prod-bj"}},
		"partition's label wins":     {reason: "test-bj says of itself that it is special", list: []v1alpha1.PartitionChoice{{Selector: byLabel("region", "special")}}, want: []string{"test-bj"}},
		"name wins over selector":    {reason: "weight and overrides of the name count", list: []v1alpha1.PartitionChoice{{Selector: byLabel("tier", "gold")}, {Name: "prod-bj", Weight: &seven}}, want: []string{"prod-sh", "prod-bj×7"}},
		"first selector wins":        {reason: "no partition is chosen twice", list: []v1alpha1.PartitionChoice{{Selector: byLabel("region", "east"), Weight: &seven}, {Selector: byLabel("tier", "gold")}}, want: []string{"prod-sh×7", "prod-bj"}},
		"unknown name":               {reason: "the rest is still resolved", list: []v1alpha1.PartitionChoice{{Name: "nowhere"}, {Name: "prod-bj"}}, want: []string{"prod-bj"}, missing: []string{"no partition nowhere"}},
		"selector without match":     {reason: "an empty choice is not an accident to pass over", list: []v1alpha1.PartitionChoice{{Selector: byLabel("tier", "lead")}}, missing: []string{`selector "tier=lead" matches no partition`}},
		"named twice":                {reason: "which weight would count?", list: []v1alpha1.PartitionChoice{{Name: "prod-bj"}, {Name: "prod-bj"}}, refused: "named twice"},
		"leaving but delivered":      {reason: "a deletion that is refused does not move the application", list: []v1alpha1.PartitionChoice{{Name: "leaving"}}, want: []string{"leaving"}},
		"being deleted with all":     {reason: "its applications are removed and must not come back", list: []v1alpha1.PartitionChoice{{Name: "gone"}}, missing: []string{"partition gone is being deleted"}},
		"malformed selector":         {reason: "the message says which", list: []v1alpha1.PartitionChoice{{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}}, refused: "placement.partitions[0]"},
		"empty selector matches all": {reason: "as everywhere in Kubernetes", list: []v1alpha1.PartitionChoice{{Selector: &metav1.LabelSelector{}}}, want: []string{"leaving", "prod-bj", "prod-sh", "test-bj"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			chosen, err := Choose(tc.list, partitions, clusters, func(p string) bool { return p == "leaving" })
			var got []string
			for _, c := range chosen {
				suffix := ""
				if c.Weight == seven {
					suffix = "×7"
				}
				got = append(got, c.Partition.Name+suffix)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n%s", tc.reason, diff)
			}
			if notFound, ok := errors.AsType[*NotFoundError](err); ok {
				if diff := cmp.Diff(tc.missing, notFound.Missing); diff != "" {
					t.Errorf("%s\n%s", tc.reason, diff)
				}
			} else if tc.missing != nil || (err == nil) != (tc.refused == "") || (err != nil && !strings.Contains(err.Error(), tc.refused)) {
				t.Errorf("%s: unexpected error %v", tc.reason, err)
			}
		})
	}
}
