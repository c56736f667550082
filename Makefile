# What to type. A fresh machine needs Rust, gcc, g++, make and Python; what a target needs besides,
# scripts/setup gets, or says what will not run without it.

SHELL = /bin/sh
PYTHON_ENVIRONMENT = $(CURDIR)/.venv

.DEFAULT_GOAL = help
.PHONY: help build lint test test-quick fuzz soak mutants chaos demo bench examples doc check install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

build: ## the command, optimised: target/release/procession
	cargo build --release

lint: ## format, clippy and documentation, where a warning is an error
	@scripts/setup lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

test: ## all tests, with the servers that they need: unit, integration, documentation; the examples are built too
	@scripts/setup thrift || true
	@if scripts/setup python '$(PYTHON_ENVIRONMENT)'; then \
		export PROCESSION_TEST_PYTHON='$(PYTHON_ENVIRONMENT)/bin/python'; fi; \
	if scripts/setup go; then export PROCESSION_TEST_GO=go; fi; \
	set -x; scripts/services run cargo test --workspace --all-features

test-quick: ## the tests that need no server
	cargo test --workspace --all-features

fuzz: ## decoders with damaged inputs, for FUZZ_SECONDS (600) each
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} cargo test --test decoders -- --nocapture --test-threads=16
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} cargo test --bin procession a_log_of_any_bytes -- --nocapture

soak: ## the simulation with other seeds, until it is stopped or one fails
	cargo test --lib simulation -- --ignored --nocapture soak

mutants: ## breaks the code on purpose, and shows that the simulation finds it
	scripts/mutants
chaos: ## 10,000 tasks while workers, sink and ventilator are killed; three hosts on a bad network (as root)
	@scripts/setup network || true
	PROCESSION_CHAOS_TASKS=10000 cargo test --test chaos --test chaos_library --test network -- --nocapture --test-threads=1

demo: ## several processes do a real job, and one of them is killed on the way
	scripts/demo

bench: ## the speed beside xargs and GNU parallel, in one run
	@scripts/setup parallel || true
	scripts/services run scripts/bench

examples: ## build every example
	cargo build --workspace --examples --all-features

doc: ## the documentation of the library: target/doc/procession/index.html
	cargo doc --no-deps

check: lint test examples ## everything a reviewer runs

install: ## the command, into cargo's folder of programs
	cargo install --locked --path .

clean: ## remove everything that was built, and the Python environment
	cargo clean
	rm -rf '$(PYTHON_ENVIRONMENT)' bench-out
