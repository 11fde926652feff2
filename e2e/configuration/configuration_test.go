//go:build e2e

package configuration_test

import (
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/e2e/journey"
)

// serverXML has what is easily lost on the way: quotes, angle brackets, tabs, Chinese, blank and unended lines.
const serverXML = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Server port=\"8005\" shutdown=\"SHUTDOWN\">\n\t<!-- 学生成绩 -->\n\n" +
	"  <Connector port=\"8080\" redirectPort=\"8443\" maxThreads='500' />\r\n</Server>"

func use(uses ...v1alpha1.ConfigurationUse) journey.Change {
	return func(c *v1alpha1.Component, _ *corev1.Container) { c.Configurations = uses }
}

func TestCFG02FileIsByteIdentical(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	c := &v1alpha1.Configuration{
		ObjectMeta: journey.Named(j.Tenant, "tomcat-conf"),
		Spec:       v1alpha1.ConfigurationSpec{Files: map[string]string{"server.xml": serverXML, "empty.conf": ""}},
	}
	j.Create(c)
	a := j.Application("web", journey.In("bj"), journey.Echo("web", use(v1alpha1.ConfigurationUse{Name: "tomcat-conf", MountPath: "/config-center"})))
	j.Ready(a)
	content := func() string {
		pod := j.Pods(journey.Beijing, j.Tenant+"-bj", "web")[0].Name
		return j.Try(journey.Beijing, "-n", j.Tenant+"-bj", "exec", pod, "--", "/bin/cat", "/config-center/server.xml")
	}
	j.Expect(content()).To(Equal(serverXML))

	j.Expect(j.Get(c)).To(Succeed())
	first, revision := c.Status.Version, a.Status.Revision
	j.Update(c, func() { c.Spec.Files["server.xml"] = "changed\n" })
	j.Eventually(func() string { _ = j.Get(c); return c.Status.Version }).ShouldNot(Equal(first))
	j.Ready(a)
	j.Expect(a.Status.Revision).To(Equal(revision), "a running application keeps the version of its revision")
	j.Expect(content()).To(Equal(serverXML))
	j.Update(a, func() { a.Spec.Version = "v2" })
	j.Eventually(func() string { _ = j.Get(a); return a.Status.Revision }).ShouldNot(Equal(revision), "its next version takes the newest")
	j.Ready(a)
	j.Eventually(content).Should(Equal("changed\n"))
}

func TestCFG04EnvironmentSecretsAndPublication(t *testing.T) {
	t.Parallel()
	j := journey.Begin(t)
	j.Partition("bj", journey.Beijing)
	hidden := &v1alpha1.Configuration{
		ObjectMeta: journey.Named(j.Tenant, "password"),
		Spec:       v1alpha1.ConfigurationSpec{Publication: v1alpha1.PublicationNone},
	}
	j.Create(hidden.WriteSecret(corev1.SecretTypeOpaque, map[string][]byte{"DB_PASSWORD": []byte("correct horse")}), hidden)
	web := journey.Echo("web", use(v1alpha1.ConfigurationUse{Name: "password", Environment: true, MountPath: "/secret"}))
	j.Refused("early", journey.In("bj"), web, "password")
	j.Update(hidden, func() {
		hidden.Spec.Publication = v1alpha1.PublicationSelected
		hidden.Spec.Partitions = []string{"bj"}
	})
	a := j.Application("web", journey.In("bj"), web)
	j.Ready(a)
	pod := j.Pods(journey.Beijing, j.Tenant+"-bj", "web")[0].Name
	j.Expect(j.Kubectl(journey.Beijing, "-n", j.Tenant+"-bj", "exec", pod, "--", "/bin/env")).To(ContainSubstring("DB_PASSWORD=correct horse\n"))
	j.Expect(j.Kubectl(journey.Beijing, "-n", j.Tenant+"-bj", "exec", pod, "--", "/bin/cat", "/secret/DB_PASSWORD")).To(Equal("correct horse"))
	j.Expect(j.Kubectl(journey.Hub, "-n", j.Tenant, "get", "configurations,applications,applicationrevisions,deliveries", "-o", "yaml", "--show-managed-fields")).
		NotTo(ContainSubstring("correct horse"), "values of a Secret are write-only")
}
