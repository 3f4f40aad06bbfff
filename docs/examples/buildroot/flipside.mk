# package/flipside/flipside.mk. The site must be one that is downloaded: crates are fetched with it, and a local site
# gets none.
FLIPSIDE_VERSION = 0.1.0
FLIPSIDE_SITE = https://git.example/flipside.git
FLIPSIDE_SITE_METHOD = git
FLIPSIDE_LICENSE = Apache-2.0 or MIT
FLIPSIDE_LICENSE_FILES = LICENSE-APACHE LICENSE-MIT
# Buildroot switches this off; Flipside is built and tested with it.
FLIPSIDE_CARGO_ENV = CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
FLIPSIDE_CARGO_BUILD_OPTS = -p updater --bin flipside

define FLIPSIDE_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/$(if $(BR2_ENABLE_DEBUG),debug,release)/flipside \
		$(TARGET_DIR)/usr/bin/flipside
	cp -a $(@D)/systemd/usr/. $(TARGET_DIR)/usr/
	date -u +%Y-%m-%dT%H:%M:%SZ > $(TARGET_DIR)/usr/lib/flipside/build-time
	mkdir -p $(TARGET_DIR)/efi
endef

$(eval $(cargo-package))
