# Images of the examples, as archives in bin/images/examples: included by the Makefile of the repository.

EXAMPLE_PROGRAMS := db-service score-record echo port-reporter
EXAMPLE_SOURCE   := db-service=examples/score/db-service score-record=examples/score/score-record echo=examples/echo port-reporter=examples/port-reporter
EXAMPLE_RECIPES  := $(wildcard examples/*/*.image.yaml)
EXAMPLE_IMAGES   := $(patsubst %.image.yaml,bin/images/examples/%.tar,$(notdir $(EXAMPLE_RECIPES)))

.PHONY: images
images: $(EXAMPLE_IMAGES)

source_of = $(patsubst $1=%,%,$(filter $1=%,$(EXAMPLE_SOURCE)))

define example_program
bin/examples/$1: $$(filter-out %_test.go,$$(wildcard $(call source_of,$1)/*)) go.mod go.sum
	@echo "building $$@"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o $$@ ./$(call source_of,$1)
endef
$(foreach program,$(EXAMPLE_PROGRAMS),$(eval $(call example_program,$(program))))

# An image depends on the program named like it, if there is one. The packer itself is needed, but a newer one gives the
# same image.
define example_image
bin/images/examples/$(basename $(basename $(notdir $1))).tar: $1 $(foreach p,$(EXAMPLE_PROGRAMS),$(if $(findstring /$p,$1),bin/examples/$p)) | bin/yunfan
	@echo "packing $$@"
	@bin/yunfan image pack $$< --output $$@ && bin/yunfan image check $$@
endef
$(foreach recipe,$(EXAMPLE_RECIPES),$(eval $(call example_image,$(recipe))))
