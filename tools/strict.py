#!/usr/bin/env python3
"""Compiles the header in every way that it promises to bear, with every warning an error; runs nothing but small programs that
link it.

    tools/strict.py [-j N] [-k] [words: only the checks whose name contains one of them]

The implementation in each language standard, by gcc and clang as C and as C++; with each switch off and each choice of back
ends; with internal functions that warn when nothing calls them; the declarations alone; two files of one program."""

import argparse
import concurrent.futures
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror".split()
C_WARNINGS = "-Wstrict-prototypes -Wmissing-prototypes -Wc++-compat -Wvla".split()
GCC_WARNINGS = ["-Wjump-misses-init"]
CXX_WARNINGS = ["-Wmissing-declarations"]
C = ["gcc", "clang"]
CXX = ["g++", "clang++"]
IMPLEMENTATION = '#define AIOLOOP_IMPLEMENTATION\n#include "aioloop.h"\n'
DECLARATIONS = '#include "aioloop.h"\n'

SWITCHES = [["AIOLOOP_USE_THREADS=0"], ["AIOLOOP_USE_DEBUG=0"], ["AIOLOOP_USE_THREADS=0", "AIOLOOP_USE_DEBUG=0"], ["NDEBUG"],
            ["AIOLOOP_PORT=1"], ["AIOLOOP_PORT=1", "AIOLOOP_USE_THREADS=0", "AIOLOOP_USE_DEBUG=0", "NDEBUG"],
            ["AIOLOOP_DEBUG_SITES"], ["AIOLOOP_STATIC"], ["AIOLOOP_USE_COROUTINES=0"], ["AIOLOOP_USE_UCONTEXT=1"],
            ["AIOLOOP_USE_SUBPROCESS=0"], ["AIOLOOP_USE_SUBPROCESS=0", "AIOLOOP_USE_THREADS=0"],
            ["AIOLOOP_PORT=1", "AIOLOOP_USE_COROUTINES=1"], ["AIOLOOP_USE_TLS=1"],
            ["AIOLOOP_USE_TLS=1", "AIOLOOP_USE_THREADS=0"]]
BACKENDS = ["EPOLL", "IO_URING", "POLL", "SELECT", "SIM"]
SWITCHES += [["AIOLOOP_BACKENDS=AIOLOOP_BACKEND_" + one] for one in BACKENDS]
SWITCHES += [[f"AIOLOOP_BACKENDS=(AIOLOOP_BACKEND_{one}|AIOLOOP_BACKEND_{two})"]
             for i, one in enumerate(BACKENDS) for two in BACKENDS[i + 1:]]

# Uses a little of everything, so that a program has to link.
USE = '''#include "aioloop.h"
static void hello(aioloop *loop, void *arg) {
    *(int *)arg += 1;
    aioloop_stop(loop);
}
EXTERN_C int use_NAME(void);
int use_NAME(void) {
    int calls = 0;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL)
        return 1;
    aioloop_call_soon(loop, hello, &calls);
    aioloop_run_forever(loop);
    aioloop_free(loop);
    return calls == 1 ? 0 : 2;
}
'''
MAIN = '''int use_a(void);
int use_b(void);
int main(void) {
    return use_a() + 10 * use_b();
}
'''

folder = None
known = {}


def run(command, text=None):
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def knows(compiler, standard):
    """Whether a compiler has a standard."""
    if (compiler, standard) not in known:
        language = "c++" if "++" in compiler else "c"
        known[compiler, standard] = run([compiler, "-std=" + standard, "-x", language, "-fsyntax-only", "-"], "")[0] == 0
    return known[compiler, standard]


def warnings(compiler):
    if "++" in compiler:
        return WARNINGS + CXX_WARNINGS
    return WARNINGS + C_WARNINGS + (GCC_WARNINGS if compiler == "gcc" else [])


class Check:
    """One thing that must compile, or must fail with a text."""

    def __init__(self, name, compiler, standard, text, flags=(), error=None):
        self.name = name
        self.error = error
        self.text = text
        self.command = [compiler, "-std=" + standard, "-I.", *warnings(compiler), *flags, "-x",
                        "c++" if "++" in compiler else "c", "-c", "-", "-o", os.devnull]

    def run(self):
        status, output = run(self.command, self.text)
        if self.error is not None:
            if status != 0 and self.error in output:
                return None
            return f"expected the error \"{self.error}\", got:\n{output}"
        return None if status == 0 else " ".join(self.command) + "\n" + output


