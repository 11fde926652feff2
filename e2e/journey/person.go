//go:build e2e

package journey

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Person is somebody who has signed in to the platform with a password of his own.
type Person struct {
	// Name of the User.
	Name string
	// Config reaches the hub through the platform as this person; with the path /clusters/<name>, a member.
	Config *rest.Config
	// Password of the account.
	Password string
}

// Member is the person's way to a member.
func (p *Person) Member(cluster string) *rest.Config {
	config := rest.CopyConfig(p.Config)
	config.Host += "/clusters/" + cluster
	return config
}

// Client speaks to the hub through the platform as this person, as kubectl would.
func (p *Person) Client(scheme *runtime.Scheme) (client.Client, error) {
	return client.New(p.Config, client.Options{Scheme: scheme})
}

// Do sends a request to the platform as the person, and gives the answer's code and body.
func (p *Person) Do(ctx context.Context, method, path string, body any) (int, []byte, error) {
	return do(ctx, p.Config, method, path, body)
}

// Server is the platform's server as the hub's administrator reaches it: with his certificate, past signing in.
func (w *World) Server(ctx context.Context) (*rest.Config, error) {
	where := &corev1.ConfigMap{}
	if err := w.Clusters[Hub].Get(ctx, client.ObjectKey{Namespace: "yunfan-system", Name: "yunfan-server"}, where); err != nil {
		return nil, fmt.Errorf("looking where the server is: %w", err)
	}
	config := rest.CopyConfig(w.Clusters[Hub].Config)
	config.Host = where.Data["url"]
	config.CAData, config.CAFile = []byte(where.Data["ca"]), ""
	return config, nil
}

// SignIn creates a user, gives him a password, and signs him in as a person would: with the password that the
// administrator was told, which he changes first.
func (w *World) SignIn(ctx context.Context, name string, change ...func(*v1alpha1.UserSpec)) (*Person, error) {
	user := &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.UserSpec{DisplayName: name}}
	for _, c := range change {
		c(&user.Spec)
	}
	if err := w.Clusters[Hub].Create(ctx, user); err != nil {
		return nil, fmt.Errorf("creating user %s: %w", name, err)
	}
	administrator, err := w.Server(ctx)
	if err != nil {
		return nil, err
	}
	var told struct {
		Password string `json:"password"`
	}
	if err := send(ctx, administrator, http.MethodPost, "/api/v1/users/"+name+"/password", struct{}{}, &told); err != nil {
		return nil, fmt.Errorf("giving user %s a password: %w", name, err)
	}
	person := &Person{Name: name, Password: "Aa1-" + rand.Text(), Config: rest.CopyConfig(administrator)}
	person.Config.TLSClientConfig = rest.TLSClientConfig{CAData: administrator.CAData}
	if err := person.signIn(ctx, told.Password); err != nil {
		return nil, err
	}
	changed := map[string]string{"current": told.Password, "new": person.Password}
	if err := send(ctx, person.Config, http.MethodPost, "/api/v1/password", changed, nil); err != nil {
		return nil, fmt.Errorf("changing the password of user %s: %w", name, err)
	}
	return person, person.signIn(ctx, person.Password)
}

// Again signs the person in once more: tokens are short-lived.
func (p *Person) Again(ctx context.Context) error { return p.signIn(ctx, p.Password) }

func (p *Person) signIn(ctx context.Context, password string) error {
	var session struct {
		Token string `json:"token"`
	}
	anybody := rest.CopyConfig(p.Config)
	anybody.BearerToken = ""
	asked := map[string]string{"user": p.Name, "password": password}
	if err := send(ctx, anybody, http.MethodPost, "/api/v1/session", asked, &session); err != nil {
		return fmt.Errorf("signing in as %s: %w", p.Name, err)
	}
	p.Config.BearerToken = session.Token
	return nil
}

// Person signs somebody in who is there until the test ends. The name is made unique.
func (j *Journey) Person(name string, change ...func(*v1alpha1.UserSpec)) *Person {
	j.Helper()
	person, err := j.World.SignIn(j.ctx, name+"-"+strings.ToLower(rand.Text()[:6]), change...)
	if err != nil {
		j.Fatal(err)
	}
	j.Cleanup(func() {
		_ = j.Hub().Delete(context.Background(), &v1alpha1.User{ObjectMeta: metav1.ObjectMeta{Name: person.Name}})
	})
	return person
}

// send expects success and reads the answer into out, unless that is nil.
func send(ctx context.Context, config *rest.Config, method, path string, body, out any) error {
	code, text, err := do(ctx, config, method, path, body)
	if err != nil {
		return err
	}
	if code < 200 || code > 299 {
		return fmt.Errorf("%s %s: %d %s", method, path, code, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

func do(ctx context.Context, config *rest.Config, method, path string, body any) (int, []byte, error) {
	const patience, maxAnswer = 30 * time.Second, 16 << 20
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return 0, nil, err
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, config.Host+path, content)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	return answer.StatusCode, text, err
}
