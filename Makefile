# orkestr-emulator. `make` builds build/orkestr-emulator; `make help` lists the targets.
.DEFAULT_GOAL := all
BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
# A package of a distribution has a folder of its own.
ZSH_FUNCTIONS ?= site-functions
ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar

PKGS := libmicrohttpd libuv json-c libarchive libzstd libseccomp sqlite3 nettle libnl-route-3.0 libmnl
PKGS_HEADERS := libsystemd libnftables # opened with dlopen where it is there, never linked
WERROR ?= -Werror
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wformat=2 -Wmissing-prototypes -Wstrict-prototypes
# -U first: Ubuntu's gcc defines its own level. The sanitizers have their own checks, so asan turns it off.
FORTIFY ?= -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
HARDEN := -fPIE -fstack-protector-strong $(FORTIFY)
CFLAGS ?= -O2 -g
# Asked once, and only when something is compiled: `make deps` must work before pkg-config is there.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS) $(PKGS_HEADERS)))$(PKG_CFLAGS)
LIBS = $(eval LIBS := $$(shell pkg-config --libs $(PKGS)) -ldl -lm)$(LIBS)
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -I. $(WARN) $(WERROR) $(HARDEN) $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed $(LDFLAGS)

# Everything but main() is in the archive, so that a unit test can have the CLI's parts too.
CMD_SRC := emulator/cmd/main.c
LIB_SRC := $(filter-out $(CMD_SRC),$(wildcard emulator/base/*.c emulator/*.c emulator/cmd/*.c rootfs/*.c netpolicy/*.c api/*.c))
UNIT_SRC := $(wildcard tests/unit/test_*.c)
BENCH_SRC := $(wildcard tests/bench/*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
OBJ = $(patsubst %.c,$(BUILD)/%.o,$(1))
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZ_SRC))

# `make V=1` prints whole commands.
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
say = $(if $(Q),@printf '  %-4s %s\n' $(1) $@)

# A submake of the targets that prepare first: as parallel as the machine, unless -j was given.
SUBMAKE = @+$(MAKE) --no-print-directory $(if $(Q),-s) $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

# Of several goals, one that builds by a submake, or removes, must not run beside another: `make -j8 all deb`.
ifneq ($(and $(word 2,$(MAKECMDGOALS)),$(filter demo test bench test-vm deb clean,$(MAKECMDGOALS))),)
.NOTPARALLEL:
endif

all: $(BUILD)/orkestr-emulator ## build the program (the default)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

deps: ## install what is missing to build, run and test (apt-get; sudo when not root)
	@tests/deps.sh build run test

demo: ## from nothing to the READMEs' quickstart, shown call by call
	@tests/deps.sh build run demo
	$(SUBMAKE) all
	@tests/demo/demo.sh $(BUILD)/orkestr-emulator

test: ## unit tests, hardening, include direction, API suite (installs what is missing first)
	@tests/deps.sh build run test
	$(SUBMAKE) all unit-bins fuzz-bins hostile
	@tests/run.sh $(BUILD) unit hardening structure fuzz api

unit: unit-bins ## the unit tests alone
	@tests/run.sh $(BUILD) unit

api-test: all hostile ## the API suite alone, against the real binary
	@tests/run.sh $(BUILD) api

SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
ASAN_VARS := BUILD=build-asan CFLAGS="-O1 -g $(SANITIZE)" LDFLAGS="$(SANITIZE)" FORTIFY=
asan: ## unit tests and API suite under ASan and UBSan, in build-asan
	@tests/deps.sh build run test
	$(SUBMAKE) $(ASAN_VARS) all unit-bins hostile
	@tests/run.sh build-asan unit api

# Each target for so long, the corpus grown in build-fuzz; clang's. ONLY="dns http": some of them.
FUZZ_SECONDS ?= 60
fuzz: ## each fuzz target under libFuzzer for FUZZ_SECONDS (60), ASan and UBSan on
	@tests/fuzz/run.sh build-fuzz $(FUZZ_SECONDS) $(ONLY)

valgrind: all unit-bins fuzz-bins ## what parses, some unit tests, and the daemon under the API suite (TESTS=: some)
	@tests/valgrind.sh $(BUILD) $(TESTS)

soak: all ## 20,000 lives of sandboxes (CYCLES=N: as many); nothing may grow
	@ORKESTR_TEST_LONG=1 $(if $(CYCLES),ORKESTR_TEST_CYCLES=$(CYCLES)) ORKESTR_EMULATOR=$(CURDIR)/$(BUILD)/orkestr-emulator \
		tests/api/run -s test_soak.py

lint: ## the whole of it: clang-tidy, cppcheck, include direction, banned functions, lengths, format
	@tests/lint/lint.sh

# For the tools that need to know what the compiler is told.
print-cflags:
	@echo $(PKG_CFLAGS)
print-warn:
	@echo $(WARN)

format: ## clang-format over every C file
	@git ls-files '*.c' '*.h' | xargs clang-format -i

bench: ## measure create, exec, terminate, 200 live; table and build/bench.json
	@tests/deps.sh build run bench
	$(SUBMAKE) all $(BUILD)/bench/bench $(BUILD)/bench/netbench
	@tests/bench/run.sh $(BUILD)

test-vm: ## the API suite on a user's machine (systemd, cgroup v2), in a VM
	$(SUBMAKE) all unit-bins hostile deb
	@tests/vm/vm.sh

$(BUILD)/orkestr-emulator.1: $(BUILD)/orkestr-emulator $(wildcard emulator/cmd/man/*)
	$(call say,GEN)
	$(Q)emulator/cmd/man/man.sh $< > $@.new && mv $@.new $@

install: all $(BUILD)/orkestr-emulator.1 ## program, man page, completion, systemd user unit, under $(DESTDIR)$(PREFIX)
	install -D -m 0755 $(BUILD)/orkestr-emulator $(DESTDIR)$(PREFIX)/bin/orkestr-emulator
	install -D -m 0644 $(BUILD)/orkestr-emulator.1 $(DESTDIR)$(PREFIX)/share/man/man1/orkestr-emulator.1
	install -D -m 0644 emulator/cmd/completion/orkestr-emulator.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/orkestr-emulator
	install -D -m 0644 emulator/cmd/completion/_orkestr-emulator $(DESTDIR)$(PREFIX)/share/zsh/$(ZSH_FUNCTIONS)/_orkestr-emulator
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/user
	sed 's|@BINDIR@|$(PREFIX)/bin|' emulator/cmd/systemd/orkestr-emulator.service.in > $(DESTDIR)$(PREFIX)/lib/systemd/user/orkestr-emulator.service

deb: ## a Debian package in $(BUILD)
	@tests/deps.sh build deb
	$(SUBMAKE) all
	@rm -rf $(BUILD)/deb
	$(SUBMAKE) install DESTDIR=$(BUILD)/deb PREFIX=/usr ZSH_FUNCTIONS=vendor-completions
	@emulator/cmd/debian/deb.sh $(BUILD)/deb $(BUILD)
	@rm -rf $(BUILD)/deb

# The state dirs below build/ hold files of subordinate ids, which only the program itself can remove.
clean: ## remove everything that was built, the tests' and the demo's state dirs too
	@for d in $(BUILD) build-asan build-fuzz; do tests/clean.sh "$$d" || exit 1; done

# Blank lines and the comments at the head (up to the first blank line) are for the file's reader alone.
$(BUILD)/gen/allowlist.c: netpolicy/allowlist.txt
	@mkdir -p $(@D)
	@{ echo '#include "netpolicy/policy.h"'; echo 'const char *const policy_builtin[] = {'; \
	   sed -e '1,/^$$/d' -e '/^$$/d' -e 's/["\]/\\&/g' -e 's/.*/\t"&",/' $<; echo '	NULL };'; } > $@

$(BUILD)/gen/%.o: $(BUILD)/gen/%.c
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/liborkestr.a: $(call OBJ,$(LIB_SRC)) $(BUILD)/gen/allowlist.o
	$(call say,AR)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/orkestr-emulator: $(call OBJ,$(CMD_SRC)) $(BUILD)/liborkestr.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# The same program with a first process for its sandboxes that lies on demand: for test_hostile_init.py alone.
$(BUILD)/hostile/orkestr-emulator: $(call OBJ,$(CMD_SRC)) $(BUILD)/tests/api/hostile_init.o $(BUILD)/liborkestr.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

hostile: $(BUILD)/hostile/orkestr-emulator

# One Criterion binary a file, so a module can be tested before the others exist.
$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(BUILD)/tests/unit/slow.o $(BUILD)/liborkestr.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) -lcriterion

unit-bins: $(UNIT_BIN)

# The same target replays files (`make test`) or, in tests/fuzz/run.sh's build, is driven by libFuzzer.
FUZZ_DRIVER ?= $(BUILD)/tests/fuzz/replay.o
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(FUZZ_DRIVER) $(BUILD)/liborkestr.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

fuzz-bins: $(FUZZ_BIN)

$(BUILD)/bench/bench: $(call OBJ,$(BENCH_SRC)) $(BUILD)/liborkestr.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) -lm

# Runs inside a sandbox, whatever the template has.
$(BUILD)/bench/netbench: tests/bench/probe/netbench.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra $(WERROR) -static -o $@ $<

.PHONY: all help deps print-cflags print-warn demo test unit unit-bins hostile fuzz-bins api-test asan fuzz valgrind soak lint format bench test-vm install deb clean
.SECONDARY:
-include $(patsubst %.c,$(BUILD)/%.d,$(LIB_SRC) $(CMD_SRC) $(UNIT_SRC) $(BENCH_SRC) $(FUZZ_SRC) tests/fuzz/replay.c tests/api/hostile_init.c)
