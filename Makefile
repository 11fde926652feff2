# Everything starts here; `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export GOTOOLCHAIN = local
export KUBEBUILDER_ASSETS = $(CURDIR)/bin/engine

# Modules with code of ours. The others below engine/ are a main function around one upstream program each, and linting them
# would mean compiling that program once more.
GO_MODULES := . engine engine/policy engine/volumes
GOLANGCI   := bin/tools/golangci-lint
YUNFAN_GO  := $(shell find cmd internal api -name '*.go' -not -name '*_test.go' 2>/dev/null) $(wildcard api/crds/*.yaml) go.mod go.sum
# What Debian must have: a compiler and libseccomp for runc, nft for the nodes' networks, debootstrap for images, HAProxy for the edge; and for
# tests the servers that they start themselves, PostgreSQL and OpenLDAP, and Python, in which the documentation has an example.
DEBIAN     := ca-certificates debootstrap gcc haproxy libc6-dev libseccomp-dev nftables pkg-config
DEBIAN_TEST := nginx-light postgresql python3 slapd

##@ The two commands

.PHONY: run test
run: deps build ## Build what is missing, start real clusters here and deploy the score example to both
	bin/yunfan up $(UP)

# Each stage is a target of its own; all of them run even if one fails, and a table with their times ends the run.
test: test-deps build ## Run every check: lint, generated files, unit, API server, engine, journeys with real pods
	@.ci/stages verify test-go test-engine test-journeys

##@ Building

.PHONY: build clean deps test-deps engine images
build: bin/yunfan engine images ## Build everything: bin/yunfan, bin/engine, bin/images

bin/yunfan: $(YUNFAN_GO)
	@echo "building $@"
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $@ ./cmd/yunfan

-include engine/engine.mk
-include examples/images.mk
-include images/images.mk

deps: ## Install the Debian packages that are missing; elsewhere, say which
	@.ci/deps $(DEBIAN)

test-deps: ## The same, with what tests need
	@.ci/deps $(DEBIAN) $(DEBIAN_TEST)

clean: ## Remove everything that was built
	rm -rf bin

##@ Checking

.PHONY: verify lint generate verify-generated verify-tidy verify-house test-full test-go test-engine test-journeys bench
verify: lint verify-generated verify-tidy verify-house ## Everything that is checked without running the product

lint: $(GOLANGCI) ## golangci-lint over every module of ours
	@for module in $(GO_MODULES); do echo "linting $$module"; (cd $$module && $(CURDIR)/$(GOLANGCI) run --timeout 20m --config $(CURDIR)/.golangci.yml ./...); done

$(GOLANGCI): go.tools.mod go.tools.sum
	@echo "building golangci-lint (minutes the first time)"
	go build -modfile=go.tools.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

GENERATE = go tool -modfile=go.tools.mod controller-gen paths=./api/v1alpha1/... object crd:generateEmbeddedObjectMeta=true

generate: ## Generate deep copies and CRDs from api/v1alpha1
	$(GENERATE) output:crd:dir=api/crds
	go run ./api/generate api/crds

verify-generated: ## Fail if `make generate` would change a file
	@dir=$$(mktemp -d); trap 'rm -rf $$dir' EXIT; mkdir $$dir/crds; \
	$(GENERATE) output:object:dir=$$dir output:crd:dir=$$dir/crds; go run ./api/generate $$dir/crds; \
	diff -u api/v1alpha1/zz_generated.deepcopy.go $$dir/zz_generated.deepcopy.go && diff -ru --exclude='*.go' api/crds $$dir/crds \
	|| { echo "generated files are out of date: run make generate"; exit 1; }

verify-tidy: ## Fail if go.mod or go.sum of a module of ours is not tidy
	@for module in $(GO_MODULES); do (cd $$module && go mod tidy -diff) || { echo "run go mod tidy in $$module"; exit 1; }; done

verify-house: ## House rules (sizes, names, package comments) and links between pages
	@go test -count=1 ./tools/house

test-go: ## Unit tests, and tests against real API servers
	go test ./...

test-engine: engine-test ## Tests of the engine's own modules

# One set of clusters serves all journeys; its name and folder are this run's own.
test-journeys: ## Journeys with real pods on real clusters (root)
	go vet -tags e2e ./e2e/...
	go run -tags e2e ./e2e/instance go test -tags e2e -count=1 -p 1 -timeout 30m -v $(JOURNEYS) ./e2e/...

test-full: test ## The same, with the whole fault matrix instead of a sample
	YUNFAN_FULL=1 $(MAKE) test-journeys

bench: build ## Measure: start-up, delivery, 100 applications, 1,000 workflow runs, idle cost; BENCH=part for one
	@go run -tags e2e ./bench $(BENCH)

##@ Help

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*##/ {printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
