package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/action"
	"yunfan.io/yunfan/internal/member"
)

const (
	containerTimeout = time.Hour
	// jobPoll is how often a job is looked at, lostPoll how often whether a cluster answers again.
	jobPoll, lostPoll = 2 * time.Second, 5 * time.Second
	// jobLife is how long a job that has ended stays if nobody is there to remove it, in seconds.
	jobLife = 3600
	// patience is how long a job may have no pod before the cluster is asked why.
	patience = 5 * time.Second

	verbDeploy = "deploy"
)

// container runs a job in a partition.
type container struct {
	hub     client.Client
	members member.Lookup
	may     May
	logs    *progress
}

// Describe tells what can be run.
func (*container) Describe() action.Description {
	return action.Description{
		Name: "container", Summary: "Runs a container to its end in a partition of the tenant.", Timeout: containerTimeout,
		Inputs: []action.Field{
			{Name: "partition", Type: v1alpha1.TypeString, Required: true, Doc: "Partition of the tenant. Whoever started the run must be allowed to deploy there."},
			{Name: "image", Type: v1alpha1.TypeString, Required: true, Doc: "Image of the container."},
			{Name: "command", Type: v1alpha1.TypeList, Default: "the image's", Doc: "Program to start, with its first arguments."},
			{Name: "args", Type: v1alpha1.TypeList, Doc: "Arguments of the program."},
			{Name: "env", Type: v1alpha1.TypeObject, Doc: "Environment variables, texts by their names."},
			{Name: "resources", Type: v1alpha1.TypeObject, Doc: "Requests and limits as in a pod; the partition's defaults if left out."},
			{Name: "workingDir", Type: v1alpha1.TypeString, Default: "the image's", Doc: "Directory in which the program starts."},
		},
		Outputs: []action.Field{
			{Name: "exitCode", Type: v1alpha1.TypeInteger, Doc: "Always 0: any other fails the attempt."},
			{Name: "result", Doc: "The last line of what the program wrote to /dev/termination-log, parsed if it is JSON."},
		},
	}
}

type containerInputs struct {
	Partition  string                      `json:"partition"`
	Image      string                      `json:"image"`
	Command    []string                    `json:"command"`
	Args       []string                    `json:"args"`
	Env        map[string]string           `json:"env"`
	Resources  corev1.ResourceRequirements `json:"resources"`
	WorkingDir string                      `json:"workingDir"`
}

// jobState is what a later call must know.
type jobState struct {
	// Created says that the job was there: if it is there no longer, it is not made again.
	Created bool `json:"created,omitempty"`
	// Ended is how it ended. Only when this is stored is the job removed.
	Ended *ending `json:"ended,omitempty"`
}

// ending is how a container ended.
type ending struct {
	ExitCode int32           `json:"exitCode"`
	Result   json.RawMessage `json:"result,omitempty"`
	// Failure says why there is no result.
	Failure string `json:"failure,omitempty"`
}

// job is one attempt's job and the way to it.
type job struct {
	call      *action.Call
	in        *containerInputs
	partition *v1alpha1.Partition
	member    *member.Member
	as        client.Client // the identity of the partition
	key       client.ObjectKey
}

// Run creates the job, waits for its end, stores how it ended, and removes it.
func (c *container) Run(ctx context.Context, call *action.Call) (action.Outcome, error) {
	j, state, err := c.open(ctx, call)
	if err != nil {
		return lost(err)
	}
	if state.Ended != nil {
		return c.conclude(ctx, j, state.Ended)
	}
	live := &batchv1.Job{}
	err = j.as.Get(ctx, j.key, live)
	switch {
	case apierrors.IsNotFound(err) && state.Created:
		return action.Outcome{}, action.Failed(fmt.Errorf("job %s is gone from namespace %s of cluster %s, and how it ended is not known: somebody has deleted it",
			j.key.Name, j.key.Namespace, j.member.Name))
	case apierrors.IsNotFound(err):
		if live, err = c.create(ctx, j); err != nil {
			return lost(err)
		}
	case err != nil:
		return lost(err)
	}
	if err := j.ours(live); err != nil {
		return action.Outcome{}, err
	}
	state.Created = true
	out, err := c.watch(ctx, j, live, state)
	if err != nil {
		return lost(err)
	}
	return out, nil
}

