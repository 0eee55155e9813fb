# Everything goes to build/. `make help` names the targets.

CC = gcc
PYTHON = python3
BUILD = build
# The back ends that `make test` runs the suite on: what this system has.
BACKENDS = epoll io_uring poll select sim sim,delayed
# The same with kernel features switched off.
FALLBACKS = epoll,no-accept4,no-epoll_pwait2,no-eventfd,no-mmsg,no-nosignal,no-pidfd \
            poll,no-eventfd,no-pipe2,no-sendfile,no-vfork,no-close_range \
            io_uring,no-multishot,no-nosignal io_uring,no-incremental io_uring,no-buffer_ring \
            io_uring,no-defer_taskrun io_uring,no-defer_taskrun,no-coop_taskrun

WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror
STD = c99
OPT = -O1 -g
# What the tests need: memory and system calls that count and fail on demand.
FAULTS = -include tests/fault.h -DAIOLOOP_MALLOC=test_malloc -DAIOLOOP_REALLOC=test_realloc \
         -DAIOLOOP_FREE=test_free -DAIOLOOP_FAULT=test_fault
INCLUDE = -I.
# A test program is all of tests/test_*.c with one copy of the library in support.c.
CONFIG = default
# WITH_TLS=1: the tests of TLS, in a folder of their own.
WITH_TLS =
OUT = $(BUILD)/$(CONFIG)$(if $(WITH_TLS),-tls$(notdir $(MBEDTLS)))
EXTRA =
LIBS = -lpthread -lm
JOBS = $(shell nproc 2>/dev/null || echo 2)
SOURCES = $(wildcard src/*.h src/*/*.h src/*/*.c)
TESTS = $(filter-out tests/test_main.c,$(if $(WITH_TLS),tests/test_await.c $(wildcard tests/test_tls*.c),$(wildcard tests/test_*.c)))
TEST_DEPS = aioloop.h $(SOURCES) tests/test.h tests/fault.h tests/support.h tests/awaits.h Makefile
# For C++: -x c++, because the files are called .c.
LANG_FLAGS =
COMPILE = $(CC) $(LANG_FLAGS) -std=$(STD) -D_GNU_SOURCE $(OPT) $(WARNINGS) $(if $(WITH_TLS),$(TLS)) $(EXTRA) $(INCLUDE) -Itests

MAKE_QUIETLY = $(MAKE) --no-print-directory
NEED = tools/need.sh $(if $(wildcard /etc/debian_version),/usr/include/stdio.h=libc6-dev)
NEED_CXX = $(NEED) g++=g++
NEED_CLANG = $(NEED_CXX) clang=clang

.PHONY: help all header check-header test test-run test-programs test-split test-tls tls-cuts fuzz fuzz-replay test-clang test-c11 test-cxx11 test-cxx17 \
        test-clangxx test-musl test-tcc asan tsan valgrind torture torture-mbedtls strict symbols children simulate simulate-oracle soak blackhole fire flood stress-pool race conformance size bench \
        bench-engines bench-tasks bench-tls bench-plot demo examples example-programs interop check clean

help:
	@sed -n 's/^## //p' Makefile

all: header examples

## make header       regenerate aioloop.h from src/
header: tools/amalgamate.py $(SOURCES)
	@$(PYTHON) tools/amalgamate.py

check-header:
	@tools/need.sh $(PYTHON)=python3
	@$(PYTHON) tools/amalgamate.py --check

# ---- the suite ----

$(OUT)/%.o: tests/%.c $(TEST_DEPS)
	@mkdir -p $(OUT)
	@$(COMPILE) $(FAULTS) -c $< -o $@

$(OUT)/tests: $(TESTS:tests/%.c=$(OUT)/%.o) $(OUT)/test_main.o $(OUT)/support.o
	@$(CC) $(OPT) $(EXTRA) $^ -o $@ $(if $(WITH_TLS),$(TLS_LIBS)) $(LIBS)

$(OUT)/unit_%: tests/unit_%.c tests/test_main.c $(TEST_DEPS)
	@mkdir -p $(OUT)
	@$(COMPILE) $(FAULTS) $< tests/test_main.c $(if $(LANG_FLAGS),-x none) -o $@ $(if $(WITH_TLS),$(TLS_LIBS)) $(LIBS)

# For the tests of TLS.
CERTIFICATES = $(BUILD)/certificates/crl.old.pem
$(CERTIFICATES): tests/certificates.sh
	@tests/certificates.sh $(BUILD)/certificates

UNITS = $(patsubst tests/unit_%.c,$(OUT)/unit_%,$(if $(WITH_TLS),tests/unit_ssl.c,$(wildcard tests/unit_*.c)))

test-programs: $(OUT)/tests $(UNITS) $(if $(WITH_TLS)$(findstring AIOLOOP_USE_TLS=1,$(EXTRA)),$(CERTIFICATES))

# Runs the suite of one configuration on the back ends in RUN_ON, all of it even if something fails.
RUN_ON = $(BACKENDS)
RUN_FLAGS =
# Which tests, besides words in RUN_FLAGS.
RUN_WORDS = $(if $(WITH_TLS),tls ssl)
RUNNER =
test-run: export TEST_CERTIFICATES = $(abspath $(BUILD))/certificates
test-run:
	@$(MAKE_QUIETLY) -j$(JOBS) test-programs
	@rm -f $(OUT)/results.txt
	@status=0; for backend in $(RUN_ON); do echo "$(CONFIG) on $$backend"; \
	    AIOLOOP_BACKEND=$$backend $(RUNNER) $(OUT)/tests -j $(JOBS) --label $$backend \
	        --results $(OUT)/results.txt $(RUN_FLAGS) $(RUN_WORDS) || status=1; done; \
	for unit in $(UNITS); do echo "$(CONFIG) $$(basename $$unit)"; \
	    $(RUNNER) $$unit -j $(JOBS) --label unit --results $(OUT)/results.txt $(RUN_FLAGS) $(RUN_WORDS) || status=1; done; \
	exit $$status

HAS_TLS = [ -f /usr/include/mbedtls/ssl.h ] && command -v openssl >/dev/null
# After the suite, the tests of the tools; each file counts as one test. Then the suite with TLS, where mbedTLS is there.
## make test         the whole suite on every back end of this machine, and the table of behaviours
test: check-header
	@$(NEED) $(firstword $(CC))=$(firstword $(CC))
	@status=0; echo "on pairs of internet sockets, of which io_uring reads in another way than of Unix ones:"; \
	TEST_PAIRS=internet $(MAKE_QUIETLY) test-run UNITS= RUN_ON="io_uring io_uring,no-incremental" || status=1; \
	$(MAKE_QUIETLY) test-run RUN_ON="$(BACKENDS) $(FALLBACKS)" || status=1; \
	for tool in amalgamate runner; do echo "$(CONFIG) test_$$tool.py"; \
	    if CC="$(CC)" $(PYTHON) tests/test_$$tool.py; then word=pass; else word=fail; status=1; fi; \
	    printf '%s\ttest_%s.py\t\t0\ttools\n' $$word $$tool >>$(OUT)/results.txt; done; \
	if $(HAS_TLS); then $(MAKE_QUIETLY) test-tls || status=1; $(MAKE_QUIETLY) fuzz-replay || status=1; \
	else rm -f $(BUILD)/tls/results.txt; echo "without TLS: it needs libmbedtls-dev and openssl"; fi; \
	$(MAKE_QUIETLY) conformance || status=1; \
	exit $$status

## make conformance  each of the 406 rows of asyncio's behaviour with the tests that prove it, after make test
conformance:
	@$(PYTHON) tools/conformance.py $(OUT)/results.txt $(if $(wildcard $(BUILD)/tls/results.txt),--with TLS $(BUILD)/tls/results.txt)

## make test-split   the suite from src/ instead of aioloop.h
test-split:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) test-run CONFIG=split INCLUDE=-Isrc RUN_ON="epoll sim,delayed"

# MBEDTLS: where another mbedTLS than the system's is unpacked, its include/ and static libraries somewhere in lib/.
MBEDTLS =
TLS = -DAIOLOOP_USE_TLS=1 $(if $(MBEDTLS),-isystem $(MBEDTLS)/include)
TLS_LIBS = $(if $(MBEDTLS),$(foreach lib,tls x509 crypto,$(wildcard $(MBEDTLS)/lib/libmbed$(lib).a $(MBEDTLS)/lib/*/libmbed$(lib).a)),\
           -lmbedtls -lmbedx509 -lmbedcrypto)
