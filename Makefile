# Everything CI does is a target here. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 20s
AREA     ?= all
TOOLS    := $(GO) -C .ci/tools

export CGO_ENABLED ?= 0
export BAILIWICK_SWTPM_ROOT ?= $(CURDIR)/.cache/swtpm/root

.PHONY: help
help: ## Show this help
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev
dev: build deps ## Build, then run a whole fleet on this machine (Ctrl-C stops it)
	./bin/bailiwick dev

.PHONY: build
build: ## Build ./bin/bailiwick, one static binary
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/bailiwick ./cmd/bailiwick

.PHONY: deps
deps: ## Find swtpm, or unpack Debian's into .cache without root
	@.ci/fetch-swtpm

.PHONY: test
test: deps ## Run all tests, the end-to-end scripts among them
	$(GO) test -timeout 10m ./...

.PHONY: race
race: deps ## The same under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

.PHONY: e2e
e2e: deps ## Only the end-to-end scripts: real binary, real swtpm
	$(GO) test -count=1 -timeout 10m ./cmd/bailiwick -run TestScripts -v

.PHONY: interop
interop: deps ## Against stock spire-server, spire-agent and spiffe-helper; builds them once (5 min)
	@test/interop/run

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (20s)
	@.ci/fuzz $(FUZZTIME)

.PHONY: check
check: ## Format, vet, staticcheck, tidiness, generated files, Rego, arrows
	@.ci/check

.PHONY: fix
fix: generate ## Mend what check can mend: format, tidy, generated files
	gofmt -w $$(git ls-files '*.go')
	$(GO) mod tidy
	$(TOOLS) mod tidy

.PHONY: generate
generate: ## Generate Go from the .proto files, with pinned tools
	$(TOOLS) run ./protogen $(CURDIR)

.PHONY: bench
bench: deps ## Benchmarks against named references; AREA=gossip runs one part
	$(GO) run ./test/bench -area $(AREA)

.PHONY: cover
cover: deps ## Test coverage, by package
	$(GO) test -timeout 10m -coverprofile=cover.out ./... && $(GO) tool cover -func=cover.out | tail -1

.PHONY: vuln
vuln: ## Known vulnerabilities in what we call
	@.ci/vuln

.PHONY: clean
clean: ## Remove what was built and downloaded here
	rm -rf bin .cache .bench cover.out
