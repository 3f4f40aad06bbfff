#!/usr/bin/env bash
# Makes the test appliance of one variant: its keys and trust root (once), then images/build.sh with the package.
#
# The keys are throw-away test keys, made here and shared by all variants: root, release (what is genuine),
# region (what is approved), and foreign (a stranger's, for the tests that must be refused).
# usage: build-images.sh VARIANT     (FLIPSIDE_IMAGES, FLIPSIDE_BUNDLE_TOOL as the Makefile sets them)
set -euo pipefail
cd "$(dirname "$0")/.."

variant=$1
images=${FLIPSIDE_IMAGES:-target/images}
bundle_tool=${FLIPSIDE_BUNDLE_TOOL:-target/release/bundle-tool}
keys=$images/keys

if [ ! -e "$keys/trust.dsse.json" ]; then
    rm -rf "$keys"
    mkdir -p "$keys"
    for name in root release region foreign; do
        "$bundle_tool" keygen --out "$keys/$name"
    done
    "$bundle_tool" trust init --root-key "$keys/root.pem" --release "$keys/release.pub.pem" \
        --region "eu-west=$keys/region.pub.pem" --expires 2036-01-01T00:00:00Z --out "$keys/trust.dsse.json"
fi

deb=$(find target/debian -name 'flipside_*_amd64.deb' | sort | tail -n 1)
exec images/build.sh --variant "$variant" --out "$images/$variant" --deb "$deb" --trust "$keys/trust.dsse.json"
