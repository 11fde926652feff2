# The embedded engine and the images it needs. Included by the Makefile at the root, which gives bin/yunfan and
# KUBEBUILDER_ASSETS.
# Each program is built only when its own files changed; upstream's take minutes the first time, seconds after that.

K8S_VERSION            := 1.36.3
CONTAINERD_VERSION     := 2.4.2
COREDNS_VERSION        := 1.15.0
METRICS_SERVER_VERSION := 0.9.0
TRAEFIK_VERSION        := 3.7.13

E           := bin/engine
IMAGE_FILES := bin/images/.files
GO_STATIC   := CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false

ENGINE_NESTED   := conformance coredns etcd kubernetes metricsserver policy runtime traefik volumes
ENGINE_SOURCES  := $(filter-out engine/engine.mk %_test.go $(ENGINE_NESTED:%=engine/%/%),$(shell find engine -type f -not -path '*/testdata/*'))
CONTAINERD      := $(addprefix $(E)/,containerd containerd-shim-runc-v2 ctr)
CNI_PLUGINS     := $(addprefix $(E)/cni/,bridge host-local loopback portmap ptp)
POLICY          := $(addprefix $(E)/,yunfan-policy cni/yunfan-policy)
ENGINE_PROGRAMS := $(addprefix $(E)/,yunfan-engine yunfan-kubernetes kubectl etcd runc) $(CONTAINERD) $(CNI_PLUGINS) $(POLICY)
ENGINE_IMAGES   := $(addprefix bin/images/,pause.tar coredns.tar metrics-server.tar volume-provisioner.tar)

.PHONY: engine engine-images engine-test
engine: $(ENGINE_PROGRAMS) engine-images bin/gateway/traefik
engine-images: $(ENGINE_IMAGES)
engine-test: engine
	cd engine && go test ./...
	cd engine/volumes && go test ./...
	cd engine/policy && go test -tags e2e -count=1 ./...
	cd engine && YUNFAN_ENGINE_BIN=$(abspath $(E)/yunfan-engine) go test -tags e2e -count=1 -timeout 20m .

# say NAME: one line of progress.
say = @echo "building $(1) …"; mkdir -p $(@D)
# go-mod DIR: the files that pin a nested module.
go-mod = engine/$(1)/go.mod engine/$(1)/go.sum

$(E)/yunfan-engine: $(ENGINE_SOURCES)
	$(call say,yunfan-engine)
	@cd engine && $(GO_STATIC) -ldflags "-s -w" -o ../$@ ./cmd/yunfan-engine

K8S_LINK := -s -w $(foreach flag,gitVersion=v$(K8S_VERSION) gitMajor=1 gitMinor=$(word 2,$(subst ., ,$(K8S_VERSION))) gitCommit= gitTreeState=clean,-X k8s.io/component-base/version.$(flag))
KUBES    := kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubelet

