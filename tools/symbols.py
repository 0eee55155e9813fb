#!/usr/bin/env python3
"""Proves that the header leaves nothing behind but its own names.

An object of the implementation, as C and as C++, exports nothing but aioloop_..., and nothing at all with AIOLOOP_STATIC; what it
needs from others is printed. What is hidden is no export: it does not leave a program or a shared library. The declarations alone are at most 1,500 lines after the preprocessor beyond the three standard
headers, and define no macro without the prefix; the implementation defines none either but those that ask for features."""

import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMPLEMENTATION = '#define AIOLOOP_IMPLEMENTATION\n#include "aioloop.h"\n'
DECLARATIONS = '#include "aioloop.h"\n'
STANDARD = "#include <stddef.h>\n#include <stdint.h>\n#include <stdbool.h>\n"
HIDDEN = "aioloop_stack_switch"
MOST_LINES = 1500
PREFIXES = ("AIOLOOP_", "AIOL_", "aiol_")

wrong = []


def run(command, text):
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(" ".join(command) + "\n" + done.stderr)
    return done.stdout


def symbols(compiler, language, flags):
    """(exported, needed) of an object of the implementation."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "aioloop.o")
        run([compiler, "-x", language, "-I.", "-O1", *flags, "-c", "-", "-o", path], IMPLEMENTATION)
        exported, needed = set(), set()
        for line in run(["readelf", "-sW", path], "").splitlines():
            fields = line.split()
            if len(fields) != 8 or fields[4] not in ("GLOBAL", "WEAK"):
                continue
            if fields[6] == "UND":
                needed.add(fields[7])
            elif fields[5] != "HIDDEN":
                exported.add(fields[7])
            elif fields[7] != HIDDEN:
                wrong.append(f"{fields[7]} is hidden, and not known to be")
        return exported, needed


def macros(language, text, flags=()):
    lines = run(["g++" if language == "c++" else "gcc", "-x", language, "-I.", "-dM", "-E", *flags, "-"], text).splitlines()
    return {line.split()[1].split("(")[0] for line in lines}


def lines(language, text):
    output = run(["g++" if language == "c++" else "gcc", "-x", language, "-I.", "-E", "-P", "-"], text)
    return len([line for line in output.splitlines() if line.strip() != ""])


def check_symbols():
    for compiler, language, flags in (("gcc", "c", []), ("g++", "c++", []), ("gcc", "c", ["-DAIOLOOP_USE_DEBUG=0"]),
                                      ("gcc", "c", ["-DAIOLOOP_PORT=1"])):
        exported, needed = symbols(compiler, language, flags)
        name = " ".join([compiler, *flags])
        print(f"{name}: {len(exported)} functions exported, {len(needed)} needed")
        wrong.extend(f"{name} exports {symbol}" for symbol in sorted(exported) if not symbol.startswith("aioloop_"))
        if not flags and language == "c":
            print("  needed: " + " ".join(sorted(needed)))
        if "-DAIOLOOP_PORT=1" in flags:
            wrong.extend(f"{name} needs {symbol}" for symbol in sorted(needed & {"socket", "poll", "epoll_wait", "close"}))
        exported, _ = symbols(compiler, language, [*flags, "-DAIOLOOP_STATIC"])
        wrong.extend(f"{name} with AIOLOOP_STATIC exports {symbol}" for symbol in sorted(exported))


def check_declarations():
    for language in ("c", "c++"):
        more = lines(language, DECLARATIONS) - lines(language, STANDARD)
        print(f"declarations as {language}: {more} lines after the preprocessor")
        if more > MOST_LINES:
            wrong.append(f"the declarations have more than {MOST_LINES} lines: {more}")
        for flags in ([], ["-DAIOLOOP_DEBUG_SITES"]):
            strange = {name for name in macros(language, STANDARD + DECLARATIONS, flags) - macros(language, STANDARD)
                       if not name.startswith(PREFIXES[0])}
            if flags:
                strange = {name for name in strange if not name.startswith("aioloop_")}
            wrong.extend(f"the declarations as {language} define {name}" for name in sorted(strange))


def check_implementation():
    """What the system's headers define is found by including them alone."""
    with open(os.path.join(ROOT, "src", "base", "platform.h"), encoding="utf-8") as file:
        system = "".join(line for line in file if line.startswith("#include <"))
    allowed = macros("c", "#define _GNU_SOURCE 1\n" + STANDARD + system)
    strange = {name for name in macros("c", IMPLEMENTATION) - allowed if not name.startswith(PREFIXES)}
    wrong.extend(f"the implementation defines {name}" for name in sorted(strange))


check_symbols()
check_declarations()
check_implementation()
for line in wrong:
    print("wrong: " + line)
sys.exit(1 if wrong else 0)
