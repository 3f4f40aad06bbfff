#!/usr/bin/env bash
# Makes the system of one variant from the base: Flipside installed as a user would, the appliance's own files, only
# the modules and files that are needed. Writes into OUT: tree/ and vmlinuz. Releases are made from it by release.sh.
# usage: system.sh VARIANT BASE DEB TRUST OUT     (DEB or TRUST empty: without)
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "$0")/lib.sh"
need_root
variant=$1 base=$2 deb=$3 trust=$4 out=$5
tree=$out/tree

mkdir -p "$tree"
tar -xf "$base/tree.tar" -C "$tree"
cp "$base/kernel/vmlinuz" "$out/vmlinuz"

install_modules() {
    local version
    version=$(basename "$base"/kernel/modules/*)
    mkdir -p "$tree/usr/lib/modules"
    cp -a "$base/kernel/modules/$version" "$tree/usr/lib/modules/"
    chroot "$tree" depmod "$version"
    local wanted
    wanted=$(awk '/^(initrd|root) / { print $2 }' "$IMAGES/modules.txt" | while read -r module; do
        chroot "$tree" modprobe --show-depends -S "$version" "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | sort -u)
    rm -rf "$tree/usr/lib/modules/$version/kernel"
    local path
    for path in $wanted; do
        install -D -m 0644 "$base/kernel/modules/$version/${path#/lib/modules/"$version"/}" "$tree/usr$path"
    done
    chroot "$tree" depmod "$version"
}

# The net below the updater, without the updater: the boot loader's own tests leave a system that nobody proves.
install_net() {
    local units=usr/lib/systemd/system
    install -D -m 0755 {"$IMAGES/../systemd","$tree"}/usr/lib/flipside/unproven-boot
    install -D -m 0644 -t "$tree/$units" "$IMAGES/../systemd/$units"/flipside-unproven.{service,timer}
    chroot "$tree" systemctl --quiet enable flipside-unproven.timer
}

install_flipside() {
    if [ -n "$deb" ]; then
        cp "$deb" "$tree/tmp/flipside.deb"
        chroot "$tree" dpkg -i /tmp/flipside.deb
        rm "$tree/tmp/flipside.deb"
    else
        say "WARNING: no --deb: the appliance has no Flipside in it, and can not update itself"
        install_net
    fi
    if [ -n "$trust" ]; then
        install -D -m 0644 "$trust" "$tree/usr/lib/flipside/trust.dsse.json"
    else
        say "WARNING: no --trust: the appliance has no trust root, and will refuse every release"
    fi
}

install_overlay() {
    # conffiles of the package are ours to replace; owner and mode of the tree count, not those of the checkout
    cp -r --no-preserve=ownership "$IMAGES/overlay/." "$tree/"
    local cmdline
    cmdline=$(cat "$IMAGES/cmdline.txt")
    sed "s|@CMDLINE@|$cmdline|" "$IMAGES/$variant/boot.toml" >> "$tree/etc/flipside/flipside.toml"
    ln -sfn /var/lib/flipside-config "$tree/etc/flipside/flipside.d"
    # The package brings the time it was built; the floor of the trusted clock.
    [ -e "$tree/usr/lib/flipside/build-time" ] || date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ > "$tree/usr/lib/flipside/build-time"
    mkdir -p "$tree/efi" "$tree/usr/share/appliance"
    { cat "$base/packages.txt"; chroot "$tree" dpkg-query -W flipside 2> /dev/null || true; } > "$tree/usr/share/appliance/packages.txt"
    chroot "$tree" systemd-sysusers
    # No user manager and no session scope behind each login: the console is for looking around.
    sed -i '/pam_systemd.so/d' "$tree/etc/pam.d/common-session"
    chroot "$tree" systemctl --quiet set-default multi-user.target
    chroot "$tree" systemctl --quiet enable demo-app.service systemd-networkd.service
    local unit
    grep -v -e '^#' -e '^$' "$IMAGES/masked-units.txt" | while read -r unit; do
        ln -sf /dev/null "$tree/etc/systemd/system/$unit"
    done
    # Filled by the initramfs with a bind mount, see initrd/init.
    : > "$tree/etc/machine-id"
    : > "$tree/etc/resolv.conf"
    rm -f "$tree/etc/hostname.dpkg"* "$tree/var/lib/dbus/machine-id"
}

trim() {
    local glob
    grep -v -e '^#' -e '^$' "$IMAGES/trim.txt" | while read -r glob; do
        # shellcheck disable=SC2086 # globs
        (cd "$tree" && rm -rf -- $glob)
    done
    find "$tree/dev" "$tree/tmp" "$tree/run" -mindepth 1 -delete
}

install_modules
install_flipside
install_overlay
trim
