# recipes-core/flipside/flipside_0.1.0.bb. Once, before the first parse: `touch flipside-crates.inc`; then
# `bitbake -c update_crates flipside` fills it.
SUMMARY = "A/B system updates over the air"
LICENSE = "Apache-2.0 | MIT"
LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=1d8c505ac0c8672f7a68a5e8cf42fda0"
# Where your copy of the source is.
SRC_URI = "git://git.example/flipside.git;protocol=https;branch=main"
SRCREV = "${AUTOREV}"
inherit cargo cargo-update-recipe-crates features_check
require ${BPN}-crates.inc
REQUIRED_DISTRO_FEATURES = "systemd usrmerge"
CARGO_BUILD_FLAGS += "-p updater --bin flipside"

do_install() {
    install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/flipside ${D}${bindir}/flipside
    # Links and modes kept: the units are enabled by links.
    cp -R --no-preserve=ownership ${S}/systemd/usr/. ${D}${prefix}/
    date -u -d "@${SOURCE_DATE_EPOCH}" +%Y-%m-%dT%H:%M:%SZ > ${D}${prefix}/lib/flipside/build-time
    # Mount points: the root is read-only.
    install -d ${D}/efi ${D}/data ${D}${localstatedir}/lib/flipside
}
FILES:${PN} += "${prefix}/lib ${datadir} /efi /data ${localstatedir}/lib/flipside"
RDEPENDS:${PN} += "systemd dbus ca-certificates"
