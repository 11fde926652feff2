// Package score holds the score example: the recipes of its two images, their programs in the folders below, and the
// objects that run them.
package score

import "embed"

// Manifests are the objects of the example, for 'yunfan up' and for kubectl: tenant.yaml, configuration.yaml and
// application.yaml.
//
//go:embed tenant.yaml configuration.yaml application.yaml
var Manifests embed.FS
