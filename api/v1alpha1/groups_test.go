package v1alpha1_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"yunfan.io/yunfan/api/v1alpha1"
)

func TestSEC01_Groups(t *testing.T) {
	type grant = v1alpha1.Grant
	for group, want := range map[string]*grant{
		"yunfan:tenant:edu:admin":               {Tenant: "edu", Role: v1alpha1.RoleAdmin},
		"yunfan:tenant:edu:operator":            {Tenant: "edu", Role: v1alpha1.RoleOperator},
		"yunfan:tenant:edu:viewer":              {Tenant: "edu", Role: v1alpha1.RoleViewer},
		"yunfan:tenant:edu:limited":             {Tenant: "edu", Limited: true},
		"yunfan:tenant:edu:limited-operator":    {Tenant: "edu", Limited: true},
		"yunfan:partition:edu:prod-bj:operator": {Tenant: "edu", Partition: "prod-bj", Role: v1alpha1.RoleOperator, Limited: true},
		"yunfan:partition:edu:prod-bj:viewer":   {Tenant: "edu", Partition: "prod-bj", Role: v1alpha1.RoleViewer, Limited: true},
		"yunfan:partition:edu:prod-bj:admin":    nil,
		"yunfan:partition:edu:viewer":           nil,
		"yunfan:partition:edu:a:b:viewer":       nil,
		"yunfan:tenant:edu:owner":               nil,
		"yunfan:tenant::admin":                  nil,
		"yunfan:tenant:edu":                     nil,
		"yunfan:tenant:edu:x:admin":             nil,
		"yunfan:platform-admin":                 nil,
		"tenant:edu:admin":                      nil,
	} {
		got, ok := v1alpha1.ParseGroup(group)
		if ok != (want != nil) || ok && got != *want {
			t.Errorf("%s: got %+v %v, want %+v", group, got, ok, want)
		}
	}
	made := []string{
		v1alpha1.TenantGroup("edu", v1alpha1.RoleAdmin), v1alpha1.LimitedGroup("edu"),
		v1alpha1.LimitedOperatorGroup("edu"), v1alpha1.PartitionGroup("edu", "prod-bj", v1alpha1.RoleViewer),
	}
	want := []string{"yunfan:tenant:edu:admin", "yunfan:tenant:edu:limited", "yunfan:tenant:edu:limited-operator", "yunfan:partition:edu:prod-bj:viewer"}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