NEED_TLS = $(NEED) openssl=openssl $(if $(MBEDTLS),,/usr/include/mbedtls/ssl.h=libmbedtls-dev)
## make test-tls     the suite with TLS (MBEDTLS=FOLDER: by another mbedTLS than the system's)
test-tls:
	@$(NEED_TLS) $(firstword $(CC))=$(firstword $(CC))
	@$(MAKE_QUIETLY) test-run CONFIG=tls$(notdir $(MBEDTLS)) EXTRA="$(TLS)" LIBS="$(LIBS) $(TLS_LIBS)" RUN_ON="epoll io_uring sim,delayed"

# TLS_CUTS=101 in the suite: every so many bytes.
## make tls-cuts     TLS connections cut, changed and delayed at every byte of the handshake and of the first records
tls-cuts:
	@$(NEED_TLS) $(firstword $(CC))=$(firstword $(CC))
	@TLS_CUTS=1 TEST_SLOWDOWN=20 $(MAKE_QUIETLY) test-run CONFIG=tls$(notdir $(MBEDTLS)) EXTRA="$(TLS)" LIBS="$(LIBS) $(TLS_LIBS)" UNITS= \
	    RUN_ON="sim sim,delayed" RUN_FLAGS=tls_cuts

# FUZZ_TARGETS: tests/fuzz_....c, each with its own folder of tests/corpus.
FUZZ = $(BUILD)/fuzz$(notdir $(MBEDTLS))
FUZZ_TARGETS = tls start_tls
$(FUZZ)/replay_%: tests/fuzz_%.c tests/fuzz.h aioloop.h Makefile
	@mkdir -p $(FUZZ)
	@$(PROGRAM) $(TLS) $< -o $@ $(TLS_LIBS) $(LIBS)

