#!/usr/bin/env bash
# Do other people's tools read a bundle of a whole Debian root? Part of bundle.sh; says what agreed, fails on the first
# that does not.
# usage: others.sh BUNDLE IMAGE
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$0")/lib.sh"

bundle=$1 image=$2
scratch=$(mktemp -d)
at_exit "rm -rf $scratch"

say "tar tf: $(tar tf "$bundle" | paste -sd' ')"

tar xOf "$bundle" rootfs.zst | zstd -dcq | cmp - "$image"
say "zstd -d of rootfs.zst gives the image of $(size_of "$image") bytes, bit for bit"

tar xOf "$bundle" manifest.dsse.json > "$scratch/manifest.dsse.json"
"$BUNDLE_TOOL" sign "$bundle" --print-pae > "$scratch/pae"
jq -r '.signatures[0].sig' "$scratch/manifest.dsse.json" | base64 -d > "$scratch/sig"
openssl pkeyutl -verify -rawin -pubin -inkey "$KEYS/release.pub.pem" -in "$scratch/pae" -sigfile "$scratch/sig" > /dev/null
say "openssl verifies the signature over the PAE"

# The same environment as the test uses (bundle-tool/tests/others.rs), from PyPI once.
venv=$ROOT/target/tmp/securesystemslib
if ! "$venv/bin/python" -c 'import securesystemslib.dsse, cryptography' 2> /dev/null; then
    if ! { python3 -m venv --clear "$venv" && "$venv/bin/python" -m pip install -q 'securesystemslib[crypto]>=1.0,<2'; }; then
        say "securesystemslib can not be had from PyPI; another reader of the envelopes was not tried"
        exit 1
    fi
fi
"$venv/bin/python" "$BENCH/verify-dsse.py" "$scratch/manifest.dsse.json" "$KEYS/release.pub.pem" > /dev/null
say "securesystemslib verifies the envelope"
