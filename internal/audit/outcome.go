package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/internal/rest"
)

// attempt is one request that has an intent.
type attempt struct {
	log         *Log
	target      target
	intent      Intent
	asked       []byte // the body, of what is created and of our own paths
	contentType string
}

// fromBody takes the name of what is created from the body.
func (a *attempt) fromBody() {
	if !a.target.kubernetes || len(a.asked) == 0 {
		return
	}
	text, err := plainJSON(a.contentType, a.asked)
	if err != nil {
		return // the API server will say so
	}
	object := nameOf(text).Metadata
	a.intent.Name = object.Name
	if object.Name == "" && object.GenerateName != "" {
		a.intent.Name = object.GenerateName + "*"
	}
	if a.target.resource == "tenants" && a.intent.Tenant == "" {
		a.intent.Tenant = a.intent.Name
	}
}

// outcome says what became of the request.
func (a *attempt) outcome(r *http.Request, answer *recorder, err error, before state) Outcome {
	o := Outcome{Time: time.Now().UnixMilli(), Code: answer.code}
	facts := rest.FactsOf(r.Context())
	o.User, o.Tenant, o.Cluster, o.Resource, o.Name, o.Action = facts.User, facts.Tenant, facts.Cluster, facts.Resource, facts.Name, facts.Action
	text, readable := a.answered(answer)
	switch {
	case err != nil && answer.code == 0:
		status := rest.StatusOf(err)
		o.Code, o.Reason, o.Message = int(status.Code), string(status.Reason), status.Message
		if errors.Is(err, errPanic) {
			o.Reason = "Panic"
		}
	case answer.code == 0:
		o.Code = http.StatusOK
	case answer.code >= http.StatusBadRequest:
		var status metav1.Status
		if json.Unmarshal(text, &status) == nil {
			o.Reason, o.Message = string(status.Reason), status.Message
		}
	}
	o.Result = resultOf(o.Code)
	_, stream := streamed[a.target.subresource]
	if err != nil && answer.code != 0 && o.Result == ResultSucceeded && !stream || errors.Is(err, context.Canceled) && answer.code == 0 {
		o.Result, o.Code, o.Reason = ResultUnknown, answer.code, "Interrupted"
		o.Message = "the connection ended before the answer did"
	}
	if a.target.resource == "secrets" || !a.target.kubernetes && secretPath(r) {
		o.Message = "" // it may quote what was sent
	}
	if o.Result == ResultSucceeded {
		a.states(&o, before, text, readable, answer)
	}
	return o
}

func resultOf(code int) string {
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return ResultRefused
	case code >= http.StatusBadRequest:
		return ResultFailed
	}
	return ResultSucceeded
}

// answered is the answer's body as JSON.
func (a *attempt) answered(answer *recorder) ([]byte, bool) {
	if answer.body.Len() == 0 {
		return nil, false
	}
	text, err := plainJSON(answer.Header().Get("Content-Type"), answer.body.Bytes())
	return text, err == nil
}

// states fills in what was and what is now.
func (a *attempt) states(o *Outcome, before state, answer []byte, readable bool, recorded *recorder) {
	if !a.target.kubernetes {
		// What was asked for says what changed; answers of ours may hold new tokens.
		if len(a.asked) > 0 {
			if text, err := plainJSON(a.contentType, a.asked); err == nil {
				o.After, _ = mask(text) // what cannot be read is not kept
			}
		}
		return
	}
	o.Before, o.VersionBefore = before.text, before.version
	if recorded.lost {
		o.After = fmt.Sprintf("(not kept: the answer was larger than %d bytes, or too many others were)", maxCaptured)
		return
	}
	if !readable {
		return
	}
	object := nameOf(answer).Metadata
	kind := struct{ Kind string }{}
	_ = json.Unmarshal(answer, &kind) // what has no kind is no object
	if kind.Kind == "Status" || a.intent.Action == "deletecollection" {
		return
	}
	if a.target.name == "" || a.target.subresource == "" {
		o.Name, o.UID = cmp.Or(object.Name, o.Name), object.UID
	}
	if a.intent.Action == "delete" {
		return
	}
	if shown, err := mask(answer); err == nil {
		o.After, o.VersionAfter = shown, object.ResourceVersion
	}
}

// readCollection names what a deletecollection will delete: the count, and the first of them.
func readCollection(ctx context.Context, from client.Client, gvk schema.GroupVersionKind, r *http.Request, t target) (state, error) {
	list := &metav1.PartialObjectMetadataList{}
	gvk.Kind += "List"
	list.SetGroupVersionKind(gvk)
	query := r.URL.Query()
	options := &client.ListOptions{Namespace: t.namespace, Raw: &metav1.ListOptions{
		LabelSelector: query.Get("labelSelector"), FieldSelector: query.Get("fieldSelector"),
	}, Limit: collection}
	if err := from.List(ctx, list, options); err != nil {
		return state{}, fmt.Errorf("counting what is to be deleted: %w", err)
	}
	all := struct {
		Count    int      `json:"count"`
		More     bool     `json:"more,omitempty"`
		Selector string   `json:"labelSelector,omitempty"`
		Fields   string   `json:"fieldSelector,omitempty"`
		Names    []string `json:"names"`
	}{Count: len(list.Items), More: list.Continue != "", Selector: query.Get("labelSelector"), Fields: query.Get("fieldSelector"), Names: []string{}}
	for _, item := range list.Items {
		all.Names = append(all.Names, item.Name)
	}
	return state{text: string(encode(all)), version: list.ResourceVersion}, nil
}

func containsFold(text, word string) bool { return strings.Contains(strings.ToLower(text), word) }
