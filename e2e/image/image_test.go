//go:build e2e

package image_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"yunfan.io/yunfan/e2e/journey"
)

func TestIMG08PackagingRules(t *testing.T) {
	j := journey.Begin(t)
	bad := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(bad, []byte("FROM someone/kitchen-sink:latest\nRUN apt-get install everything\nCMD service tomcat start\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	yunfan := filepath.Join(j.Bin(), "yunfan")
	out, err := exec.CommandContext(t.Context(), yunfan, "image", "check", bad).CombinedOutput()
	j.Expect(err).To(HaveOccurred(), "a bad Dockerfile exits 1")
	for _, rule := range []string{"base", "maintainer", "foreground", "EXPOSE"} {
		j.Expect(string(out)).To(ContainSubstring(rule))
	}
	images, err := filepath.Glob(filepath.Join(j.Bin(), "images", "examples", "*.tar"))
	j.Expect(err).NotTo(HaveOccurred())
	j.Expect(images).NotTo(BeEmpty())
	out, err = exec.CommandContext(t.Context(), yunfan, append([]string{"image", "check"}, images...)...).CombinedOutput()
	j.Expect(err).NotTo(HaveOccurred(), "our own images keep the rules: %s", out)
}

// Not parallel: the server is away for a while.
func TestIMG01RegistryServesWithoutServer(t *testing.T) {
	j := journey.Begin(t)
	j.Drill("stop", "services/server")
	heal := j.Heal("start", "services/server")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+j.Gateway()+":5000/v2/examples/echo/manifests/v1", http.NoBody)
	j.Expect(err).NotTo(HaveOccurred())
	request.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json")
	response, err := http.DefaultClient.Do(request)
	j.Expect(err).NotTo(HaveOccurred())
	response.Body.Close()
	j.Expect(response.StatusCode).To(Equal(http.StatusOK))
	heal()
}