// open finds the partition and the way to its cluster.
func (c *container) open(ctx context.Context, call *action.Call) (*job, *jobState, error) {
	j, state := &job{call: call, in: &containerInputs{}, partition: &v1alpha1.Partition{}}, &jobState{}
	if err := call.Decode(j.in); err != nil {
		return nil, nil, err //nolint:wrapcheck // it says what is read
	}
	if _, err := call.Remembered(state); err != nil {
		return nil, nil, err //nolint:wrapcheck // it says what is read
	}
	err := c.hub.Get(ctx, client.ObjectKey{Namespace: call.Run.Namespace, Name: j.in.Partition}, j.partition)
	if apierrors.IsNotFound(err) {
		return nil, nil, action.Failed(fmt.Errorf("tenant %s has no partition %s", call.Run.Namespace, cut(j.in.Partition, 100)))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading partition %s: %w", j.in.Partition, err)
	}
	cluster := j.partition.Spec.Cluster
	m, ok := c.members.Member(cluster)
	if !ok {
		return nil, nil, &member.NotAnsweringError{Cluster: cluster}
	}
	if s := m.State(); !s.Answering {
		return nil, nil, &member.NotAnsweringError{Cluster: cluster, Since: s.LastSeen, Message: s.Message}
	}
	j.member, j.key = m, client.ObjectKey{Namespace: j.partition.MemberNamespace(), Name: call.Key}
	if j.as, err = m.As(j.key.Namespace); err != nil {
		return nil, nil, fmt.Errorf("acting as partition %s: %w", j.in.Partition, err)
	}
	return j, state, nil
}

// lost makes an error that only says that the cluster cannot be reached, or not now, a reason to wait: the step's
// timeout bounds it.
func lost(err error) (action.Outcome, error) {
	if silent, ok := errors.AsType[*member.NotAnsweringError](err); ok {
		return action.Again(lostPoll, "waits: "+silent.Error()), nil
	}
	_, silent := errors.AsType[*url.Error](err) // no answer came
	if silent || errors.Is(err, context.DeadlineExceeded) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) {
		return action.Again(lostPoll, "waits: the cluster did not answer: "+err.Error()), nil
	}
	return action.Outcome{}, err
}

// create makes the job, if the user may deploy in the partition at this moment.
func (c *container) create(ctx context.Context, j *job) (*batchv1.Job, error) {
	may, err := c.may(ctx, j.call.User, authorizationv1.ResourceAttributes{
		Verb: verbDeploy, Group: v1alpha1.GroupVersion.Group, Resource: "partitions", Namespace: j.partition.Namespace, Name: j.partition.Name,
	})
	if err != nil {
		return nil, fmt.Errorf("asking whether %s may deploy to partition %s: %w", v1alpha1.PlainName(j.call.User.Name), j.partition.Name, err)
	}
	if !may {
		return nil, action.Failed(fmt.Errorf("%s may not deploy to partition %s of tenant %s: ask an administrator of the tenant, then retry the step",
			v1alpha1.PlainName(j.call.User.Name), j.partition.Name, j.partition.Namespace))
	}
	if !j.partition.DeletionTimestamp.IsZero() {
		return nil, action.Failed(fmt.Errorf("partition %s is being deleted", j.partition.Name))
	}
	wanted := j.manifest()
	if err := j.call.Fence(ctx); err != nil {
		return nil, fmt.Errorf("before making the job: %w", err)
	}
	err = j.as.Create(ctx, wanted, client.FieldOwner(v1alpha1.FieldOwner))
	switch {
	case apierrors.IsAlreadyExists(err):
		if err = j.as.Get(ctx, j.key, wanted); err == nil {
			return wanted, nil
		}
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return nil, action.Failed(fmt.Errorf("the cluster refuses the job: %w", err))
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err): // a quota, or the partition is not set up yet
		return nil, fmt.Errorf("the cluster refuses the job in namespace %s: %w", j.key.Namespace, err)
	case err == nil:
		j.call.Log("job %s in namespace %s of cluster %s", j.key.Name, j.key.Namespace, j.member.Name)
		return wanted, nil
	}
	return nil, fmt.Errorf("making the job: %w", err)
}

// Labels of jobs and their pods.
const (
	labelRun  = "yunfan.io/workflow-run"
	labelStep = "yunfan.io/step"
)