$(E)/yunfan-kubernetes: $(call go-mod,kubernetes) $(wildcard engine/kubernetes/*.go)
	$(call say,kubernetes $(K8S_VERSION) (about 4 minutes the first time))
	@cd engine/kubernetes && $(GO_STATIC) -ldflags "$(K8S_LINK)" -o ../../$@ .
	@for name in $(KUBES); do ln -sf yunfan-kubernetes $(E)/$$name; done

# After the above: both compile the same packages.
$(E)/kubectl: $(call go-mod,kubernetes) | $(E)/yunfan-kubernetes
	$(call say,kubectl $(K8S_VERSION))
	@cd engine/kubernetes && $(GO_STATIC) -ldflags "$(K8S_LINK)" -o ../../$@ k8s.io/kubernetes/cmd/kubectl

$(E)/etcd: $(call go-mod,etcd)
	$(call say,etcd (about a minute the first time))
	@cd engine/etcd && $(GO_STATIC) -ldflags "-s -w" -o ../../$@ go.etcd.io/etcd/server/v3

CONTAINERD_MODULE := github.com/containerd/containerd/v2
$(CONTAINERD) &: $(call go-mod,runtime)
	$(call say,containerd $(CONTAINERD_VERSION) (about 2 minutes the first time))
	@cd engine/runtime && $(GO_STATIC) -tags "no_btrfs no_devmapper no_zfs" -o ../../$(E)/ \
	  -ldflags "-s -w -X $(CONTAINERD_MODULE)/version.Version=$(CONTAINERD_VERSION)" \
	  $(foreach program,$(notdir $(CONTAINERD)),$(CONTAINERD_MODULE)/cmd/$(program))

# runc enters namespaces in C, and filters system calls with libseccomp: pods fail without it.
$(E)/runc: $(call go-mod,runtime)
	$(call say,runc)
	@cd engine/runtime && CGO_ENABLED=1 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -tags "seccomp netgo osusergo" \
	  -ldflags "-s -w -extldflags -static" -o ../../$@ github.com/opencontainers/runc

CNI_MODULE := github.com/containernetworking/plugins/plugins
$(CNI_PLUGINS) &: $(call go-mod,runtime)
	$(call say,CNI plugins)
	@cd engine/runtime && $(GO_STATIC) -ldflags "-s -w" -o ../../$(E)/cni/ \
	  $(addprefix $(CNI_MODULE)/,main/bridge main/loopback main/ptp meta/portmap ipam/host-local)

# The enforcer of network policies and the CNI plugin that waits for it.
$(POLICY) &: $(call go-mod,policy) $(filter-out %_test.go,$(shell find engine/policy -name '*.go'))
	$(call say,yunfan-policy)
	@cd engine/policy && $(GO_STATIC) -ldflags "-s -w" -o ../../$(E)/yunfan-policy . && $(GO_STATIC) -ldflags "-s -w" -o ../../$(E)/cni/yunfan-policy ./cni

# The gateway of members, which images/images.mk makes an image of.
TRAEFIK_MODULE := github.com/traefik/traefik/v3
bin/gateway/traefik: $(call go-mod,traefik) $(shell find engine/traefik -name '*.go')
	$(call say,traefik $(TRAEFIK_VERSION) (about 3 minutes the first time))
	@cd engine/traefik && $(GO_STATIC) -ldflags "-s -w -X $(TRAEFIK_MODULE)/pkg/version.Version=$(TRAEFIK_VERSION)" \
	  -o ../../$@ $(TRAEFIK_MODULE)/cmd/traefik

$(IMAGE_FILES)/pause: engine/go.mod engine/pause/main.go
	$(call say,pause)
	@cd engine && $(GO_STATIC) -ldflags "-s -w" -o ../$@ ./pause

$(IMAGE_FILES)/coredns: $(call go-mod,coredns) engine/coredns/main.go
	$(call say,coredns $(COREDNS_VERSION) (about 2 minutes the first time))
	@cd engine/coredns && $(GO_STATIC) -ldflags "-s -w" -o ../../$@ .

$(IMAGE_FILES)/metrics-server: $(call go-mod,metricsserver)
	$(call say,metrics-server $(METRICS_SERVER_VERSION) (about 2 minutes the first time))
	@cd engine/metricsserver && $(GO_STATIC) -o ../../$@ \
	  -ldflags "-s -w -X k8s.io/client-go/pkg/version.gitVersion=v$(METRICS_SERVER_VERSION)" sigs.k8s.io/metrics-server/cmd/metrics-server

$(IMAGE_FILES)/volume-provisioner: $(call go-mod,volumes) $(filter-out %_test.go,$(wildcard engine/volumes/*.go))
	$(call say,volume-provisioner)
	@cd engine/volumes && $(GO_STATIC) -ldflags "-s -w" -o ../../$@ .

bin/images/pause.tar:              IMAGE_TAG := v1
bin/images/coredns.tar:            IMAGE_TAG := v$(COREDNS_VERSION)
bin/images/metrics-server.tar:     IMAGE_TAG := v$(METRICS_SERVER_VERSION)
bin/images/volume-provisioner.tar: IMAGE_TAG := v1
# What the packaging rules ask every image to say of itself: its ports and its settings.
$(ENGINE_IMAGES):                  IMAGE_SAYS := --label yunfan.io/settings=nothing --label yunfan.io/listens=nothing
bin/images/coredns.tar:            IMAGE_SAYS := --label yunfan.io/settings=nothing --expose 53/udp --expose 53/tcp
bin/images/metrics-server.tar:     IMAGE_SAYS := --label yunfan.io/settings=nothing --expose 10250
$(ENGINE_IMAGES): bin/images/%.tar: $(IMAGE_FILES)/% engine/engine.mk | bin/yunfan
	$(call say,image $*:$(IMAGE_TAG))
	@bin/yunfan image pack --name registry.yunfan.internal/system/$* --tag $(IMAGE_TAG) --maintainer yunfan \
	  --file $<=/$*:0755 --entrypoint /$* $(IMAGE_SAYS) --output $@ >/dev/null
	@bin/yunfan image check $@ >/dev/null

# The conformance suite of the Gateway API and its server: for `make bench BENCH=conformance` only.
.PHONY: conformance
conformance: bin/conformance/suite bin/conformance/echo-basic.tar

bin/conformance/suite: $(call go-mod,conformance) engine/conformance/conformance_test.go
	$(call say,conformance suite (minutes the first time))
	@cd engine/conformance && CGO_ENABLED=0 GOFLAGS=-mod=readonly go test -c -trimpath -o ../../$@ .

bin/conformance/echo-basic: $(call go-mod,conformance)
	$(call say,echo-basic)
	@cd engine/conformance && $(GO_STATIC) -ldflags "-s -w" -o ../../$@ sigs.k8s.io/gateway-api/conformance/echo-basic

bin/conformance/echo-basic.tar: bin/conformance/echo-basic | bin/yunfan
	$(call say,image echo-basic)
	@bin/yunfan image pack --name registry.yunfan.internal/conformance/echo-basic --tag v1 --maintainer yunfan \
	  --file $<=/echo-basic:0755 --entrypoint /echo-basic --label yunfan.io/settings=nothing --expose 3000 --user 65532:65532 --output $@ >/dev/null