class Program:
    """Files with (compiler, text, flags), compiled, linked and run."""

    def __init__(self, name, files, linker):
        self.name = name
        self.files = files
        self.linker = linker

    def run(self):
        place = tempfile.mkdtemp(dir=folder)
        objects = []
        for i, (compiler, text, flags) in enumerate(self.files):
            language = "c++" if "++" in compiler else "c"
            objects.append(os.path.join(place, f"{i}.o"))
            status, output = run([compiler, "-std=c++11" if language == "c++" else "-std=c99", "-I.", *warnings(compiler),
                                  *flags, "-x", language, "-c", "-", "-o", objects[-1]], text)
            if status != 0:
                return f"file {i + 1}:\n{output}"
        program = os.path.join(place, "program")
        status, output = run([self.linker, *objects, "-o", program, "-lpthread"])
        if status != 0:
            return output
        status, output = run([program])
        return None if status == 0 else f"ended with {status}: {output}"


def standards():
    for compiler in C:
        for standard in ["c99", "c11", "c17", "c23" if knows(compiler, "c23") else "c2x"]:
            yield compiler, standard
    for compiler in CXX:
        for standard in ["c++11", "c++14", "c++17", "c++20"]:
            yield compiler, standard


def all_checks():
    for compiler, standard in standards():
        if not knows(compiler, standard):
            print(f"{compiler} has no {standard}")
            continue
        yield Check(f"implementation {compiler} {standard}", compiler, standard, IMPLEMENTATION, ["-O2"])
        yield Check(f"declarations {compiler} {standard}", compiler, standard, DECLARATIONS,
                    ["-Wreserved-identifier"] if compiler.startswith("clang") else [])
    for switches in SWITCHES:
        flags = ["-D" + switch for switch in switches]
        for compiler, standard in (("gcc", "c99"), ("clang", "c99"), ("g++", "c++11"), ("clang++", "c++17")):
            depth = "-O1" if compiler == "gcc" else "-fsyntax-only" # one has to optimise to see all; the others are quick
            yield Check(f"{' '.join(switches)} {compiler} {standard}", compiler, standard, IMPLEMENTATION, [depth, *flags])
    for compiler, standard in (("gcc", "c99"), ("clang", "c99")):
        yield Check(f"no dead functions {compiler}", compiler, standard, IMPLEMENTATION,
                    ["-O1", "-DAIOLOOP_INTERNAL=static", "-Wunused-function"])
        yield Check(f"implementation twice {compiler}", compiler, standard, IMPLEMENTATION + IMPLEMENTATION)
        yield Check(f"declarations, then implementation {compiler}", compiler, standard, DECLARATIONS + IMPLEMENTATION,
                    ["-D_GNU_SOURCE"])
        yield Check(f"after a system header {compiler}", compiler, standard, "#include <stdio.h>\n" + IMPLEMENTATION,
                    ["-D_GNU_SOURCE"])
        yield Check(f"after a system header, nothing asked {compiler}", compiler, standard,
                    "#include <stdio.h>\n" + IMPLEMENTATION, error="compile with -D_GNU_SOURCE")
    implementation = ["-DAIOLOOP_IMPLEMENTATION"]
    private = ["-DAIOLOOP_IMPLEMENTATION", "-DAIOLOOP_STATIC"]
    for one, two in (("gcc", "gcc"), ("gcc", "g++"), ("g++", "gcc"), ("clang", "gcc"), ("gcc", "clang"),
                     ("clang++", "g++"), ("g++", "g++")):
        a = USE.replace("EXTERN_C", 'extern "C"' if "++" in one else "").replace("NAME", "a")
        b = USE.replace("EXTERN_C", 'extern "C"' if "++" in two else "").replace("NAME", "b")
        yield Program(f"two files {one} {two}", [(one, a, implementation), (two, b, []), ("gcc", MAIN, [])], "g++")
        yield Program(f"two private copies {one} {two}", [(one, a, private), (two, b, private), ("gcc", MAIN, [])], "g++")


def main():
    global folder
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("-k", action="store_true", help="all the output of failed checks, not the first 40 lines")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="aioloop-strict-") as folder, \
            concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        checks = [check for check in all_checks()
                  if not options.words or any(word in check.name for word in options.words)]
        for check, complaint in zip(checks, pool.map(lambda check: check.run(), checks)):
            if complaint is None:
                continue
            failed += 1
            lines = complaint.splitlines()
            print(f"FAILED: {check.name}")
            print("\n".join(lines if options.k else lines[:40]))
    print(f"{len(checks)} ways to compile, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
