package application

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// stepApprove is the one step of a release's run.
	stepApprove = "approve"
	// mostRuns is how many names are tried for a run: somebody may have taken one.
	mostRuns = 10
	// maxSubject is how long what is said to approvers may be, in bytes.
	maxSubject = 900
	// remindEvery is how often those who may approve are told again.
	remindEvery = "24h"
)

// needApproval gives the partitions that the plan's revision reaches only after somebody has approved it. Where it runs
// already nothing new comes in; once approved it needs no other approval, also when it is taken up again later.
func (w *world) needApproval(p *Plan) []string {
	if w.approved(p.Revision) {
		return nil
	}
	var names []string
	for i := range p.Deliveries {
		name := p.Deliveries[i].Spec.Partition
		if !w.asksForApproval(name) {
			continue
		}
		if d := w.there(&p.Deliveries[i]); d == nil || stableTrack(d).Revision != p.Revision.Name {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// there is what a partition has of a delivery that should be; nil if nothing, or something that is on its way out.
func (w *world) there(wanted *v1alpha1.Delivery) *v1alpha1.Delivery {
	d := w.deliveries[wanted.Spec.Partition]
	if d == nil || d.DeletionTimestamp != nil || d.Spec.Cluster != wanted.Spec.Cluster {
		return nil
	}
	return d
}

// asksForApproval says whether a partition, or the one that it is a part of, lets new revisions in after approval only.
func (w *world) asksForApproval(partition string) bool {
	i := slices.IndexFunc(w.partitions, func(p v1alpha1.Partition) bool { return p.Name == partition })
	if i < 0 {
		return false
	}
	spec := &w.partitions[i].Spec
	return spec.ReleaseApproval == v1alpha1.ReleaseApprovalRequired || spec.Parent != "" && spec.Parent != partition && w.asksForApproval(spec.Parent)
}

// approved says whether a revision was approved for this application: one left by another of the same name was not.
func (w *world) approved(revision *v1alpha1.ApplicationRevision) bool {
	release := w.app.Status.Release
	if release != nil && release.Revision == revision.Name && release.Phase == v1alpha1.ReleaseApproved {
		return true // the mark may not be in the cache yet
	}
	uid, _, ok := strings.Cut(revision.Annotations[v1alpha1.AnnotationApproved], " ")
	return ok && uid == string(w.app.UID)
}

// gate asks for the approval of the plan's revision where partitions want it, and holds it back from them until then.
// What it says is in the application's status before anything is created, so that nothing is forgotten.
func (r *Reconciler) gate(ctx context.Context, w *world, p *Plan) error {
	release := w.app.Status.Release
	same := release != nil && release.Revision == p.Revision.Name
	if same && w.approved(p.Revision) {
		r.settle(ctx, w.app)
		return nil
	}
	if !same || len(p.Approval) == 0 {
		if err := r.abandon(ctx, w.app, "another revision or another placement has taken its place"); err != nil {
			return err
		}
		w.app.Status.Release = nil
	}
	switch {
	case len(p.Approval) == 0:
		return nil
	case same:
		if err := r.follow(ctx, w, p); err != nil {
			return err
		}
	default:
		if err := r.announce(ctx, w, p); err != nil {
			return err
		}
	}
	if w.app.Status.Release.Phase == v1alpha1.ReleaseApproved {
		p.Approval = nil
		return nil
	}
	w.app.Status.Release.Partitions = p.Approval
	w.hold(p)
	return nil
}

// settle says that the revision is approved, also where that is known from the revision's mark only.
func (r *Reconciler) settle(ctx context.Context, app *v1alpha1.Application) {
	release := app.Status.Release
	if release.Phase == v1alpha1.ReleaseApproved {
		return
	}
	release.Phase, release.Message, release.Partitions = v1alpha1.ReleaseApproved, "", nil
	run := &v1alpha1.WorkflowRun{}
	if r.client.Get(ctx, client.ObjectKey{Namespace: app.Namespace, Name: release.Run}, run) == nil {
		release.By = deciders(run)
	}
}

// announce writes that the revision waits, and the name of the run that is about to be made. A status made from a cache
// that is behind is refused by the hub, so no second run is made for the same change.
func (r *Reconciler) announce(ctx context.Context, w *world, p *Plan) error {
	w.app.Status.Release = &v1alpha1.ReleaseStatus{
		Revision: p.Revision.Name, Phase: v1alpha1.ReleaseWaiting, Partitions: p.Approval,
		Run: runName(p.Revision, w.app.Generation, 1), User: w.app.Annotations[v1alpha1.AnnotationChangedBy],
	}
	live := w.app.DeepCopy()
	before := live.DeepCopy()
	before.Status.Release = nil
	if err := r.client.Status().Patch(ctx, live, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("announcing that revision %s waits for approval: %w", p.Revision.Name, err)
	}
	return r.ask(ctx, w, p)
}

func runName(revision *v1alpha1.ApplicationRevision, generation int64, number int) string {
	name := fmt.Sprintf("release-%s-%d", revision.Name, generation)
	if number > 1 {
		name += fmt.Sprintf("-%d", number)
	}
	return name
}

// follow brings what is said of the release to what has become of its run, and makes the run if there is none.
func (r *Reconciler) follow(ctx context.Context, w *world, p *Plan) error {
	release := w.app.Status.Release
	run := &v1alpha1.WorkflowRun{}
	key := client.ObjectKey{Namespace: w.app.Namespace, Name: release.Run}
	err := r.client.Get(ctx, key, run)
	if apierrors.IsNotFound(err) {
		err = r.live.Get(ctx, key, run)
	}
	switch {
	case apierrors.IsNotFound(err) && release.Phase == v1alpha1.ReleaseRejected:
		return nil // the run is in the records
	case apierrors.IsNotFound(err):
		return r.ask(ctx, w, p)
	case err != nil:
		return fmt.Errorf("reading run %s: %w", release.Run, err)
	}
	digest, err := digestOf(p.Revision)
	if err != nil {
		return err
	}
	if !isReleaseOf(run, w.app, digest) {
		if err := r.abandon(ctx, w.app, "it does not approve what is to be released"); err != nil {
			return err
		}
		return r.ask(ctx, w, p)
	}
	return r.conclude(ctx, w, p, run)
}

// conclude writes into the release what the run says.
func (r *Reconciler) conclude(ctx context.Context, w *world, p *Plan, run *v1alpha1.WorkflowRun) error {
	release := w.app.Status.Release
	if run.Spec.User != nil {
		release.User = run.Spec.User.Name
	}
	switch run.Status.Phase {
	case v1alpha1.RunSucceeded:
		if err := r.mark(ctx, w, p.Revision, run); err != nil {
			return err
		}
		release.Phase, release.By, release.Message, release.Partitions = v1alpha1.ReleaseApproved, deciders(run), "", nil
	case v1alpha1.RunFailed, v1alpha1.RunAborted:
		release.Phase, release.By, release.Message = v1alpha1.ReleaseRejected, nil, why(run)
	default:
		release.Phase, release.By = v1alpha1.ReleaseWaiting, nil
		who := v1alpha1.PlainName(release.User)
		release.Message = fmt.Sprintf("an Admin of tenant %s other than %s, who made the change, approves it, or any other platform administrator: "+
			"yunfan approve %s -n %s", w.app.Namespace, who, run.Name, w.app.Namespace)
	}
	return nil
}

// mark writes at the revision that it was approved, before anything is handed over because of it.
func (r *Reconciler) mark(ctx context.Context, w *world, revision *v1alpha1.ApplicationRevision, run *v1alpha1.WorkflowRun) error {
	marked := revision.DeepCopy()
	metav1.SetMetaDataAnnotation(&marked.ObjectMeta, v1alpha1.AnnotationApproved, string(w.app.UID)+" "+run.Name)
	if err := r.client.Patch(ctx, marked, client.MergeFrom(revision)); err != nil {
		return fmt.Errorf("marking revision %s as approved: %w", revision.Name, err)
	}
	return nil
}

// deciders are those who approved, from the outputs of the step.
func deciders(run *v1alpha1.WorkflowRun) []string {
	var by []string
	for i := range run.Status.Steps {
		if s := &run.Status.Steps[i]; s.Name == stepApprove {
			_ = json.Unmarshal(s.Outputs["by"], &by) // only told to people
		}
	}
	return by
}

// why says by whom and why a release was rejected, or what else ended its run.
func why(run *v1alpha1.WorkflowRun) string {
	text := run.Status.Message
	for i := range run.Status.Steps {
		if s := &run.Status.Steps[i]; s.Name == stepApprove && run.Status.Phase == v1alpha1.RunFailed {
			text = cmp.Or(s.Message, text)
		}
	}
	if run.Status.Phase == v1alpha1.RunAborted && run.Spec.ChangedBy != nil {
		text = fmt.Sprintf("aborted by %s: %s", v1alpha1.PlainName(run.Spec.ChangedBy.Name), cmp.Or(run.Spec.Reason, "no reason given"))
	}
	return cmp.Or(text, "the run has failed")
}

// ask makes the run that waits for the approval. One that is there already is taken if it is this release's and can
// still be approved: the server may have ended right after making it.
func (r *Reconciler) ask(ctx context.Context, w *world, p *Plan) error {
	release := w.app.Status.Release
	if release.User = cmp.Or(release.User, w.app.Annotations[v1alpha1.AnnotationChangedBy]); release.User == "" {
		// Whoever made the change must not approve it: without a name anybody might be him.
		release.Message = "nobody knows who made the change, so nobody can be asked to approve it: write your own name into the annotation " + v1alpha1.AnnotationChangedBy
		return nil
	}
	digest, err := digestOf(p.Revision)
	if err != nil {
		return err
	}
	for number := 1; number <= mostRuns; number++ {
		run, err := w.releaseRun(p, runName(p.Revision, w.app.Generation, number), digest)
		if err != nil {
			return err
		}
		err = r.client.Create(ctx, run)
		if apierrors.IsAlreadyExists(err) {
			if err = r.live.Get(ctx, client.ObjectKeyFromObject(run), run); err == nil && !(isReleaseOf(run, w.app, digest) && isOpen(run)) {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("asking for the approval of revision %s: %w", p.Revision.Name, err)
		}
		release.Run = run.Name
		return r.conclude(ctx, w, p, run)
	}
	release.Message = fmt.Sprintf("runs with the names %s … are in the way: a platform administrator deletes them, or change the application",
		runName(p.Revision, w.app.Generation, 1))
	return nil
}

// isOpen says whether a run can still be approved, or was.
func isOpen(run *v1alpha1.WorkflowRun) bool {
	return (!run.Status.Phase.Finished() || run.Status.Phase == v1alpha1.RunSucceeded) && !run.Spec.Aborted && run.DeletionTimestamp == nil
}

// isReleaseOf says whether a run was made by the platform to approve exactly this.
func isReleaseOf(run *v1alpha1.WorkflowRun, app *v1alpha1.Application, digest string) bool {
	if run.Labels[v1alpha1.LabelMadeBy] != v1alpha1.MadeByPlatform || !metav1.IsControlledBy(run, app) || run.Spec.Definition == nil || len(run.Spec.Definition.Steps) != 1 {
		return false
	}
	step := &run.Spec.Definition.Steps[0]
	var values releaseValues
	return step.Action == stepApprove && json.Unmarshal(step.With["values"], &values) == nil && values.Digest == digest
}

// releaseValues are what exactly is approved.
type releaseValues struct {
	Application string   `json:"application"`
	Revision    string   `json:"revision"`
	Digest      string   `json:"digest"`
	Partitions  []string `json:"partitions"`
}

// digestOf is that of all of a revision: its name is too short to be approved by.
func digestOf(revision *v1alpha1.ApplicationRevision) (string, error) {
	text, err := canonical(revision.Spec)
	if err != nil {
		return "", fmt.Errorf("digesting revision %s: %w", revision.Name, err)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// releaseRun is the run that waits for the approval of a plan's revision, on behalf of whoever made the change.
func (w *world) releaseRun(p *Plan, name, digest string) (*v1alpha1.WorkflowRun, error) {
	with := map[string]json.RawMessage{}
	for key, value := range map[string]any{
		"roles":   []v1alpha1.ApproverRole{v1alpha1.ApproverAdmin},
		"subject": literal(cut(w.subject(p), maxSubject)), "remindEvery": remindEvery,
		"values": releaseValues{Application: w.app.Name, Revision: p.Revision.Name, Digest: digest, Partitions: p.Approval},
	} {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("writing the run of release %s: %w", p.Revision.Name, err)
		}
		with[key] = text
	}
	return &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.app.Namespace, Name: name, Finalizers: []string{v1alpha1.FinalizerRun},
			Labels: map[string]string{
				v1alpha1.LabelMadeBy: v1alpha1.MadeByPlatform, v1alpha1.LabelApplication: w.app.Name, v1alpha1.LabelRevision: p.Revision.Name,
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.app, v1alpha1.GroupVersion.WithKind("Application"))},
		},
		Spec: v1alpha1.WorkflowRunSpec{
			User: &v1alpha1.Actor{Name: w.app.Status.Release.User},
			Definition: &v1alpha1.WorkflowSpec{
				DisplayName: "Release of " + w.app.Name,
				Description: "Somebody must approve a revision before it reaches partitions that ask for it.",
				Steps:       []v1alpha1.WorkflowStep{{Name: stepApprove, DisplayName: "Approve the release", Action: stepApprove, With: with}},
			},
		},
	}, nil
}

// literal keeps what users have written from being read as an expression.
func literal(text string) string { return strings.ReplaceAll(text, "${{", "$${{") }

// cut shortens a text to a number of bytes, at the end of a letter.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}

// abandon aborts the run that waits, if one does. The hub itself is asked: the cache may not have it yet.
func (r *Reconciler) abandon(ctx context.Context, app *v1alpha1.Application, reason string) error {
	release := app.Status.Release
	if release == nil || release.Phase == v1alpha1.ReleaseApproved {
		return nil
	}
	run := &v1alpha1.WorkflowRun{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: app.Namespace, Name: release.Run}, run)
	if apierrors.IsNotFound(err) || err == nil && (!metav1.IsControlledBy(run, app) || run.Status.Phase.Finished() || run.Spec.Aborted) {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading run %s: %w", release.Run, err)
	}
	before := run.DeepCopy()
	run.Spec.Aborted, run.Spec.Reason = true, reason
	if err := r.client.Patch(ctx, run, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("aborting run %s: %w", run.Name, err)
	}
	return nil
}

// hold leaves the partitions that wait at what they have. They are scaled, stopped and started as ever; where nothing is
// yet, nothing comes.
func (w *world) hold(p *Plan) {
	p.Deliveries = slices.DeleteFunc(p.Deliveries, func(d v1alpha1.Delivery) bool {
		return slices.Contains(p.Approval, d.Spec.Partition) && w.there(&d) == nil
	})
	for i := range p.Deliveries {
		wanted := &p.Deliveries[i]
		if !slices.Contains(p.Approval, wanted.Spec.Partition) {
			continue
		}
		spec := w.there(wanted).Spec.DeepCopy()
		spec.Stopped = wanted.Spec.Stopped
		for name := range spec.Tracks[0].Replicas {
			if n, ok := wanted.Spec.Tracks[0].Replicas[name]; ok {
				spec.Tracks[0].Replicas[name] = n
			}
		}
		wanted.Spec = *spec
	}
}
