# Everything goes to build/. `make help` names the targets.

CC = gcc
PYTHON = python3
BUILD = build
# The back ends that `make test` runs the suite on: what this system has.
BACKENDS = epoll poll select sim sim,delayed
# The same with kernel features switched off.
FALLBACKS = epoll,no-accept4,no-epoll_pwait2,no-eventfd poll,no-eventfd,no-pipe2

WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror
STD = c99
OPT = -O1 -g
# What the tests need: memory and system calls that count and fail on demand.
FAULTS = -include tests/fault.h -DAIOLOOP_MALLOC=test_malloc -DAIOLOOP_REALLOC=test_realloc \
         -DAIOLOOP_FREE=test_free -DAIOLOOP_FAULT=test_fault
INCLUDE = -I.
# A test program is all of tests/test_*.c with one copy of the library in support.c.
CONFIG = default
OUT = $(BUILD)/$(CONFIG)
EXTRA =
LIBS = -lpthread
JOBS = $(shell nproc 2>/dev/null || echo 2)
SOURCES = $(wildcard src/*.h src/*/*.h src/*/*.c)
TESTS = $(filter-out tests/test_main.c,$(wildcard tests/test_*.c))
TEST_DEPS = aioloop.h $(SOURCES) tests/test.h tests/fault.h tests/support.h Makefile
LANG_FLAGS = -x c
COMPILE = $(CC) -std=$(STD) -D_GNU_SOURCE $(OPT) $(WARNINGS) $(EXTRA) $(INCLUDE) -Itests

.PHONY: help all header check-header test demo conformance clean test-run

help:
	@sed -n 's/^## //p' Makefile

all: header examples

## make demo         an echo server with 1,000 connections, measured
## make test         the whole suite on every back end of this machine
## make header       regenerate aioloop.h from src/
header: tools/amalgamate.py $(SOURCES)
	@$(PYTHON) tools/amalgamate.py

check-header:
	@$(PYTHON) tools/amalgamate.py --check

$(OUT)/%.o: tests/%.c $(TEST_DEPS)
	@mkdir -p $(OUT)
	@$(COMPILE) $(FAULTS) -c $< -o $@

$(OUT)/tests: $(TESTS:tests/%.c=$(OUT)/%.o) $(OUT)/test_main.o $(OUT)/support.o
	@$(CC) $(OPT) $(EXTRA) $^ -o $@ $(LIBS)

$(OUT)/unit_%: tests/unit_%.c tests/test_main.c $(TEST_DEPS)
	@mkdir -p $(OUT)
	@$(COMPILE) $(FAULTS) $< tests/test_main.c -o $@ $(LIBS)

UNITS = $(patsubst tests/unit_%.c,$(OUT)/unit_%,$(wildcard tests/unit_*.c))

# Runs the suite of one configuration on the back ends in RUN_ON.
RUN_ON = $(BACKENDS)
RUNNER =
test-run: $(OUT)/tests $(UNITS)
	@for unit in $(UNITS); do echo "$(CONFIG) $$(basename $$unit)"; $(RUNNER) $$unit -j $(JOBS) || exit 1; done
	@for backend in $(RUN_ON); do echo "$(CONFIG) on $$backend"; \
	    AIOLOOP_BACKEND=$$backend $(RUNNER) $(OUT)/tests -j $(JOBS) --label $$backend \
	        --results $(OUT)/results.txt $(RUN_FLAGS) || exit 1; done

clean:
	rm -rf $(BUILD)
