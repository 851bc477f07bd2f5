GO       ?= go
FUZZTIME ?= 30s
BENCH    ?= .
COUNT    ?= 1
GOLANGCI  = v2.15.0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := build
.PHONY: image help build install test quick lint fmt fuzz bench demo conformance clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

# bin/builder is two programs in one file: see Two programs in ARCHITECTURE.md. These
# commands are begun as the whole one at once.
WHOLE = bake build builder buildx commit context debug df diff doctor export import info load login logout manifest \
	mount prune pull push rmi save system unmount untag usernet

# Go's collector of until 1.25 touches fewer pages, which counts in a program that has ended
# before it collects anything. Where Go doesn't have it any more the new one it is.
OLDGC := $(if $(shell GOEXPERIMENT=nogreenteagc $(GO) env GOVERSION 2>/dev/null),GOEXPERIMENT=nogreenteagc)

build: ## build the static binary bin/builder
	CGO_ENABLED=0 $(GO) build -buildmode=exe -trimpath -ldflags '$(LDFLAGS)' -o bin/whole ./cmd/builder
	CGO_ENABLED=0 $(OLDGC) $(GO) build -buildmode=exe -trimpath -tags front -ldflags '$(LDFLAGS) -T 0x20001000' -o bin/front ./cmd/builder
	$(GO) run ./internal/join bin/whole bin/front bin/builder $(WHOLE)

install: build ## copy the binary to /usr/local/bin
	install -m 755 bin/builder /usr/local/bin/builder

test: build ## install what the tests need (as root) and run all of them, of bin/builder
	BUILDER_TEST_PROGRAM="$(CURDIR)/bin/builder" scripts/test

quick: ## the tests that need no further programs
	CGO_ENABLED=0 $(GO) test ./...

lint: ## golangci-lint, pinned, and the import rules
	@test -x bin/golangci-lint-$(GOLANGCI) || { GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI) && mv bin/golangci-lint bin/golangci-lint-$(GOLANGCI); }
	bin/golangci-lint-$(GOLANGCI) run ./...
	$(GO) test ./internal/deps

fmt: ## format all sources
	gofmt -w $$(git ls-files '*.go')

fuzz: ## every fuzz target for FUZZTIME each
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; done

bench: build ## Go benchmarks, then whole commands beside the peers that are installed (as root)
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./...
	scripts/bench

demo: build ## build and run examples/web on a base image made from Debian packages (as root)
	scripts/demo

image: build ## build an image of builder itself; TARGET=minimal has the binary alone, TARGET=ci a shell and git
	scripts/image $(or $(TARGET),minimal)

conformance: build ## compare every Dockerfile of the corpus with what BuildKit made of it, and that with a reachable BuildKit
	scripts/conformance

clean: ## remove what the other targets made
	rm -rf bin .demo
