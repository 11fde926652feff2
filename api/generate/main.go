// Command generate shortens the generated CRDs: descriptions inside the Kubernetes types that our kinds embed (pod
// templates, claims, …) are dropped, because they make nine tenths of the files and of what every API server keeps in
// memory for them. Descriptions of our own fields stay, for kubectl explain.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// embedded are the properties whose schema is a Kubernetes type.
var embedded = map[string]bool{"template": true, "volumeClaimTemplates": true, "resources": true, "env": true, "limits": true, "conditions": true, "selector": true}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return fmt.Errorf("listing CRDs: %w", err)
	}
	for _, file := range files {
		if err := shorten(file); err != nil {
			return fmt.Errorf("shortening %s: %w", file, err)
		}
	}
	return nil
}

func shorten(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	walk(crd, false)
	if text, err = yaml.Marshal(crd); err != nil {
		return err
	}
	return os.WriteFile(file, append([]byte("---\n"), text...), 0o644)
}

// walk visits a schema; inside says that it is below an embedded type.
func walk(node any, inside bool) {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			walk(item, inside)
		}
	case map[string]any:
		if _, text := node["description"].(string); inside && text {
			delete(node, "description")
		}
		for key, child := range node {
			properties, ok := child.(map[string]any)
			if key != "properties" || !ok {
				walk(child, inside)
				continue
			}
			for name, property := range properties {
				field, ok := property.(map[string]any)
				if !ok {
					continue
				}
				description, described := field["description"]
				walk(field, inside || embedded[name])
				if embedded[name] && !inside && described {
					field["description"] = description
				}
			}
		}
	}
}
