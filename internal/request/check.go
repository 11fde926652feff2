package request

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
)

// input of every action: the request, which is in the namespace of its run.
type input struct {
	Request string `json:"request"`
	UID     string `json:"uid"`
}

var inputFields = []action.Field{
	{Name: "request", Type: v1alpha1.TypeString, Required: true, Doc: "Name of the ResourceRequest, of the run's namespace."},
	{Name: "uid", Type: v1alpha1.TypeString, Required: true, Doc: "UID of the ResourceRequest."},
}

// check is the action that looks at a request before somebody decides on it.
type check struct{ *Requests }

// Describe tells the action's inputs and outputs.
func (*check) Describe() action.Description {
	return action.Description{
		Name: "request.check", Internal: true,
		Summary: "Checks whether what a resource request asks for can be given, and gathers what whoever decides should know.",
		Inputs:  inputFields,
		Outputs: []action.Field{
			{Name: "type", Type: v1alpha1.TypeString, Doc: "New, Change, Extend or Return."},
			{Name: "partition", Type: v1alpha1.TypeString, Doc: "The partition that it is about."},
			{Name: "cluster", Type: v1alpha1.TypeString, Doc: "The cluster that was wished for; otherwise the one with the most room."},
			{Name: "quota", Type: v1alpha1.TypeObject, Doc: "What is asked for, products included."},
			{Name: "products", Type: v1alpha1.TypeList, Doc: "The products asked for, with the size that they had."},
			{Name: "until", Type: v1alpha1.TypeString, Doc: "The end that is asked for, as RFC 3339; empty for none."},
			{Name: "subject", Type: v1alpha1.TypeString, Doc: "What is to be decided, in words, with what should be known for it."},
			{Name: "evidence", Type: v1alpha1.TypeObject, Doc: "What the partition, or for a new one the tenant, used over time, by resource."},
			{Name: "notes", Type: v1alpha1.TypeList, Doc: "What should be known, a sentence each."},
		},
	}
}

// Run examines the request.
func (a *check) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	req, err := a.asked(ctx, call)
	if err == nil {
		err = open(req)
	}
	if err == nil {
		err = a.allowed(ctx, req)
	}
	if err != nil {
		return action.Outcome{}, err
	}
	found, err := a.examine(ctx, a.reader, req)
	if err != nil {
		return action.Outcome{}, err
	}
	evidence, err := a.evidence(ctx, req, found)
	if err != nil {
		return action.Outcome{}, err
	}
	found.notes = append(found.notes, evidence.notes()...)
	for _, note := range found.notes {
		call.Log("%s", note)
	}
	quota := map[string]string{}
	for name, q := range found.quota {
		quota[string(name)] = q.String()
	}
	return action.Done(map[string]any{
		"type": string(req.Spec.Wanted.Type), "partition": req.Spec.Wanted.Partition, "cluster": found.cluster, "quota": quota,
		"products": append([]product{}, found.products...), "until": timeText(found.until), "subject": subject(req, found),
		"evidence": evidence, "notes": append([]string{}, found.notes...),
	}), nil
}

func timeText(t *metav1.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// subject is what is to be decided, for people.
func subject(req *v1alpha1.ResourceRequest, f *finding) string {
	const longestPurpose, longest = 200, 950
	wanted, form := &req.Spec.Wanted, &req.Spec.Form
	var what string
	switch wanted.Type {
	case v1alpha1.RequestNew:
		what = fmt.Sprintf("a new partition %s in cluster %s with %s, until %s", wanted.Partition, f.cluster, words(f.quota), day(wanted.Until))
	case v1alpha1.RequestChange:
		what = fmt.Sprintf("another quota for partition %s: %s", wanted.Partition, words(f.quota))
		if wanted.Until != nil {
			what += ", until " + day(wanted.Until)
		}
	case v1alpha1.RequestExtend:
		what = fmt.Sprintf("a longer term for partition %s, until %s", wanted.Partition, day(wanted.Until))
	case v1alpha1.RequestReturn:
		what = fmt.Sprintf("to give partition %s back", wanted.Partition)
	}
	text := fmt.Sprintf("Tenant %s, %s (%s, %s) asks for %s. Purpose: %s. %s", req.Namespace, person(req.Spec.User), form.Applicant, form.ProjectGroup,
		what, shorten(form.Purpose, longestPurpose), strings.Join(f.notes, " "))
	return shorten(text, longest)
}

// shorten cuts a text to a number of bytes, on one line.
func shorten(text string, most int) string {
	text = strings.TrimRight(strings.Join(strings.Fields(text), " "), ".")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// Evidence is what was used over time of what a request is about.
type Evidence struct {
	Tenant string `json:"tenant"`
	// Partition that is asked about; empty for a new one, when it is the tenant's.
	Partition string `json:"partition,omitempty"`
	// Recent is the use of the last 30 days, Life that of all the time for which the partition has been there, from Since.
	Recent map[corev1.ResourceName]Used `json:"recent,omitempty"`
	Life   map[corev1.ResourceName]Used `json:"life,omitempty"`
	Since  string                       `json:"since,omitempty"`
}

// mostEvidence is how many resources stand in the evidence.
const mostEvidence = 20

// evidence reads the history of usage.
func (r *Requests) evidence(ctx context.Context, req *v1alpha1.ResourceRequest, f *finding) (*Evidence, error) {
	e := &Evidence{Tenant: req.Namespace}
	if r.Usage == nil {
		return e, nil
	}
	var err error
	now := r.Now()
	if f.partition != nil {
		e.Partition, e.Since = f.partition.Name, f.partition.CreationTimestamp.UTC().Format(time.RFC3339)
		if e.Life, err = r.Usage(ctx, e.Tenant, e.Partition, f.partition.CreationTimestamp.Time, now); err != nil {
			return nil, fmt.Errorf("reading what was used: %w", err)
		}
	}
	if e.Recent, err = r.Usage(ctx, e.Tenant, e.Partition, now.Add(-evidenceTime), now); err != nil {
		return nil, fmt.Errorf("reading what was used: %w", err)
	}
	e.Recent, e.Life = few(e.Recent), few(e.Life)
	return e, nil
}

func few(used map[corev1.ResourceName]Used) map[corev1.ResourceName]Used {
	for i, name := range slices.Sorted(maps.Keys(used)) {
		if i >= mostEvidence {
			delete(used, name)
		}
	}
	return used
}

// notes tell the most important of it in words.
func (e *Evidence) notes() []string {
	var notes []string
	whose := "tenant " + e.Tenant
	if e.Partition != "" {
		whose = "partition " + e.Partition
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory} {
		u, ok := e.Recent[name]
		if !ok {
			continue
		}
		note := fmt.Sprintf("In the last 30 days %s used %s of %s on average and %s at most", whose, figure(name, u.Average), name, figure(name, u.Peak))
		if u.Quota != nil {
			note += ", of " + figure(name, *u.Quota)
		}
		notes = append(notes, note+".")
	}
	return notes
}

// figure writes bytes in MiB, all else as it is.
func figure(name corev1.ResourceName, value float64) string {
	const mebibyte = 1 << 20
	if strings.HasSuffix(string(name), "memory") || strings.HasSuffix(string(name), "storage") {
		return strconv.FormatFloat(value/mebibyte, 'f', 0, 64) + "Mi"
	}
	return strconv.FormatFloat(value, 'f', 2, 64)
}
