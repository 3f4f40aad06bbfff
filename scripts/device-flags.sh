# shellcheck shell=bash
# How the appliance's binary is built beyond its profile in Cargo.toml; sourced. Sets RUSTFLAGS, CFLAGS and the array
# `linker` for `cargo rustc --bin flipside -- "${linker[@]}"`.

# Frame pointers make the tables for unwinding a third smaller, and the code, too: what is addressed from them needs a
# byte less. C has no business in unwinding. Vector code for Ed25519 would save 20 us for each document. Of zstd's two
# decoders for Huffman codes the one is enough that takes a symbol at a time.
export RUSTFLAGS="${RUSTFLAGS:-} -Cforce-frame-pointers=yes --cfg curve25519_dalek_backend=\"serial\""
export CFLAGS="${CFLAGS:-} -fno-asynchronous-unwind-tables -fno-unwind-tables -DHUF_FORCE_DECOMPRESS_X1"
linker=()
# rust-lld, the default on this architecture, folds identical functions and packs relocations: half a megabyte. Packed
# relocations need glibc 2.36 (Debian 12) on the appliance.
if [ "$(uname -m)" = x86_64 ]; then
    linker=("-Clink-arg=-Wl,--icf=all" "-Clink-arg=-Wl,-z,pack-relative-relocs")
fi
