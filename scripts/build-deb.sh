#!/usr/bin/env bash
# Builds the Debian package for an appliance: target/debian/flipside_<version>_<arch>.deb
#
# The binary is built alone (-p updater), or the workspace would unify features the appliance does not need.
# FLIPSIDE_PROFILE=dev|release|device (default device) picks the cargo profile: dev is for a quick try.
# FLIPSIDE_BINARY=path packs a binary that is already there. SOURCE_DATE_EPOCH makes the package reproducible.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${FLIPSIDE_PROFILE:-device}
target=${CARGO_TARGET_DIR:-$PWD/target}
binary=${FLIPSIDE_BINARY:-}
if [ -z "$binary" ]; then
    linker=()
    if [ "$profile" = device ]; then
        # shellcheck source=scripts/device-flags.sh
        . scripts/device-flags.sh
    fi
    cargo rustc -q --profile "$profile" -p updater --bin flipside -- "${linker[@]}"
    folder=$profile
    [ "$profile" = dev ] && folder=debug
    binary=$target/$folder/flipside
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
arch=$(dpkg --print-architecture)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

out=$PWD/target/debian
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$out" "$root/DEBIAN" "$root/usr/bin" "$root/usr/share/doc/flipside"
cp -a systemd/usr "$root/"
install -d "$root/etc/flipside/health.d"
install -d "$root/usr/lib/flipside/flipside.d" "$root/usr/lib/flipside/health.d"
install -m 755 "$binary" "$root/usr/bin/flipside"
# A binary of the quick profiles carries its symbols; the appliance does not need them.
strip --strip-all "$root/usr/bin/flipside"
install -m 644 LICENSE-APACHE LICENSE-MIT CHANGELOG.md docs/src/{cli,dbus,configuration,reasons}.md \
    "$root/usr/share/doc/flipside/"
# The floor of the trusted clock: a system can not run before it was built.
date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ >"$root/usr/lib/flipside/build-time"

cat >"$root/DEBIAN/control" <<CONTROL
Package: flipside
Version: $version
Architecture: $arch
Maintainer: Flipside <maintainers@flipside.example>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= 2.36)
Recommends: dbus | dbus-broker, systemd
Suggests: policykit-1 | polkitd
Section: admin
Priority: optional
Description: A/B system updates over the air
 Fetches a signed system image, writes it to the slot that is not running,
 proves it, and keeps it only when it is healthy. Whatever goes wrong, the
 appliance runs a system that was proven good.
CONTROL

# The units are enabled by links shipped under /usr/lib/systemd, so nothing is written to /etc and installing into a
# chroot needs no running systemd. An operator switches one off with `systemctl mask`.
cat >"$root/DEBIAN/postinst" <<'POSTINST'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if command -v systemd-tmpfiles >/dev/null; then
        systemd-tmpfiles --create flipside.conf || true
    else
        install -d -m 755 /var/lib/flipside
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
        # So that the bus knows the new policy and name without a restart.
        busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig || true
        systemctl try-restart flipside.service || true
        # Not flipside-unproven.timer: what it looks for begins with a boot.
        systemctl start flipside-check.timer || true
    fi
fi
POSTINST
cat >"$root/DEBIAN/prerm" <<'PRERM'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop flipside-check.timer flipside-unproven.timer flipside.service || true
fi
PRERM
cat >"$root/DEBIAN/postrm" <<'POSTRM'
#!/bin/sh
set -e
[ -d /run/systemd/system ] && systemctl daemon-reload || true
# The state survives "remove": it says which releases failed here. Only "purge" forgets it.
[ "$1" = purge ] && rm -rf /var/lib/flipside || true
POSTRM
chmod 755 "$root/DEBIAN"/post* "$root/DEBIAN"/prerm
find "$root" -type d -exec chmod 755 {} +
find "$root/usr/lib" "$root/usr/share" "$root/etc" -type f ! -path '*/health.d/*' -exec chmod 644 {} +
chmod 755 "$root/usr/lib/flipside/unproven-boot"
# One time stamp for all: the same inputs give the same package.
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

deb=$out/flipside_${version}_${arch}.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
size=$(stat -c %s "$root/usr/bin/flipside")
if [ "$profile" = device ] && [ "$arch" = amd64 ] && [ "$size" -ge 6000000 ]; then
    echo "the binary has $size bytes and must stay below 6,000,000: docs/adr/0015-the-size-of-the-binary.md" >&2
    exit 1
fi
echo "$deb  $(stat -c %s "$deb") bytes, binary $size bytes"
