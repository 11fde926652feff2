// Package crds holds the CustomResourceDefinitions generated from package v1alpha1, for the server to install.
package crds

import "embed"

// Files holds one YAML file per kind.
//
//go:embed *.yaml
var Files embed.FS
