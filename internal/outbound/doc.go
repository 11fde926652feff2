// Package outbound is the frame for what leaves the platform because a user's text says so: requests over HTTP and mail,
// which reach only addresses that the operator allows, and messages to people. It knows no capability.
package outbound
