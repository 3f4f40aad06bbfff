# SWUpdate and RAUC, set up as their manuals say: signed, raw image, straight onto the block device. Sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154 # A and B, the slots, are set by the script that sources this

# signer: a throw-away certificate for both.
signer() {
    if [ -e "$KEYS/signer.crt" ]; then return; fi
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=bench -addext extendedKeyUsage=emailProtection \
        -addext keyUsage=digitalSignature -keyout "$KEYS/signer.key" -out "$KEYS/signer.crt" 2> /dev/null
}

# --- SWUpdate: the image as one zstd stream in a cpio archive, streamed onto the device while it is downloaded

prepare_swupdate() {
    local folder=$WORK/swupdate
    signer
    rm -rf "$folder"
    mkdir -p "$folder"
    ln -s "$PRODUCTS/v2.zst" "$folder/v2.ext4.zst"
    cat > "$folder/sw-description" << DESCRIPTION
software = {
    version = "2.0.0";
    hardware-compatibility: [ "1.0" ];
    images: ( {
        filename = "v2.ext4.zst"; device = "$B"; type = "raw"; compressed = "zstd"; installed-directly = true;
        sha256 = "$(sha256sum < "$PRODUCTS/v2.zst" | cut -d' ' -f1)";
    } );
}
DESCRIPTION
    openssl cms -sign -in "$folder/sw-description" -out "$folder/sw-description.sig" -signer "$KEYS/signer.crt" \
        -inkey "$KEYS/signer.key" -outform DER -nosmimecap -binary
    (cd "$folder" && printf '%s\n' sw-description sw-description.sig v2.ext4.zst | cpio -L -o -H crc --quiet > "$WWW/v2.swu")
}

run_swupdate() {
    printf 'swupdate -H bench:1.0 -k %s -d "-u %s/v2.swu" > %s/swupdate/log 2>&1 || { tail -n 5 %s/swupdate/log; exit 1; }' \
        "$KEYS/signer.crt" "$BASE_URL" "$WORK" "$WORK"
}

# --- RAUC: a signed squashfs from a local file (streaming needs nbd, which not every kernel has), over a private bus

prepare_rauc() {
    local folder=$WORK/rauc
    signer
    rm -rf "$folder"
    mkdir -p "$folder/content" "$folder/mnt"
    ln "$CORPUS/v2.ext4" "$folder/content/v2.ext4"
    printf '[update]\ncompatible=bench\nversion=2.0.0\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=v2.ext4\n' \
        > "$folder/content/manifest.raucm"
    cat > "$folder/system.conf" << CONF
[system]
compatible=bench
bootloader=noop
statusfile=$folder/status
mountprefix=$folder/mnt
[keyring]
path=$KEYS/signer.crt
[slot.rootfs.0]
device=$A
type=ext4
bootname=A
[slot.rootfs.1]
device=$B
type=ext4
bootname=B
CONF
    if [ ! -e "$PRODUCTS/v2.raucb" ]; then
        rauc bundle --cert="$KEYS/signer.crt" --key="$KEYS/signer.key" \
            --mksquashfs-args="-comp zstd -Xcompression-level 19" "$folder/content" "$PRODUCTS/v2.raucb" > "$folder/log" 2>&1 \
            || die "rauc bundle: $(tail -n 3 "$folder/log")"
    fi
}

# The service is not part of the time, but of the memory.
start_rauc() {
    cat << SCRIPT
setsid rauc -c $WORK/rauc/system.conf --override-boot-slot=A service > $WORK/rauc/log 2>&1 < /dev/null &
echo \$! > $WORK/rauc/pid
$(until_works "rauc -c $WORK/rauc/system.conf status")
SCRIPT
}

run_rauc() {
    printf 'rauc -c %s/rauc/system.conf install %s/v2.raucb' "$WORK" "$PRODUCTS"
}

stop_rauc() {
    cat << SCRIPT
$(facts_and_end "$WORK/rauc/pid")
echo bytes=\$(stat -c %s $PRODUCTS/v2.raucb)
SCRIPT
}
