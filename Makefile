# orkestr-emulator. `make` builds build/orkestr-emulator; `make help` lists the targets.
.DEFAULT_GOAL := all
BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
PKGS := libmicrohttpd libuv json-c libarchive libzstd libseccomp sqlite3 nettle libsystemd
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wformat=2 -Wmissing-prototypes -Wstrict-prototypes -Werror
HARDEN := -fPIE -fstack-protector-strong -D_FORTIFY_SOURCE=2
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -I. $(WARN) $(HARDEN) $(shell pkg-config --cflags $(PKGS)) $(CFLAGS)
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed $(LDFLAGS)
LIBS = $(shell pkg-config --libs $(PKGS)) -ldl

# Everything but main() is in the archive, so that a unit test can have the CLI's parts too.
CMD_SRC := emulator/cmd/main.c
LIB_SRC := $(filter-out $(CMD_SRC),$(wildcard emulator/base/*.c emulator/*.c emulator/cmd/*.c rootfs/*.c netpolicy/*.c api/*.c))
UNIT_SRC := $(wildcard tests/unit/*.c)
OBJ = $(patsubst %.c,$(BUILD)/%.o,$(1))

all: $(BUILD)/orkestr-emulator

$(BUILD)/liborkestr.a: $(call OBJ,$(LIB_SRC))
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/orkestr-emulator: $(call OBJ,$(CMD_SRC)) $(BUILD)/liborkestr.a
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# One Criterion binary a file, so a module can be tested before the others exist.
$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(BUILD)/liborkestr.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) -lcriterion

unit: $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
	@for t in $^; do $$t || exit 1; done

clean:
	rm -rf $(BUILD)

.PHONY: all unit clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
