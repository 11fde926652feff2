// Package ext has the extension points of Traefik's dynamic configuration: empty, as upstream's are.
package ext

// HTTP is an extension point of the HTTP configuration.
type HTTP struct{}

// Router is an extension point of a router.
type Router struct{}