$(FUZZ)/fuzz_%: tests/fuzz_%.c tests/fuzz.h aioloop.h Makefile
	@mkdir -p $(FUZZ)
	@clang -std=$(STD) -D_GNU_SOURCE -O1 -g -I. $(TLS) -DFUZZ_LIBFUZZER -fsanitize=fuzzer,address,undefined \
	    -fno-sanitize-recover=all $< -o $@ $(TLS_LIBS) $(LIBS)

fuzz-replay:
	@$(NEED_TLS) $(firstword $(CC))=$(firstword $(CC))
	@$(MAKE_QUIETLY) $(addprefix $(FUZZ)/replay_,$(FUZZ_TARGETS)) $(CERTIFICATES)
	@for target in $(FUZZ_TARGETS); do echo "fuzz_$$target, what was found earlier"; \
	    TEST_CERTIFICATES=$(BUILD)/certificates timeout 300 $(FUZZ)/replay_$$target tests/corpus/$$target/* || exit 1; done

# SECONDS of fuzzing each, from SEED (else libFuzzer's choice). What fails stays in $(FUZZ); it belongs into the corpus then.
SECONDS = 600
## make fuzz         random input for TLS and for upgrades to it, by libFuzzer (SECONDS=600; FUZZ_TARGETS="tls start_tls")
fuzz:
	@$(NEED_TLS) clang=clang
	@$(MAKE_QUIETLY) $(addprefix $(FUZZ)/fuzz_,$(FUZZ_TARGETS)) $(CERTIFICATES)
	@status=0; for target in $(FUZZ_TARGETS); do mkdir -p $(FUZZ)/corpus/$$target; \
	    TEST_CERTIFICATES=$(BUILD)/certificates $(FUZZ)/fuzz_$$target -max_total_time=$(SECONDS) -timeout=20 -max_len=3000 \
	        $(if $(SEED),-seed=$(SEED)) -artifact_prefix=$(FUZZ)/$$target- -print_final_stats=1 \
	        $(FUZZ)/corpus/$$target tests/corpus/$$target || status=1; done; exit $$status

## make test-clang   the suite by clang
test-clang:
	@$(NEED_CLANG)
	@$(MAKE_QUIETLY) test-run CONFIG=clang CC=clang

## make test-c11     the suite as C11; -cxx11, -cxx17: as C++; -clangxx: as C++20 by clang
test-c11:
	@$(NEED) gcc=gcc
	@$(MAKE_QUIETLY) test-run CONFIG=c11 STD=c11 RUN_ON="epoll sim,delayed"

test-cxx11:
	@$(NEED_CXX)
	@$(MAKE_QUIETLY) test-run CONFIG=cxx11 CC=g++ STD=c++11 LANG_FLAGS="-x c++" RUN_ON="epoll sim,delayed"

test-cxx17:
	@$(NEED_CXX)
	@$(MAKE_QUIETLY) test-run CONFIG=cxx17 CC=g++ STD=c++17 LANG_FLAGS="-x c++" RUN_ON="epoll sim,delayed"

test-clangxx:
	@$(NEED_CLANG)
	@$(MAKE_QUIETLY) test-run CONFIG=clangxx CC=clang++ STD=c++20 LANG_FLAGS="-x c++" RUN_ON="epoll sim,delayed"

# musl has no headers of the kernel: links to those of the system. Its FD_SET converts signs.
MUSL = $(BUILD)/musl
## make test-musl    the suite with musl, statically linked
test-musl:
	@$(NEED) gcc=gcc musl-gcc=musl-tools
	@mkdir -p $(MUSL)/include
	@ln -sfn /usr/include/linux $(MUSL)/include/linux
	@ln -sfn /usr/include/asm-generic $(MUSL)/include/asm-generic
	@ln -sfn /usr/include/$$(gcc -dumpmachine)/asm $(MUSL)/include/asm
	@$(MAKE_QUIETLY) test-run CONFIG=musl CC=musl-gcc EXTRA="-static -isystem $(MUSL)/include -Wno-sign-conversion"

# No atomics and no thread-local variables there, so no threads.
## make test-tcc     the suite by tcc, without threads
test-tcc:
	@$(NEED) tcc=tcc
	@$(MAKE_QUIETLY) test-run CONFIG=tcc CC=tcc EXTRA="-DAIOLOOP_USE_THREADS=0" WARNINGS=-Wall \
	    RUN_FLAGS="--skip-flag threads"

# ---- the suite under observation ----

## ... WITH_TLS=1    the tests of TLS by one of these (asan, tsan, valgrind, torture) or of the compilers above

## make asan         the suite with AddressSanitizer and UndefinedBehaviorSanitizer; tsan: with ThreadSanitizer
asan:
	@$(NEED) gcc=gcc
	@$(MAKE_QUIETLY) test-run CONFIG=asan \
	    EXTRA="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"

tsan:
	@$(NEED) gcc=gcc
	@$(MAKE_QUIETLY) test-run CONFIG=tsan EXTRA="-fsanitize=thread" RUN_ON="epoll io_uring sim,delayed"

# Each test is a fork of one valgrind; it does not know epoll_pwait2 and pidfd_open and says so each time.
# The library's own memory is counted by the runner; with TLS there is mbedTLS's too.
VALGRIND_LEAKS = --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
## make valgrind     the suite under valgrind
valgrind:
	@$(NEED) valgrind=valgrind /usr/lib/debug/.build-id=libc6-dbg
	@TEST_SLOWDOWN=20 $(MAKE_QUIETLY) test-run CONFIG=valgrind RUN_ON="epoll,no-epoll_pwait2 sim" \
	    RUNNER="valgrind -q --error-exitcode=99 $(if $(WITH_TLS),$(VALGRIND_LEAKS))" RUN_FLAGS="--fork --skip-flag slow"

# TORTURE_ON: the back ends; TORTURE: more options, as words that choose tests. Most of the time a test that has noticed a
# failure waits in vain for what will not come, so many run at a time.
TORTURE_ON = epoll io_uring poll sim sim,delayed
TORTURE =
TORTURE_JOBS = $(shell expr 8 '*' $(JOBS))
## make torture      the suite with each allocation and each system call failing, one at a time
torture:
	@$(NEED) gcc=gcc $(if $(WITH_TLS),objcopy=binutils)
	@$(if $(WITH_TLS),$(MAKE_QUIETLY) torture-mbedtls CONFIG=torture)
	@$(MAKE_QUIETLY) test-run CONFIG=torture UNITS= $(if $(WITH_TLS),TLS_LIBS='$(TORTURE_MBEDTLS)') RUN_ON="$(TORTURE_ON)" RUN_FLAGS="--torture -j $(TORTURE_JOBS) $(TORTURE)"

# An mbedTLS that has its memory from the runner, which counts it and makes it fail.
TORTURE_MBEDTLS = $(foreach lib,tls x509 crypto,$$(OUT)/libmbed$(lib).a)
torture-mbedtls:
	@mkdir -p $(OUT)
	@for lib in $(if $(MBEDTLS),$(TLS_LIBS),$(foreach lib,tls x509 crypto,$$($(CC) -print-file-name=libmbed$(lib).a))); do \
	    objcopy --redefine-sym calloc=test_calloc --redefine-sym free=test_free $$lib $(OUT)/$${lib##*/} || exit 1; done