func (j *job) labels() map[string]string {
	return map[string]string{
		v1alpha1.LabelTenant: j.partition.Namespace, v1alpha1.LabelPartition: j.partition.Name,
		labelRun: string(j.call.UID), labelStep: j.call.Step,
	}
}

// ours refuses a job that somebody else has made.
func (j *job) ours(live *batchv1.Job) error {
	if live.Labels[labelRun] != string(j.call.UID) {
		return action.Failed(fmt.Errorf("there is a job %s in namespace %s already, which is not this run's: delete it, then retry the step", j.key.Name, j.key.Namespace))
	}
	return nil
}

// manifest of the job: one pod that is never started again, since trying again is the step's matter.
func (j *job) manifest() *batchv1.Job {
	no, never := false, int32(0)
	box := corev1.Container{
		Name: "step", Image: j.in.Image, Command: j.in.Command, Args: j.in.Args, WorkingDir: j.in.WorkingDir, Resources: j.in.Resources,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext:          &corev1.SecurityContext{AllowPrivilegeEscalation: &no},
	}
	for _, name := range slices.Sorted(maps.Keys(j.in.Env)) {
		box.Env = append(box.Env, corev1.EnvVar{Name: name, Value: j.in.Env[name]})
	}
	pod := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{box}, AutomountServiceAccountToken: &no,
		SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
	}
	if j.partition.Spec.PodSecurity == v1alpha1.PodSecurityRestricted {
		pod.SecurityContext.RunAsNonRoot = new(true)
		pod.Containers[0].SecurityContext.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	}
	pool := j.partition.NodePool()
	if len(pool.Selector) > 0 {
		pod.NodeSelector = maps.Clone(pool.Selector)
	}
	if pool.Exclusive {
		pod.Tolerations = []corev1.Toleration{{
			Key: v1alpha1.TaintTenant, Operator: corev1.TolerationOpEqual, Value: j.partition.Namespace, Effect: corev1.TaintEffectNoSchedule,
		}}
	}
	annotations := map[string]string{"yunfan.io/run": j.call.Run.Name, "yunfan.io/user": v1alpha1.PlainName(j.call.User.Name)}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: j.key.Namespace, Name: j.key.Name, Labels: j.labels(), Annotations: annotations},
		Spec: batchv1.JobSpec{
			BackoffLimit: &never, TTLSecondsAfterFinished: new(int32(jobLife)),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: j.labels(), Annotations: annotations}, Spec: pod},
		},
	}
}

// conclude removes the job and answers with how it ended, which is stored by now.
func (c *container) conclude(ctx context.Context, j *job, end *ending) (action.Outcome, error) {
	if err := j.remove(ctx); err != nil {
		if _, silent := errors.AsType[*member.NotAnsweringError](err); !silent {
			j.call.Log("the job could not be removed, the cluster does that in an hour: %v", err)
		}
	}
	c.logs.forget(j.call.Key)
	if end.Failure != "" {
		return action.Outcome{}, errors.New(end.Failure)
	}
	outputs := map[string]any{"exitCode": end.ExitCode}
	if end.Result != nil {
		outputs["result"] = end.Result
	}
	return action.Done(outputs), nil
}

func (j *job) remove(ctx context.Context) error {
	o := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: j.key.Namespace, Name: j.key.Name}}
	err := j.as.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing the job: %w", err)
	}
	return nil
}

// Stop removes the job and waits until its pods are gone.
func (c *container) Stop(ctx context.Context, call *action.Call) (action.Outcome, error) {
	j, _, err := c.open(ctx, call)
	if action.IsFailed(err) {
		return action.Done(nil), nil // without a partition there is nothing to end
	}
	if err != nil {
		return lost(err)
	}
	live := &batchv1.Job{}
	if err := j.as.Get(ctx, j.key, live); client.IgnoreNotFound(err) != nil {
		return lost(fmt.Errorf("reading the job: %w", err))
	} else if err == nil {
		if err := j.ours(live); err != nil {
			return action.Done(nil), nil //nolint:nilerr // there is nothing of this attempt
		}
		c.follow(ctx, j, true)
		if err := j.remove(ctx); err != nil {
			return lost(err)
		}
	}
	pods, err := j.pods(ctx)
	if err != nil {
		return lost(err)
	}
	if len(pods) > 0 {
		return action.Again(jobPoll, "waits until the container has ended"), nil
	}
	c.logs.forget(call.Key)
	return action.Done(nil), nil
}
