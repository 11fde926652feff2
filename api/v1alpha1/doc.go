// Package v1alpha1 holds Yunfan's own kinds, group yunfan.io: what the hub stores and what console, CLI and kubectl
// create and change.
//
// +kubebuilder:object:generate=true
// +groupName=yunfan.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "yunfan.io", Version: "v1alpha1"}

// AddToScheme registers every kind of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&AccessToken{}, &AccessTokenList{},
		&Approval{}, &ApprovalList{},
		&Application{}, &ApplicationList{},
		&ApplicationRevision{}, &ApplicationRevisionList{},
		&Cluster{}, &ClusterList{},
		&Configuration{}, &ConfigurationList{},
		&Delivery{}, &DeliveryList{},
		&Membership{}, &MembershipList{},
		&Directory{}, &DirectoryList{},
		&Edge{}, &EdgeList{},
		&NodePort{}, &NodePortList{},
		&NotificationProvider{}, &NotificationProviderList{},
		&NotificationReceiver{}, &NotificationReceiverList{},
		&Partition{}, &PartitionList{},
		&Product{}, &ProductList{},
		&ResourceRequest{}, &ResourceRequestList{},
		&Rollout{}, &RolloutList{},
		&Route{}, &RouteList{},
		&RouteHost{}, &RouteHostList{},
		&Session{}, &SessionList{},
		&Tenant{}, &TenantList{},
		&User{}, &UserList{},
		&UserGroup{}, &UserGroupList{},
		&Workflow{}, &WorkflowList{},
		&WorkflowRun{}, &WorkflowRunList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