# ---- other processors ----

# MACHINES: those of EMULATE_.... EMULATE: words that choose tests. io_uring is unknown there, so the default back end is what comes next.
MACHINES = aarch64 arm thumb soft riscv64 s390x i386
EMULATE =
EMULATE_ON = epoll sim,delayed
EMULATE_aarch64 = aarch64-linux-gnu-gcc
EMULATE_arm = arm-linux-gnueabihf-gcc -marm
EMULATE_thumb = arm-linux-gnueabihf-gcc -mthumb
EMULATE_soft = arm-linux-gnueabi-gcc -mthumb
EMULATE_riscv64 = riscv64-linux-gnu-gcc
EMULATE_s390x = s390x-linux-gnu-gcc
EMULATE_i386 = i686-linux-gnu-gcc
# How each is run; i386 is this machine's own kind.
RUN_aarch64 = qemu-aarch64
RUN_arm = qemu-arm
RUN_thumb = qemu-arm
RUN_soft = qemu-arm
RUN_riscv64 = qemu-riscv64
RUN_s390x = qemu-s390x
RUN_i386 =
# Where the linker can be kept from saying that a static getaddrinfo needs the C library's files.
EMULATE_STATIC = -static $(shell ld --help | grep -q -e --no-warnings && echo -Wl,--no-warnings)
## make emulate      the suite on emulated processors, little and big, 32 and 64 bits, and coroutines on a Cortex-M
##                   (MACHINES="aarch64 arm thumb soft riscv64 s390x i386"; EMULATE=words that choose tests)
emulate: emulate-cortex-m
	@$(NEED) qemu-aarch64=qemu-user aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu \
	    /usr/aarch64-linux-gnu/lib/libc.a=libc6-dev-arm64-cross arm-linux-gnueabihf-gcc=gcc-arm-linux-gnueabihf \
	    /usr/arm-linux-gnueabihf/lib/libc.a=libc6-dev-armhf-cross arm-linux-gnueabi-gcc=gcc-arm-linux-gnueabi \
	    /usr/arm-linux-gnueabi/lib/libc.a=libc6-dev-armel-cross riscv64-linux-gnu-gcc=gcc-riscv64-linux-gnu \
	    /usr/riscv64-linux-gnu/lib/libc.a=libc6-dev-riscv64-cross s390x-linux-gnu-gcc=gcc-s390x-linux-gnu \
	    /usr/s390x-linux-gnu/lib/libc.a=libc6-dev-s390x-cross i686-linux-gnu-gcc=gcc-i686-linux-gnu \
	    /usr/i686-linux-gnu/lib/libc.a=libc6-dev-i386-cross
	@status=0; $(foreach machine,$(MACHINES),$(MAKE_QUIETLY) emulate-$(machine) || status=1;) exit $$status

