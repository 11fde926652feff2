# Images that the platform runs on members, as archives in bin/images/gateway: included by the Makefile of the repository.
# bin/gateway/traefik is built by engine/engine.mk.

GATEWAY_IMAGES := bin/images/gateway/gateway.tar bin/images/gateway/gauge.tar

images: $(GATEWAY_IMAGES)

bin/gateway/gauge: $(filter-out %_test.go,$(wildcard images/gateway/gauge/*.go)) go.mod go.sum
	@echo "building $@"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o $@ ./images/gateway/gauge

bin/images/gateway/gateway.tar: bin/gateway/traefik
bin/images/gateway/gauge.tar:   bin/gateway/gauge
$(GATEWAY_IMAGES): bin/images/gateway/%.tar: images/gateway/%.image.yaml | bin/yunfan
	@echo "packing $@"
	@mkdir -p $(@D)
	@bin/yunfan image pack $< --output $@ && bin/yunfan image check $@
