// Package gateway is what the gateways of members serve: it makes the objects of Routes in a partition's namespace from
// what the hub knows, brings them there as the partition's identity, and asks each gateway what it serves.
package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

const (
	// LabelRoute names the Route that an object was made for; it is empty on those that all Routes of a partition share.
	LabelRoute = "yunfan.io/route"
	// HeaderProbe is what the platform's own questions to a gateway have, with the partition's namespace. Edges let no
	// client send it.
	HeaderProbe = "Yunfan-Probe"
	// HeaderReached is on the answers to such questions when a Route's objects made them.
	HeaderReached = "Yunfan-Reached"
	// markerPrefix is the path below which a gateway tells what it serves of a namespace.
	markerPrefix = "/.well-known/yunfan/"
	// answerDomain ends the host names that are the answers: no such host exists anywhere.
	answerDomain = ".yunfan.invalid"
)

// The kinds of objects.
var (
	kindHTTPRoute        = schema.GroupVersionKind{Group: gatewayv1.GroupName, Version: "v1", Kind: "HTTPRoute"}
	kindMiddleware       = schema.GroupVersionKind{Group: traefikGroup, Version: "v1alpha1", Kind: "Middleware"}
	kindTraefikService   = schema.GroupVersionKind{Group: traefikGroup, Version: "v1alpha1", Kind: "TraefikService"}
	kindServersTransport = schema.GroupVersionKind{Group: traefikGroup, Version: "v1alpha1", Kind: "ServersTransport"}
)

// traefikGroup has what the standard does not say, or what Traefik does not do of it.
const traefikGroup = "traefik.io"

// Kinds are those of all objects, referenced ones first.
func Kinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{kindServersTransport, kindTraefikService, kindMiddleware, kindHTTPRoute}
}

// Application is one application as it is delivered to a partition.
type Application struct {
	Delivery *v1alpha1.Delivery
	// Components by the role of their track, and by name.
	Components map[v1alpha1.TrackRole]map[string]*v1alpha1.Component
}

// Input is all that the objects of one partition are made from.
type Input struct {
	Partition *v1alpha1.Partition
	// Routes of the tenant, in the order of their names.
	Routes []*v1alpha1.Route
	// Applications that are delivered to the partition, by name.
	Applications map[string]*Application
}

// Objects are what a partition's namespace should have.
type Objects struct {
	// Referenced objects have names made of their content, so that they never change: those that Routes refer to.
	Referenced []*unstructured.Unstructured
	// Ready tells, as an answer of the gateway, that all referenced objects are known there. Nil without any.
	Ready *unstructured.Unstructured
	// Routes are the HTTPRoutes, in the order of their names.
	Routes []*unstructured.Unstructured
	// Marker is the HTTPRoute that tells, as an answer of the gateway, that all of this is served.
	Marker *unstructured.Unstructured
	// Generation names the whole, and ReferencedGeneration the referenced objects: what the gateway answers.
	Generation, ReferencedGeneration string
	// Problems are what cannot be done as it is written, by Route, for people.
	Problems map[string][]string
}

// MarkerPath is where a gateway tells what it serves of a namespace.
func MarkerPath(namespace string) string { return markerPrefix + namespace }

// readyPath is where a gateway tells which referenced objects of a namespace it knows.
func readyPath(namespace string) string { return markerPrefix + namespace + "/objects" }

// ProbePath is where a gateway leads a question to a component of a track.
func ProbePath(namespace, application, component string, track v1alpha1.TrackRole) string {
	return markerPrefix + namespace + "/reach/" + application + "/" + component + "/" + string(track)
}

// hashOf names a content.
func hashOf(content any) (string, error) {
	data, err := json.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("naming a content: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6]), nil
}

// unstructuredRoute makes the object that is applied.
func unstructuredRoute(route *gatewayv1.HTTPRoute) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(route)
	if err != nil {
		return nil, fmt.Errorf("writing HTTPRoute %s: %w", route.Name, err)
	}
	delete(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	out := &unstructured.Unstructured{Object: content}
	out.SetGroupVersionKind(kindHTTPRoute)
	return out, nil
}
