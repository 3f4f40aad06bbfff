#!/usr/bin/env bash
# Checks of what is not Rust: shell scripts, systemd units, licences. Part of `make check`.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "shell scripts"
git ls-files -z | xargs -0 awk 'FNR == 1 && /^#!.*sh/ { print FILENAME } FNR > 1 { nextfile }' | xargs shellcheck -x -S warning

echo "systemd units"
# systemd ignores a copy where a link should be, and the unit never starts.
copies=$(find systemd -path '*.wants/*' ! -type l -o -path '*.requires/*' ! -type l)
if [ -n "$copies" ]; then
    printf 'must be symbolic links:\n%s\n' "$copies" >&2
    exit 1
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# Verified as installed: the programs the units start must exist, and Debian's own units beside them.
mkdir -p "$root/usr/bin" "$root/usr/lib"
cp -r systemd/. "$root/"
cp -rn /usr/lib/systemd "$root/usr/lib/"
printf '#!/bin/sh\n' > "$root/usr/bin/flipside"
chmod +x "$root/usr/bin/flipside"
ln -s usr/lib "$root/lib"
units=$(cd systemd/usr/lib/systemd/system && ls -- *.service *.timer *.target)
# shellcheck disable=SC2086 # unit names have no spaces
complaints=$(systemd-analyze --root="$root" --man=no verify $units 2>&1 | grep -i flipside || true)
if [ -n "$complaints" ]; then
    printf '%s\n' "$complaints" >&2
    exit 1
fi

echo "licences"
scripts/check-licences.py

# The same and bans, with another tool; scripts/install-deps.sh builds it when it can (docs/adr/0011).
PATH=$PATH:${CARGO_TARGET_DIR:-$PWD/target}/tools/bin
if command -v cargo-deny > /dev/null; then
    echo "cargo-deny"
    cargo deny --log-level error check bans licenses sources
else
    printf '\n*** SKIPPED: cargo-deny is not there and could not be built (scripts/install-deps.sh check): no check of bans ***\n\n' >&2
fi