# A started test is a fork of one emulator: it cannot start a foreign program.
emulate-%:
	@TEST_SLOWDOWN=20 $(MAKE_QUIETLY) test-run CONFIG=$* CC="$(EMULATE_$*)" RUNNER="$(RUN_$*)" RUN_ON="$(EMULATE_ON)" OPT="-O2 -g" \
	    EXTRA="$(EMULATE_STATIC) $(if $(filter arm thumb soft i386,$*),-D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64)" \
	    RUN_FLAGS="--fork --skip-flag slow $(EMULATE)"

# The same program on the smallest core and on those with more to save at a switch.
CORTEX_M = arm-none-eabi-gcc -mthumb -std=$(STD) -O2 $(WARNINGS) -I. --specs=rdimon.specs
CORTEX_M_cortex-m0 = -mcpu=cortex-m0 -mfloat-abi=soft
CORTEX_M_cortex-m3 = -mcpu=cortex-m3 -mfloat-abi=soft
CORTEX_M_cortex-m4 = -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
emulate-cortex-m: aioloop.h
	@$(NEED) arm-none-eabi-gcc=gcc-arm-none-eabi /usr/lib/arm-none-eabi/lib=libnewlib-arm-none-eabi \
	    qemu-system-arm=qemu-system-arm
	@mkdir -p $(BUILD)/cortex-m
	@for pair in cortex-m0=mps2-an385 cortex-m3=mps2-an385 cortex-m4=mps2-an386; do \
	    core=$${pair%%=*}; echo "coroutines on $$core"; \
	    case $$core in cortex-m0) flags="$(CORTEX_M_cortex-m0)" ;; cortex-m3) flags="$(CORTEX_M_cortex-m3)" ;; \
	        *) flags="$(CORTEX_M_cortex-m4)" ;; esac; \
	    $(CORTEX_M) $$flags tests/emulate_cortex_m.c -nostartfiles -T tests/emulate_cortex_m.ld \
	        -o $(BUILD)/cortex-m/$$core && \
	    timeout 60 qemu-system-arm -M $${pair##*=} -nographic -semihosting-config enable=on,target=native \
	        -kernel $(BUILD)/cortex-m/$$core || exit 1; \
	done

# ---- the header ----

## make strict       the header in every language standard, with every switch, with every warning an error
strict:
	@$(NEED_CLANG) $(PYTHON)=python3 /usr/include/mbedtls/ssl.h=libmbedtls-dev
	@$(PYTHON) tools/strict.py -j $(JOBS)

## make symbols      what the header leaves behind in a program: names that start with aioloop_ or AIOLOOP_
symbols:
	@$(NEED_CXX) readelf=binutils $(PYTHON)=python3
	@$(PYTHON) tools/symbols.py

## make size         bytes of code and of each object
size:
	@$(NEED) $(CC)=$(CC) size=binutils $(PYTHON)=python3
	@CC="$(CC)" $(PYTHON) tools/size.py

# ---- programs ----

PROGRAM = $(CC) -std=$(STD) -D_GNU_SOURCE -O2 -g $(WARNINGS) -I. -Itests

$(BUILD)/simulate $(BUILD)/simulate_tasks $(BUILD)/soak $(BUILD)/blackhole $(BUILD)/children: $(BUILD)/%: tests/%.c aioloop.h Makefile
	@mkdir -p $(BUILD)
	@$(PROGRAM) $< -o $@ $(LIBS)

BYTES = 1073741824
SPAWNS = 10000
AT_ONCE = 500
## make children     real programs as children: a GiB through cat, 500 at once, 10,000 starts (BYTES, SPAWNS, AT_ONCE)
children:
	@$(NEED) $(CC)=$(CC) gzip=gzip
	@$(MAKE_QUIETLY) $(BUILD)/children
	@$(BUILD)/children $(BYTES) $(SPAWNS) $(AT_ONCE)

# Each process plays SEEDS / JOBS of the seeds.
FIRST = 1
SEEDS = 10000
## make simulate     random scripts on a simulated network, and of tasks, checked against models (SEEDS=10000)
simulate:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(BUILD)/simulate $(BUILD)/simulate_tasks
	@share=$$((($(SEEDS) + $(JOBS) - 1) / $(JOBS))); pids=; status=0; \
	for i in $$(seq 0 $$(($(JOBS) - 1))); do \
	    $(BUILD)/simulate --both $$(($(FIRST) + i * share)) $$share & pids="$$pids $$!"; \
	    $(BUILD)/simulate --both --faults $$(($(FIRST) + i * share)) $$(((share + 9) / 10)) || status=1; \
	    $(BUILD)/simulate_tasks --both $$(($(FIRST) + i * share)) $$share || status=1; \
	    $(BUILD)/simulate_tasks --both --faults $$(($(FIRST) + i * share)) $$share || status=1; \
	done; for pid in $$pids; do wait $$pid || status=1; done; exit $$status

# The model against asyncio itself, of Python 3.13 or newer.
ORACLE_PYTHON = python3.13
ORACLE_SEEDS = 1000
## make simulate-oracle  the scripts of tasks on Python's own asyncio (ORACLE_PYTHON=python3.13, ORACLE_SEEDS=1000)
simulate-oracle:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(BUILD)/simulate_tasks
	@$(BUILD)/simulate_tasks --oracle $(FIRST) $(ORACLE_SEEDS) >$(BUILD)/oracle.json
	@$(ORACLE_PYTHON) tests/oracle_tasks.py <$(BUILD)/oracle.json

# SOAK: --connections N --rounds R --cycles M
SOAK =
## make soak         10,000 connections at once and 100,000 one after the other; memory and descriptors must not grow
soak:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(BUILD)/soak
	@$(BUILD)/soak $(SOAK)

## make blackhole    looking up names in a network of its own where the name server never answers
blackhole:
	@$(NEED) $(CC)=$(CC) unshare=util-linux ip=iproute2
	@$(MAKE_QUIETLY) $(BUILD)/blackhole
	@tests/blackhole.sh $(BUILD)/blackhole

# FIRE_EVENTS of each back end in FIRE_ON, from SEED (else one of the clock's).
FIRE_EVENTS = 1000000
FIRE_ON = io_uring epoll
SEED =
$(OUT)/fire: tests/fire.c aioloop.h Makefile
	@mkdir -p $(OUT)
	@$(PROGRAM) $(EXTRA) $< -o $@ $(LIBS)

## make fire         random connections ended in every way (the full run: FIRE_EVENTS=10000000; SEED=1; FIRE_ON="io_uring epoll";
##                   with sanitizers: CONFIG=asan EXTRA="-fsanitize=address,undefined -fno-sanitize-recover=all")
fire:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(OUT)/fire
	@status=0; for backend in $(FIRE_ON); do \
	    AIOLOOP_BACKEND=$$backend $(OUT)/fire --events $(FIRE_EVENTS) $(if $(SEED),--seed $(SEED)) || status=1; done; exit $$status

# STRESS: --jobs N --threads N --workers N
STRESS =
$(OUT)/stress_pool: tests/stress_pool.c aioloop.h Makefile
	@mkdir -p $(OUT)
	@$(PROGRAM) $(EXTRA) $< -o $@ $(LIBS)

## make stress-pool  a million functions for a pool of threads from eight loops, some cancelled, and fewer for one of processes
##                   (with ThreadSanitizer: CONFIG=tsan EXTRA=-fsanitize=thread; STRESS="--jobs 100000")
stress-pool:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(OUT)/stress_pool
	@$(OUT)/stress_pool $(STRESS)
	@$(OUT)/stress_pool --jobs 50000 $(STRESS) --processes

# RACE_COUNT cancellations of each kind on each back end in RACE_ON.
RACE_COUNT = 100000
RACE_ON = epoll io_uring poll
$(OUT)/race_sock: tests/race_sock.c aioloop.h Makefile
	@mkdir -p $(OUT)
	@$(PROGRAM) $(EXTRA) $< -o $@ $(LIBS)

## make race         operations on sockets that are cancelled as they succeed (RACE_COUNT=100000; RACE_ON="epoll io_uring poll")
race:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(OUT)/race_sock
	@status=0; for backend in $(RACE_ON); do \
	    AIOLOOP_BACKEND=$$backend $(OUT)/race_sock $(RACE_COUNT) $(SEED) || status=1; done; exit $$status

# FLOOD: --datagrams N --size BYTES --limit MS
FLOOD =
$(OUT)/flood: tests/flood.c aioloop.h Makefile
	@mkdir -p $(OUT)
	@$(PROGRAM) $(EXTRA) $< -o $@ $(LIBS)

## make flood        a million datagrams at once, and a timer that is to be on time meanwhile
flood:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) $(OUT)/flood
	@status=0; for backend in $(FIRE_ON); do AIOLOOP_BACKEND=$$backend $(OUT)/flood $(FLOOD) || status=1; done; exit $$status

