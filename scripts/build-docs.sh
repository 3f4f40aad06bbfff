#!/usr/bin/env bash
# The guide as a website in target/book. Installs mdbook from crates.io when it is missing (a few minutes, once).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v mdbook >/dev/null || cargo install --locked mdbook
mdbook build docs --dest-dir ../target/book
