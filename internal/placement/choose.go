package placement

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Choice is a partition that a placement chooses.
type Choice struct {
	// Partition that is chosen.
	Partition *v1alpha1.Partition
	// Weight in the policy Weighted.
	Weight int32
	// Overrides of components there.
	Overrides []v1alpha1.Override
}

// NotFoundError says that a placement names partitions that do not exist, or has selectors that match none.
type NotFoundError struct{ Missing []string }

func (e *NotFoundError) Error() string {
	return strings.Join(e.Missing, "; ") + ": create the partition or correct placement.partitions"
}

// Choose resolves names and selectors to partitions, each once, in the order of the list and within a selector by name.
// A partition that is both named and selected has the weight and overrides that go with its name. Selectors see the
// labels of partition and cluster together; the partition's win. A partition under deletion is chosen only while it has
// a delivery and does not throw its applications out. What can be resolved is returned with the error about the rest,
// which is a NotFoundError or says which selector is wrong.
func Choose(list []v1alpha1.PartitionChoice, partitions []v1alpha1.Partition, clusterLabels map[string]map[string]string, delivered func(partition string) bool) ([]Choice, error) {
	usable := map[string]*v1alpha1.Partition{}
	var names []string
	for i := range partitions {
		p := &partitions[i]
		if p.DeletionTimestamp != nil && (p.Spec.DeletionPolicy == v1alpha1.DeletionDelete || !delivered(p.Name)) {
			continue
		}
		usable[p.Name] = p
		names = append(names, p.Name)
	}
	slices.Sort(names)

	named := map[string]bool{}
	for _, choice := range list {
		if choice.Name == "" {
			continue
		}
		if named[choice.Name] {
			return nil, fmt.Errorf("partition %s is named twice in placement.partitions: leave one", choice.Name)
		}
		named[choice.Name] = true
	}

	var chosen []Choice
	var missing []string
	seen := map[string]bool{}
	for i := range list {
		if name := list[i].Name; name != "" {
			switch p := usable[name]; {
			case p != nil:
				chosen = append(chosen, choiceOf(&list[i], p))
			case slices.ContainsFunc(partitions, func(p v1alpha1.Partition) bool { return p.Name == name }):
				missing = append(missing, fmt.Sprintf("partition %s is being deleted", name))
			default:
				missing = append(missing, "no partition "+name)
			}
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(list[i].Selector)
		if err != nil {
			return nil, fmt.Errorf("reading selector of placement.partitions[%d]: %w", i, err)
		}
		matched := false
		for _, name := range names {
			p := usable[name]
			if !selector.Matches(labels.Merge(clusterLabels[p.Spec.Cluster], p.Labels)) {
				continue
			}
			matched = true
			if !named[name] && !seen[name] {
				seen[name] = true
				chosen = append(chosen, choiceOf(&list[i], p))
			}
		}
		if !matched {
			missing = append(missing, fmt.Sprintf("selector %q matches no partition", metav1.FormatLabelSelector(list[i].Selector)))
		}
	}
	if missing != nil {
		return chosen, &NotFoundError{Missing: missing}
	}
	return chosen, nil
}

func choiceOf(choice *v1alpha1.PartitionChoice, p *v1alpha1.Partition) Choice {
	weight := int32(1)
	if choice.Weight != nil {
		weight = *choice.Weight
	}
	return Choice{Partition: p, Weight: weight, Overrides: choice.Overrides}
}
