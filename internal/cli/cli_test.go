package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/testkit"
)

var hub *testkit.Hub

func TestMain(m *testing.M) { testkit.Main(m, &hub) }

func TestExitCode(t *testing.T) {
	resource := schema.GroupResource{Group: "yunfan.io", Resource: "applications"}
	for name, tc := range map[string]struct {
		err  error
		want int
	}{
		"Done":         {nil, 0},
		"Other":        {errors.New("x"), ExitFailed},
		"Usage":        {fmt.Errorf("x: %w", Usagef("y")), ExitUsage},
		"Timeout":      {&TimeoutError{errors.New("x")}, ExitTimeout},
		"NotFound":     {fmt.Errorf("x: %w", apierrors.NewNotFound(resource, "a")), ExitNotFound},
		"Forbidden":    {apierrors.NewForbidden(resource, "a", nil), ExitForbidden},
		"Unauthorized": {apierrors.NewUnauthorized("x"), ExitForbidden},
		"Unreachable":  {fmt.Errorf("x: %w", &url.Error{Op: "Get", Err: errors.New("refused")}), ExitUnreachable},
		"NoFile":       {fmt.Errorf("x: %w", &fs.PathError{Op: "stat", Err: syscall.ENOENT}), ExitFailed},
		"Unavailable":  {apierrors.NewServiceUnavailable("x"), ExitUnreachable},
		"Invalid":      {apierrors.NewInvalid(schema.GroupKind{}, "a", nil), ExitInvalid},
		"Refused":      {&apierrors.StatusError{ErrStatus: metav1.Status{Code: 422, Reason: "QuotaExceeded"}}, ExitInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ExitCode(tc.err); got != tc.want {
				t.Errorf("ExitCode(%v) = %d, want %d", tc.err, got, tc.want)
			}
		})
	}
}

func TestExecute(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"UnknownFlag": {[]string{"one", "--colour"}, ExitUsage, "--help"},
		"TooFewArgs":  {[]string{"one"}, ExitUsage, "one NAME"},
		"Fine":        {[]string{"one", "a"}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := &cobra.Command{Use: "yunfan"}
			root.AddCommand(&cobra.Command{Use: "one NAME", Args: Args(cobra.ExactArgs(1)), RunE: func(*cobra.Command, []string) error { return nil }})
			root.SetArgs(tc.args)
			stderr := &bytes.Buffer{}
			if code := Execute(t.Context(), root, stderr); code != tc.code || !strings.Contains(stderr.String(), tc.says) {
				t.Errorf("got code %d and %q", code, stderr)
			}
		})
	}
}

func TestOutput(t *testing.T) {
	value := []map[string]string{{"name": "web", "message": "a < b"}}
	table := func(tb *Table) {
		tb.Header("NAME", "MESSAGE", "LAST")
		tb.Row("web", "two\nlines", nil)
		tb.Row("a-long-name", "", 3)
	}
	for name, tc := range map[string]struct{ format, want string }{
		"Table": {"table", "NAME          MESSAGE     LAST\nweb           two lines   -\na-long-name   -           3\n"},
		"JSON":  {"json", "[\n  {\n    \"message\": \"a < b\",\n    \"name\": \"web\"\n  }\n]\n"},
		"YAML":  {"yaml", "- message: a < b\n  name: web\n"},
	} {
		t.Run(name, func(t *testing.T) {
			out := &bytes.Buffer{}
			if err := (&Output{tc.format}).Print(out, value, table); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	t.Run("Unknown", func(t *testing.T) {
		if err := (&Output{"xml"}).Print(&bytes.Buffer{}, nil, nil); ExitCode(err) != ExitUsage {
			t.Errorf("got %v", err)
		}
	})
	t.Run("Empty", func(t *testing.T) {
		out := &bytes.Buffer{}
		if err := (&Output{"table"}).Print(out, nil, func(*Table) {}); err != nil || out.String() != "None found.\n" {
			t.Errorf("got %q, %v", out, err)
		}
	})
}

func TestUntil(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		timeout time.Duration
		states  []string
		end     error
		code    int
		told    string
	}{
		"Done":    {"each state is told once", time.Minute, []string{"1/2", "1/2", "2/2"}, nil, 0, "1/2\n2/2\n"},
		"Timeout": {"a timeout has an exit code of its own", time.Millisecond, []string{"1/2"}, errors.New("never"), ExitTimeout, "1/2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			progress, i := &bytes.Buffer{}, 0
			err := Until(t.Context(), tc.timeout, progress, func(context.Context) (bool, string, error) {
				state := tc.states[min(i, len(tc.states)-1)]
				i++
				return tc.end == nil && i == len(tc.states), state, nil
			})
			if ExitCode(err) != tc.code || progress.String() != tc.told {
				t.Errorf("%s: got %v, told %q", tc.reason, err, progress)
			}
		})
	}
	t.Run("Error", func(t *testing.T) {
		failure := errors.New("broken")
		err := Until(t.Context(), time.Minute, &bytes.Buffer{}, func(context.Context) (bool, string, error) { return false, "", failure })
		if !errors.Is(err, failure) {
			t.Errorf("got %v", err)
		}
	})
}

func TestGet(t *testing.T) {
	name, namespace := testkit.Name(t), testkit.Namespace(t, hub.Client)
	testkit.Create(t, hub.Client,
		&v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TenantSpec{DisplayName: "教务"}},
		&v1alpha1.Partition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "prod"}, Spec: v1alpha1.PartitionSpec{Cluster: "beijing"}})
	for test, tc := range map[string]struct {
		reason   string
		tenant   string
		kind     string
		names    []string
		code     int
		contains []string
	}{
		"Cluster-wide":  {"columns are those of the kind", "", "tenants", nil, 0, []string{"NAME", "DISPLAY NAME", name, "教务"}},
		"Singular":      {"one by name", "", "tenant", []string{name}, 0, []string{name}},
		"Tenant":        {"those of one tenant", namespace, "partitions", nil, 0, []string{"prod", "beijing"}},
		"AllTenants":    {"without a tenant those of all, and whose they are", "", "partitions", nil, 0, []string{"TENANT", namespace, "prod"}},
		"None":          {"an empty list says so", "nobody", "partitions", nil, 0, []string{"None found."}},
		"NotFound":      {"a name that is not there", "", "tenant", []string{"nobody"}, ExitNotFound, nil},
		"UnknownKind":   {"a kind that is not ours", "", "pods", nil, ExitUsage, nil},
		"WhoseIsIt":     {"a name in a tenant needs the tenant", "", "partition", []string{"prod"}, ExitUsage, nil},
		"Abbreviation":  {"app is short for applications", namespace, "app", nil, 0, []string{"None found."}},
		"PlainRevision": {"revisions are those of applications", namespace, "revisions", nil, 0, []string{"None found."}},
	} {
		t.Run(test, func(t *testing.T) {
			out := &bytes.Buffer{}
			get := &Get{Access: &Access{kubeconfig: kubeconfig(t), Namespace: tc.tenant}}
			err := get.Run(t.Context(), out, tc.kind, tc.names)
			if ExitCode(err) != tc.code {
				t.Fatalf("%s: got %v with code %d, want code %d", tc.reason, err, ExitCode(err), tc.code)
			}
			for _, text := range tc.contains {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%s: %q is missing in\n%s", tc.reason, text, out)
				}
			}
		})
	}
	t.Run("YAML", func(t *testing.T) {
		out := &bytes.Buffer{}
		get := &Get{Access: &Access{kubeconfig: kubeconfig(t)}, Output: Output{"yaml"}}
		if err := get.Run(t.Context(), out, "tenant", []string{name}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "displayName: 教务") || strings.Contains(out.String(), "managedFields") {
			t.Errorf("got\n%s", out)
		}
	})
}

