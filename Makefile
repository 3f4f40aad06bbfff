# The few commands everyone uses; CI calls only these. `make help` lists them.
#
# Everything is built from this folder, Debian 12 packages and crates.io; one test asks PyPI for another reader of the
# signatures. Targets install the Debian packages they
# need (scripts/install-deps.sh: by name, as root or with sudo, silent when they are there).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
IMAGES_DIR ?= $(CURDIR)/target/images
VARIANT ?= systemd-boot
VARIANTS ?= systemd-boot grub uboot
SCENARIO ?=
ALL ?=
export FLIPSIDE_IMAGES := $(IMAGES_DIR)
export FLIPSIDE_BUNDLE_TOOL := $(TARGET_DIR)/release/bundle-tool
deps = scripts/install-deps.sh

PREFIX ?= /usr/local
DESTDIR ?=
.PHONY: help build deb tools install-tools images all-images demo test check fmt unit vm-test bench soak docs clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build everything for this machine (debug)
	@$(deps) build
	cargo build --workspace

deb: ## the Debian package for an appliance: target/debian/flipside_*.deb
	@$(deps) build
	scripts/build-deb.sh

tools: ## bundle-tool, optimised
	@$(deps) build
	cargo build --release -p bundle-tool

install-tools: tools ## bundle-tool with man pages and shell completions below PREFIX (/usr/local)
	@scripts/install-tools.sh "$(TARGET_DIR)/release/bundle-tool" "$(DESTDIR)$(PREFIX)"

images: deb tools ## the virtual test appliance and its releases (VARIANT=systemd-boot, grub or uboot)
	@$(deps) images
	scripts/build-images.sh "$(VARIANT)"

all-images: deb tools
	@$(deps) images
	for variant in $(VARIANTS); do scripts/build-images.sh $$variant; done

demo: images ## watch a virtual appliance update itself, and come back from a bad release (KEEP=0: and switch it off at the end)
	@$(deps) vm
	cargo run --release -q -p qemu-tests --bin demo -- --variant $(VARIANT) $(if $(KEEP),$(if $(filter 0,$(KEEP)),--off,--keep))

test: ## everything CI runs: check, unit, VM scenarios; says how long each part took
	@scripts/run-parts.sh check unit vm-test

check: ## formatting, lints, unit files, scripts, licences
	@$(deps) build check
	cargo fmt --all --check
	cargo clippy -q --workspace --all-targets -- -D warnings
	scripts/check.sh

fmt: ## format the sources
	cargo fmt --all

# Other people's tools must agree, not be missing: FLIPSIDE_NO_SKIP= (nothing) lets their tests be skipped.
unit: export FLIPSIDE_NO_SKIP ?= 1
unit: ## unit, property and integration tests (root adds loop devices and network faults)
	@$(deps) build test vm
	cargo test --workspace --exclude qemu-tests
	cargo test -p qemu-tests --lib --bins

vm-test: all-images ## VM scenarios on real boot loaders; SCENARIO=word runs those with it in the name, ALL=1 all of them
	@$(deps) vm
	cargo test -p qemu-tests --test vm -- $(if $(ALL)$(SCENARIO),--include-ignored) $(SCENARIO)

bench: tools ## size, speed and memory beside other tools, as ratios of one run
	@$(deps) bench
	scripts/bench.sh

soak: ## look for device histories that break an invariant (CASES=20000 random ones)
	@$(deps) build
	PROPTEST_CASES=$(or $(CASES),20000) PROPTEST_RNG_SEED=random cargo test --release -p updater-core --test histories

docs: ## the guide as a website: target/book
	scripts/build-docs.sh

clean: ## forget everything built
	rm -rf target