# Those with TLS are left out where there is no mbedTLS.
TLS_EXAMPLES = $(patsubst examples/%.c,$(BUILD)/examples/%,$(shell grep -l 'define AIOLOOP_USE_TLS 1' examples/*.c))
WITHOUT_TLS = $(if $(MBEDTLS)$(wildcard /usr/include/mbedtls/ssl.h),,$(TLS_EXAMPLES))
EXAMPLES = $(filter-out $(WITHOUT_TLS),$(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c)))
## make examples     every example, each compiled alone
examples:
	@$(NEED) $(CC)=$(CC)
	@$(MAKE_QUIETLY) -j$(JOBS) example-programs
	@echo "$(words $(EXAMPLES)) examples in $(BUILD)/examples"
	@$(if $(WITHOUT_TLS),echo "without $(notdir $(WITHOUT_TLS)): they need libmbedtls-dev")

example-programs: $(EXAMPLES)

# The one that has no main.
$(BUILD)/examples/aioloop: EXTRA = -c
$(TLS_EXAMPLES): EXTRA = $(TLS)
$(TLS_EXAMPLES): LIBS += $(TLS_LIBS)

$(BUILD)/examples/%: examples/%.c aioloop.h Makefile
	@mkdir -p $(BUILD)/examples
	@$(CC) -std=$(STD) -O2 -g $(WARNINGS) $(EXTRA) -I. $< -o $@ $(LIBS)

## make demo         an echo server with 1,000 connections, measured; and a connection that becomes TLS, where mbedTLS is there
demo:
	@tools/demo.sh

## make interop      talks to other programs: Python, curl, OpenSSL, GnuTLS and the like (MBEDTLS=FOLDER; PARTS=plain, PARTS=tls)
interop:
	@$(if $(MBEDTLS),,$(NEED) /usr/include/mbedtls/ssl.h=libmbedtls-dev)
	@TLS="$(TLS)" TLS_LIBS="$(TLS_LIBS)" PARTS="$(PARTS)" tools/interop.sh

## make bench        instructions, system calls, bytes and times against other loops
bench:
	@tools/need.sh $(PYTHON)=python3
	@$(PYTHON) tools/bench.py

# BENCH: --quick, --rounds N, --out FILE
BENCH =
## make bench-engines  an echo server on epoll and on io_uring, by aioloop and by hand; ten minutes (BENCH=--quick)
bench-engines:
	@tools/need.sh $(PYTHON)=python3
	@$(PYTHON) tools/bench.py --only engines $(BENCH)

# matplotlib is Debian's, so it is Debian's Python that draws.
## make bench-tasks    coroutines against a switch of stacks by hand, asyncio and uvloop; four minutes (BENCH=--quick)
bench-tasks:
	@tools/need.sh $(PYTHON)=python3
	@$(PYTHON) tools/bench.py --only tasks $(BENCH)

## make bench-tls      TLS against mbedTLS called directly, libevent and asyncio with OpenSSL; ten minutes (BENCH=--quick;
##                     MBEDTLS=FOLDER: by another mbedTLS than the system's, BENCH="--tls 1.3")
bench-tls:
	@tools/need.sh $(PYTHON)=python3
	@$(PYTHON) tools/bench.py --only tls $(if $(MBEDTLS),--mbedtls $(MBEDTLS)) $(BENCH)

## make bench-plot   tests/bench/results/engines.svg, drawn from engines.json there (PLOT=FILE: from another one)
PLOT = tests/bench/results/engines.json
PLOT_PYTHON = /usr/bin/python3
bench-plot:
	@tools/need.sh $(PLOT_PYTHON)=python3 /usr/lib/python3/dist-packages/matplotlib=python3-matplotlib
	@$(PLOT_PYTHON) tools/bench_plot.py $(PLOT) tests/bench/results/engines.svg

## make check        everything that CI runs
check:
	@.ci/run

clean:
	rm -rf $(BUILD)
