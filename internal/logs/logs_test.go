package logs

import (
	"bytes"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		reason, query string
		want          *query
	}{
		"Default":  {"the last lines of everything", "", &query{options: corev1.PodLogOptions{TailLines: ptr.To[int64](defaultTail)}}},
		"Choice":   {"a choice", "component=web&partition=bj&container=app", &query{component: "web", partition: "bj", container: "app", options: corev1.PodLogOptions{TailLines: ptr.To[int64](defaultTail)}}},
		"Options":  {"as with kubectl", "follow=true&previous=1&timestamps=true&tail=0", &query{options: corev1.PodLogOptions{Follow: true, Previous: true, Timestamps: true, TailLines: ptr.To[int64](0)}}},
		"TooMuch":  {"more than is held at once", "tail=10001", nil},
		"Negative": {"fewer than none", "tail=-1", nil},
		"NoBool":   {"neither yes nor no", "follow=maybe", nil},
		"Unknown":  {"a misspelt wish is not dropped in silence", "folow=true", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(httptest.NewRequestWithContext(t.Context(), "GET", "/?"+tc.query, nil))
			if tc.want == nil {
				if !apierrors.IsBadRequest(err) {
					t.Errorf("%s: got %v, want a BadRequest", tc.reason, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(query{})); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	lines := make(chan Line, 2)
	lines <- Line{Partition: "bj", Pod: "web-1", Container: "app", Text: `say "hi"`}
	lines <- Line{Partition: "sh", Error: "gone"}
	close(lines)
	w := httptest.NewRecorder()
	if err := write(w, lines); err != nil {
		t.Fatal(err)
	}
	want := []byte(`{"partition":"bj","pod":"web-1","container":"app","text":"say \"hi\""}` + "\n" + `{"partition":"sh","error":"gone"}` + "\n")
	if !bytes.Equal(w.Body.Bytes(), want) || !w.Flushed {
		t.Errorf("got %s", w.Body)
	}
}