func TestAccess(t *testing.T) {
	t.Run("Unreachable", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "kubeconfig")
		text := strings.ReplaceAll(read(t, kubeconfig(t)), hub.Config.Host, "https://127.0.0.1:1")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		get := &Get{Access: &Access{kubeconfig: file}}
		if err := get.Run(t.Context(), &bytes.Buffer{}, "tenants", nil); ExitCode(err) != ExitUnreachable {
			t.Errorf("got %v with code %d", err, ExitCode(err))
		}
	})
	t.Run("NoFile", func(t *testing.T) {
		_, err := (&Access{kubeconfig: filepath.Join(t.TempDir(), "none")}).Config()
		if ExitCode(err) != ExitUsage {
			t.Errorf("got %v", err)
		}
	})
	t.Run("NoServer", func(t *testing.T) {
		if _, err := (&Access{kubeconfig: kubeconfig(t)}).Server(t.Context()); err == nil || !strings.Contains(err.Error(), "yunfan server") {
			t.Errorf("got %v, want how to start one", err)
		}
	})
	t.Run("TenantMissing", func(t *testing.T) {
		if _, err := (&Access{Namespace: "default"}).Tenant(); ExitCode(err) != ExitUsage {
			t.Errorf("got %v", err)
		}
	})
}

func TestKubeconfig(t *testing.T) {
	access := &Access{kubeconfig: kubeconfig(t)}
	testkit.Create(t, hub.Client,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: serverNamespace, Name: serverConfigMap}, Data: map[string]string{"url": "https://server:8443", "ca": string(hub.Config.CAData)}},
		&v1alpha1.Cluster{
			ObjectMeta: metav1.ObjectMeta{Name: "beijing"},
			Spec:       v1alpha1.ClusterSpec{Connection: v1alpha1.ClusterConnection{KubeconfigSecretRef: &v1alpha1.SecretReference{Name: "x"}}},
		})
	t.Cleanup(func() {
		_ = hub.Client.Delete(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: serverNamespace, Name: serverConfigMap}}, &client.DeleteOptions{})
	})
	for name, tc := range map[string]struct {
		cluster string
		code    int
		server  string
	}{
		"Hub":     {"", 0, "server: " + hub.Config.Host},
		"Member":  {"beijing", 0, "server: https://server:8443/clusters/beijing"},
		"Unknown": {"nowhere", ExitNotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := access.Kubeconfig(t.Context(), tc.cluster)
			if ExitCode(err) != tc.code || !strings.Contains(string(text), tc.server) {
				t.Errorf("got %v and\n%s", err, text)
			}
			if err == nil && !strings.Contains(string(text), "client-key-data") {
				t.Error("the user must be inside")
			}
		})
	}
}

// kubeconfig writes the way to the hub into a file.
func kubeconfig(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, (&testkit.Member{Config: hub.Config}).Kubeconfig(t, ""), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
