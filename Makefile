# Everything CI does is a target here. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# Without it grpc's tracing looks methods up by name, which keeps every exported method
# of every package in the binary: a seventh of its size.
TAGS     := grpcnotrace
FUZZTIME ?= 20s
AREA     ?= all
SEED     ?= 0
SCHEDULES ?= 1000
TOOLS    := $(GO) -C .ci/tools

export CGO_ENABLED ?= 0
export BAILIWICK_SWTPM_ROOT ?= $(CURDIR)/.cache/swtpm/root
# Nodes of the real stack in virtual time; a plain go test runs fewer.
export BAILIWICK_FLEET ?= 50

.PHONY: help
help: ## Show this help
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev
dev: build deps ## Build, then run a whole fleet on this machine (Ctrl-C stops it)
	./bin/bailiwick dev

.PHONY: build
build: ## Build ./bin/bailiwick, one static binary
	$(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/bailiwick ./cmd/bailiwick

.PHONY: deps
deps: ## Find swtpm, or unpack Debian's into .cache without root
	@.ci/fetch-swtpm

.PHONY: test
test: deps ## Run all tests, and last the end-to-end scripts, which live by real time
	$(GO) test -timeout 30m $$($(GO) list ./... | grep -v '/cmd/bailiwick$$')
	$(GO) test -timeout 30m ./cmd/bailiwick

.PHONY: race
race: deps ## The same under the race detector (needs a C compiler)
	@.ci/race

.PHONY: e2e
e2e: deps ## Only the end-to-end scripts: real binary, real swtpm
	$(GO) test -count=1 -timeout 30m ./cmd/bailiwick -run TestScripts -v

.PHONY: interop
interop: deps ## Against stock spire-server, spire-agent, spiffe-helper, opa and the OpenTelemetry Collector; builds them once (8 min)
	@test/interop/run
	$(GO) -C test/interop/opa test ./...
	$(GO) -C test/interop/collector test ./...

.PHONY: archive
archive: ## Build ./bin/bailiwick-archive and test it against a real S3 server; builds that once (2 min)
	$(GO) -C cmd/bailiwick-archive build -trimpath -ldflags '$(LDFLAGS)' -o $(CURDIR)/bin/bailiwick-archive .
	@cmd/bailiwick-archive/run

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (20s)
	@.ci/fuzz $(FUZZTIME)

.PHONY: mutate
mutate: ## Take each check that stops an attack out: its test must fail; CHECK=TestX for some
	@$(GO) run ./test/attack/mutate -check '$(CHECK)'

.PHONY: check
check: ## Format, vet, staticcheck, tidiness, generated files, Rego, arrows
	@.ci/check

.PHONY: fix
fix: generate ## Mend what check can mend: format, tidy, generated files
	gofmt -w $$(git ls-files '*.go')
	$(GO) mod tidy
	$(TOOLS) mod tidy
	$(GO) -C test/interop mod tidy
	$(GO) -C test/interop/opa mod tidy
	$(GO) -C test/interop/collector mod tidy
	$(GO) -C cmd/bailiwick-archive mod tidy

.PHONY: generate
generate: ## Generate Go from the .proto files, with pinned tools
	$(TOOLS) run ./protogen $(CURDIR)

.PHONY: bench
bench: deps ## Benchmarks against named references; AREA=gossip runs one part
	$(GO) run ./test/bench -area $(AREA)

.PHONY: sim
sim: ## Simulate fleets of 1,000 and 5,000 nodes, and schedules by chance; SEED=7 is another run
	$(GO) run ./test/sim/run -seed $(SEED) -schedules $(SCHEDULES) test/sim/testdata/large/*.txt

.PHONY: scale
scale: ## docs/scale.md and its plots, from the recorded results in test/scale
	$(GO) run ./test/scale

.PHONY: cover
cover: deps ## Test coverage, by package
	$(GO) test -timeout 10m -coverprofile=cover.out ./... && $(GO) tool cover -func=cover.out | tail -1

.PHONY: vuln
vuln: ## Known vulnerabilities in what we call
	@.ci/vuln

.PHONY: clean
clean: ## Remove what was built and downloaded here
	rm -rf bin .cache .bench cover.out
