# make help lists the targets. Needs GNU make, bash and Go; everything else is installed or named when it is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# One set of flags for build, vet and test, so that they share Go's cache: compiling gVisor a second time costs a
# minute. Without a VCS stamp the embedded binaries keep their hash from commit to commit, and so their snapshots.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUNDLE := internal/bundle/files
DATA ?= .data
UP_FLAGS ?=
TEST_TIMEOUT ?= 25m
TEST_FLAGS ?=
FUZZTIME ?= 3s
GOLANGCI_LINT ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.2

# Hosts behind a TLS-inspecting proxy name its certificate here; sandboxes have to trust it too.
ifneq ($(SSL_CERT_FILE),)
export SUPERSERVE_EXTRA_CA_FILES ?= $(SSL_CERT_FILE)
endif

phase = @printf '\n== %s [%(%H:%M:%S)T]\n' '$(1)' -1

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## ---- run -----------------------------------------------------------------------------------------------------------

.PHONY: up
up: ## Install what is missing, build, start the server, try one sandbox (DATA=dir, UP_FLAGS=more server flags)
	@scripts/host-packages run
	@$(MAKE) build
	@bin/superserve up --data-dir '$(DATA)' $(UP_FLAGS)
	@bin/superserve demo --data-dir '$(DATA)'

.PHONY: down
down: ## Stop the server; sandboxes keep running. CLEAN=1 removes them and everything else it made
	@if [[ ! -x bin/superserve ]]; then echo 'bin/superserve is not there; run make build first' >&2; exit 1; fi
	@bin/superserve down --data-dir '$(DATA)' $(if $(filter 1 yes true,$(CLEAN)),--clean)

## ---- build ---------------------------------------------------------------------------------------------------------

.PHONY: build
build: bundle ## Build bin/superserve with the runtime and the agent in it
	@mkdir -p bin
	@$(GO) build -ldflags '-s -w -X main.version=$(VERSION)' -o bin/superserve ./cmd/superserve
	@echo "built bin/superserve $(VERSION)"

.PHONY: bundle
bundle:
	@mkdir -p $(BUNDLE)
	@if [[ ! -e $(BUNDLE)/superserve-runsc ]]; then \
		echo 'building the gVisor runtime; the first time this downloads modules and takes a minute or two'; fi
	@$(GO) build -ldflags '-s -w' -o $(BUNDLE)/superserve-runsc ./cmd/superserve-runsc
	@$(GO) build -ldflags '-s -w' -o $(BUNDLE)/boxd ./cmd/boxd

.PHONY: generate
generate: ## Regenerate code and reference pages
	@$(GO) generate ./...
	@$(GO) run ./cmd/superserve config reference > docs/configuration.md.new
	@mv docs/configuration.md.new docs/configuration.md
	@$(GO) run ./cmd/superserve docs cli > docs/cli.md.new
	@mv docs/cli.md.new docs/cli.md

.PHONY: check-generated
check-generated:
	@scripts/check-generated

## ---- check ---------------------------------------------------------------------------------------------------------

.PHONY: test
test: ## Install what tests need, then every check and every test
	$(call phase,packages)
	@scripts/host-packages run test
	$(call phase,build)
	@$(MAKE) build
	$(call phase,generated code)
	@scripts/check-generated
	$(call phase,vet)
	@$(GO) vet ./...
	$(call phase,cross-compile linux/amd64 and linux/arm64)
	@$(MAKE) cross
	$(call phase,fuzz targets $(FUZZTIME) each)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz
	$(call phase,tests)
	@$(GO) test -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./...

.PHONY: cross
cross:
	@GOOS=linux GOARCH=amd64 $(GO) build ./...
	@GOOS=linux GOARCH=arm64 $(GO) build ./...

.PHONY: fuzz
fuzz: ## Run every fuzz target (FUZZTIME=1m)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

.PHONY: bench
bench: ## Measure create, exec, pause and resume on the server that make up started (N=20)
	@bin/superserve bench --data-dir '$(DATA)' -n $(or $(N),20)

.PHONY: bench-egress
bench-egress: build ## Measure the way out through the proxy against plain NAT, in a network of the test's own
	@$(GO) test ./test/egress -run '^$$' -bench . -benchtime 1x

.PHONY: bench-templates
bench-templates: build ## Measure creates from a large template, a rebuild, and a pull against skopeo and umoci
	@scripts/host-packages run bench
	@$(GO) test ./test/e2e -run '^$$' -bench CreateFromLargeTemplate -benchtime 40x
	@$(GO) test ./test/e2e -run '^$$' -bench RebuildLastStep -benchtime 5x
	@$(GO) test ./internal/image -run '^$$' -bench PullAndFlatten -benchtime 3x

.PHONY: lint
lint: ## Check formatting and the linter's rules
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); \
	if [[ -n $$unformatted ]]; then echo "not gofmt'd:" $$unformatted >&2; exit 1; fi
	@GOFLAGS= $(GO) run $(GOLANGCI_LINT) run ./...
