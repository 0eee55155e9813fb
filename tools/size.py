#!/usr/bin/env python3
"""Tells how large the library is: bytes of text, data and bss by -Os, and of each object.

    tools/size.py

"minimal" is what a program with callbacks, timers and futures needs of the library (tests/size/minimal.c, with what is not reached
left out by the linker), "whole" all of it; both without the C library. For this machine, and for a Cortex-M3 where
arm-none-eabi-gcc is installed; there also the minimal program whole, with newlib."""

import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = "-std=c99 -Os -ffunction-sections -fdata-sections -DNDEBUG -I.".split()
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror".split()
PORT = ["-DAIOLOOP_PORT=1", "-DAIOLOOP_USE_DEBUG=0"]
EPOLL = ["-DAIOLOOP_BACKENDS=AIOLOOP_BACKEND_EPOLL", "-DAIOLOOP_USE_DEBUG=0"]
ARM = ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb"]
NEWLIB = ["--specs=nano.specs", "--specs=nosys.specs"]


def run(command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(" ".join(command) + "\n" + done.stdout)
    return done.stdout


def tool(compiler, name):
    """size or nm for a compiler."""
    return "arm-none-eabi-" + name if compiler[0].startswith("arm") else name


def compiled(folder, compiler, flags, name):
    out = os.path.join(folder, name + ".o")
    run([*compiler, *SMALL, *WARNINGS, *flags, "-c", f"tests/size/{name}.c", "-o", out])
    return out


def reached(folder, compiler, objects):
    """The parts of objects that main reaches, as one object file without any library."""
    out = os.path.join(folder, "reached.o")
    run([*compiler, "-r", "-nostdlib", "-Wl,--gc-sections,-e,main", *objects, "-o", out])
    return out


def tell_size(compiler, what, path):
    text, data, bss = run([tool(compiler, "size"), path]).splitlines()[1].split()[:3]
    print(f"  {what:56}{text:>8}{data:>6}{bss:>6}")


def tell_objects(folder, compiler, flags):
    path = compiled(folder, compiler, flags, "objects")
    sizes = []
    for line in run([tool(compiler, "nm"), "-S", path]).splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[3].startswith("size_of_"):
            sizes.append((fields[3][len("size_of_"):].replace("_", " "), int(fields[1], 16)))
    print("  bytes of each: " + ", ".join(f"{name} {size}" for name, size in sorted(sizes, key=lambda pair: -pair[1])))


def tell(folder, name, compiler, variants):
    print(f"{name}{'text':>{66 - len(name)}}{'data':>6}{'bss':>6}")
    for what, flags in variants:
        objects = [compiled(folder, compiler, flags, "minimal")]
        if "-DAIOLOOP_PORT=1" in flags:
            objects.append(compiled(folder, compiler, flags, "port"))
        tell_size(compiler, f"minimal, {what}", reached(folder, compiler, objects))
        tell_size(compiler, f"whole, {what}", compiled(folder, compiler, flags, "whole"))
    tell_objects(folder, compiler, variants[0][1])


def tell_firmware(folder):
    objects = [compiled(folder, ARM, PORT, name) for name in ("minimal", "port")]
    program = os.path.join(folder, "firmware")
    run([*ARM, *NEWLIB, "-Wl,--gc-sections", *objects, "-o", program])
    tell_size(ARM, "the minimal program with newlib", program)


def main():
    native = (os.environ.get("CC") or "gcc").split()
    machine = run([*native, "-dumpmachine"]).split("-")[0]
    with tempfile.TemporaryDirectory(prefix="aioloop-size-") as folder:
        tell(folder, machine, native, [("all switches as they come", []), ("epoll, no debug mode", EPOLL),
                                       ("AIOLOOP_PORT, no debug mode", PORT)])
        if shutil.which(ARM[0]):
            tell(folder, "Cortex-M3", ARM, [("AIOLOOP_PORT, no debug mode", PORT),
                                            ("the same without threads", [*PORT, "-DAIOLOOP_USE_THREADS=0"])])
            tell_firmware(folder)
        else:
            print("Cortex-M3: needs arm-none-eabi-gcc (gcc-arm-none-eabi and libnewlib-arm-none-eabi)")


if __name__ == "__main__":
    main()
