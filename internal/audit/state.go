package audit

import (
	"encoding/json"
	"fmt"
	"mime"
	"strings"

	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// masked stands for what nobody may read.
const masked = "***"

// plainJSON makes JSON of an object in any form that clients and API servers use.
func plainJSON(contentType string, body []byte) ([]byte, error) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind = "application/json"
	}
	switch {
	case kind == "application/vnd.kubernetes.protobuf":
		object, gvk, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("reading protobuf: %w", err)
		}
		object.GetObjectKind().SetGroupVersionKind(*gvk)
		return json.Marshal(object)
	case kind == "application/json", strings.HasSuffix(kind, "+json"):
		return body, nil
	case strings.HasSuffix(kind, "yaml"):
		return yaml.YAMLToJSON(body)
	}
	return nil, fmt.Errorf("%s is no object", kind)
}

// mask takes secrets out of an object, and what is only bookkeeping.
func mask(state []byte) (string, error) {
	var object any
	if err := json.Unmarshal(state, &object); err != nil {
		return "", fmt.Errorf("reading an object: %w", err)
	}
	text, err := json.Marshal(maskValue(object, false))
	if err != nil {
		return "", fmt.Errorf("writing an object: %w", err)
	}
	return string(text), nil
}

// maskValue masks within a value; all of its texts if secret.
func maskValue(value any, secret bool) any {
	switch value := value.(type) {
	case map[string]any:
		return maskObject(value, secret)
	case []any:
		for i := range value {
			value[i] = maskValue(value[i], secret)
		}
		return value
	case nil, bool:
		return value
	}
	if secret {
		return masked
	}
	return value
}

func maskObject(object map[string]any, secret bool) map[string]any {
	kind, _ := object["kind"].(string)
	holds := map[string]bool{}
	switch {
	case kind == "Secret":
		holds["data"], holds["stringData"] = true, true
	case kind == "Configuration" && field(object, "spec", "type") == "Secret":
		if spec, ok := object["spec"].(map[string]any); ok {
			spec["files"] = maskValue(spec["files"], true)
		}
	case kind == "AccessToken" || kind == "Session":
		holds["spec"] = true
	}
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
		if annotations, ok := metadata["annotations"].(map[string]any); ok {
			// A copy of the whole object, with its secrets in it.
			delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
		}
	}
	// An environment variable, a header or a Helm value: {name: PASSWORD, value: …}.
	if name, ok := object["name"].(string); ok && secretWord(name) {
		holds["value"] = true
	}
	for key, value := range object {
		object[key] = maskValue(value, secret || holds[key] || secretWord(key) && !reference(value))
	}
	return object
}

// reference says that a value under a name like secretKeyRef or tokenExpirationSeconds only points at a secret.
func reference(value any) bool {
	switch value.(type) {
	case map[string]any, bool, float64, nil:
		return true
	}
	return false
}

func field(object map[string]any, path ...string) string {
	for _, key := range path[:len(path)-1] {
		object, _ = object[key].(map[string]any)
	}
	text, _ := object[path[len(path)-1]].(string)
	return text
}

// secretWord says that a name is one of something that nobody may read.
func secretWord(name string) bool {
	name = strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
	switch name {
	case "secretname", "tokenname", "passwordref", "secretref", "apiversion", "usertoken", "automountserviceaccounttoken", "tokens", "secrets", "imagepullsecrets":
		return false
	case "cookie", "authorization", "accesskey", "apikey", "tlskey", "cakey":
		return true
	}
	for _, word := range []string{"password", "passwd", "passphrase", "token", "secret", "kubeconfig", "privatekey", "credential", "dockerconfigjson", "bindpw"} {
		if strings.Contains(name, word) && !strings.HasSuffix(name, "ref") && !strings.HasSuffix(name, "name") {
			return true
		}
	}
	return false
}
