//go:build e2e

package right_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// cast is a tenant with a partition, a part of it, an application in each, and one person of every kind, each signed in
// with a token of his own. Another tenant beside it has the same names.
type cast struct {
	*journey.Journey
	people map[string]*journey.Person
	// whole and part are the namespaces of the two partitions in beijing.
	whole, part string
	// other is another tenant, with a partition in shanghai.
	other *journey.Journey
}

// roles are the people, by the letter that stands for them in the tables below.
const (
	platform        = "P" // platform administrator
	admin           = "A" // Admin of the tenant
	operator        = "O" // Operator of the tenant
	viewer          = "V" // Viewer of the tenant
	limitedOperator = "o" // Operator of the sub-partition only, through a UserGroup
	limitedViewer   = "v" // Viewer of the sub-partition only
	stranger        = "X" // Admin of the other tenant
	nobody          = "N" // signed in, and member of nothing
)

const everybody = platform + admin + operator + viewer + limitedOperator + limitedViewer + stranger + nobody

func begin(t *testing.T) *cast {
	t.Helper()
	c := &cast{Journey: journey.Begin(t), other: journey.Begin(t), people: map[string]*journey.Person{}}
	c.Partition("whole", journey.Beijing, func(s *v1alpha1.PartitionSpec) { s.Quota = quota("10") })
	c.Partition("part", journey.Beijing, func(s *v1alpha1.PartitionSpec) { s.Parent = "whole"; s.Quota = quota("5") })
	c.other.Partition("whole", journey.Shanghai)
	c.whole, c.part = c.Tenant+"-whole", c.Tenant+"-part"
	for letter, name := range map[string]string{
		platform: "root", admin: "admin", operator: "operator", viewer: "viewer", limitedOperator: "part-operator", limitedViewer: "part-viewer",
		stranger: "stranger", nobody: "nobody",
	} {
		c.people[letter] = c.Person(name, func(s *v1alpha1.UserSpec) { s.PlatformAdministrator = letter == platform })
	}
	member := func(j *journey.Journey, letter string, role v1alpha1.Role, partitions ...string) {
		j.Create(&v1alpha1.Membership{
			ObjectMeta: metav1.ObjectMeta{Namespace: j.Tenant, Name: c.people[letter].Name},
			Spec: v1alpha1.MembershipSpec{
				Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectUser, Name: c.people[letter].Name}, Role: role, Partitions: partitions,
			},
		})
	}
	member(c.Journey, admin, v1alpha1.RoleAdmin)
	member(c.Journey, operator, v1alpha1.RoleOperator)
	member(c.Journey, viewer, v1alpha1.RoleViewer)
	member(c.Journey, limitedViewer, v1alpha1.RoleViewer, "part")
	member(c.other, stranger, v1alpha1.RoleAdmin)
	c.Create(
		&v1alpha1.UserGroup{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "g1"}, Spec: v1alpha1.UserGroupSpec{Users: []string{c.people[limitedOperator].Name}},
		},
		&v1alpha1.Membership{ObjectMeta: metav1.ObjectMeta{Namespace: c.Tenant, Name: "g1"}, Spec: v1alpha1.MembershipSpec{
			Subject: v1alpha1.Subject{Kind: v1alpha1.SubjectGroup, Name: "g1"}, Role: v1alpha1.RoleOperator, Partitions: []string{"part"},
		}},
	)
	c.Eventually(func() string {
		code, text := c.ask(limitedOperator, http.MethodGet, "/apis/yunfan.io/v1alpha1/namespaces/"+c.Tenant+"/partitions/part", nil)
		return fmt.Sprint(code, text)
	}).Should(HavePrefix("200"))
	return c
}

// ask sends a request as somebody and gives the answer's code and text.
func (c *cast) ask(letter, method, path string, body any) (int, string) {
	c.Helper()
	return send(c.T, c.people[letter].Config, method, path, body)
}

func send(t *testing.T, config *rest.Config, method, path string, body any, headers ...string) (int, string) {
	t.Helper()
	var content io.Reader = http.NoBody
	if body != nil {
		text, ok := body.(string)
		if !ok {
			data, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		content = strings.NewReader(text)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, content)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := h.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	text := &bytes.Buffer{}
	if strings.Contains(path, "watch=true") && answer.StatusCode == http.StatusOK {
		return answer.StatusCode, "" // it has begun, which is all that was asked
	}
	_, _ = io.Copy(text, io.LimitReader(answer.Body, 1<<20)) // a watch that is cut is as good
	return answer.StatusCode, text.String()
}

// stored reads an object of a cluster as its administrator, as it would be sent back to change it.
func (c *cast) stored(cluster string, path string) map[string]any {
	c.Helper()
	object := map[string]any{}
	data, err := c.Clusters[cluster].Set.RESTClient().Get().AbsPath(path).DoRaw(c.Context())
	if err != nil {
		c.Fatalf("reading %s: %v", path, err)
	}
	if err := json.Unmarshal(data, &object); err != nil {
		c.Fatal(err)
	}
	return object
}
