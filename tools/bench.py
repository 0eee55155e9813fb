#!/usr/bin/env python3
"""Runs the benchmarks of tests/bench against epoll by hand, libev and libuv, and says which targets hold.

Two kinds of figures. Counts (instructions under callgrind, system calls under strace, bytes of memory) are
taken once, as the difference of a short and a long run, so that starting and ending cancel out; they repeat
almost to the digit on any machine. Times are taken in rounds in which every program runs once, one after the
other; the table has the medians, and a target that is relative to another program is compared within each round
before the median is taken, so that a machine that slows down slows both. Nothing else should run meanwhile.

Three groups run only when asked for. "engines": the same echo server on epoll and on io_uring, by aioloop and by hand.
"tasks": coroutines, against a switch of stacks by hand, Python's asyncio and uvloop. "tls": against mbedTLS called directly,
libevent with OpenSSL, and Python's asyncio.

Raw results are JSON lines: the machine, one line for each run, one for each row of the table."""

import argparse
import atexit
import json
import math
import os
import pathlib
import platform
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = os.path.join(ROOT, "tests", "bench")
# The programs are built in a folder of the run's own: a "make clean" meanwhile must not take them away.
BUILD = tempfile.mkdtemp(prefix="aioloop-bench-")
atexit.register(shutil.rmtree, BUILD, ignore_errors=True)
CFLAGS = ["-O2", "-g", "-DNDEBUG", "-std=gnu99", "-Wall", "-Wextra"]
PROGRAMS = ["aioloop", "hand", "libev", "libuv"]
# The servers of the group "engines": the program and what it has to wait with. Others are compared to the first.
ENGINES = {"aioloop epoll": ("aioloop", "epoll"), "aioloop io_uring": ("aioloop", "io_uring"),
           "hand epoll": ("hand", "epoll"), "hand io_uring": ("uring", "io_uring"),
           "libev": ("libev", "epoll"), "libuv": ("libuv", "epoll")}
# Those of the group "tasks": the program and how its modes begin. Debian's Python has Debian's uvloop.
TASKS = {"stackful": ("tasks", "stackful."), "stackless": ("tasks", "stackless."), "sock": ("tasks", "sock."), "callbacks": ("aioloop", ""),
         "by hand": ("hand_tasks", "hand."), "uvloop": ("python", "uvloop."), "asyncio": ("python", "asyncio.")}
# Those of the group "tls": the program, its mode, and what it has to wait with. By hand in two ways: mbedTLS with a buffer for
# what comes and one for what goes, and as it comes out of the box.
TLS = {"aioloop": ("tls", "serve", "epoll"), "aioloop io_uring": ("tls", "serve", "io_uring"), "mbedTLS": ("tls_hand", "serve", None),
       "mbedTLS plain": ("tls_hand", "plain", None), "libevent": ("tls_libevent", "serve", None), "asyncio": ("python", "serve", None)}
PYTHON = "/usr/bin/python3"
LIBRARIES = {"libev": ("-lev", "ev.h", "libev-dev"), "libuv": ("-luv", "uv.h", "libuv1-dev")}
TLS_LIBRARIES = {"tls": ["-lmbedtls", "-lmbedx509", "-lmbedcrypto"], "tls_libevent": ["-levent_openssl", "-levent", "-lssl", "-lcrypto"],
                 "tls_load": ["-lssl", "-lcrypto"]}
TLS_LIBRARIES["tls_hand"] = TLS_LIBRARIES["tls"]
TLS_PACKAGES = {"mbedtls/ssl.h": "libmbedtls-dev", "event2/event.h": "libevent-dev", "openssl/ssl.h": "libssl-dev"}
TOOLS = ["valgrind", "strace"]
TIMEOUT = 600

CORES = sorted(os.sched_getaffinity(0))
CORE = str(CORES[0])
CORE2 = str(CORES[1 % len(CORES)])


class Failed(Exception):
    """A program could not be measured; the text says why."""


# ---- building ----


def compile_program(name, libraries, flags):
    command = ["gcc", *CFLAGS, *flags, "-I" + ROOT, "-o", os.path.join(BUILD, name),
               os.path.join(SOURCE, "bench_%s.c" % name), *libraries, "-lpthread"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def has_header(header):
    test = subprocess.run(["gcc", "-E", "-include", header, "-x", "c", "/dev/null"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return test.returncode == 0


def has_module(name):
    return os.path.exists(PYTHON) and subprocess.run([PYTHON, "-c", "import " + name], stderr=subprocess.DEVNULL).returncode == 0


def missing_packages(group):
    headers = {}
    if group == "tls":
        headers = TLS_PACKAGES
    elif group != "tasks":
        headers = {header: package for _, header, package in LIBRARIES.values()}
    missing = [package for header, package in headers.items() if not has_header(header)]
    if group == "tasks" and not has_module("uvloop"):
        missing.append("python3-uvloop")
    tools = [*TOOLS, "openssl"] if group == "tls" else TOOLS
    return missing + [tool for tool in tools if shutil.which(tool) is None]


def install(group):
    """The peers and the tools come from Debian; without the right to install them they are left out."""
    missing = missing_packages(group)
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing with apt-get:", " ".join(missing), flush=True)
        subprocess.run(["apt-get", "install", "-y", "-q", *missing], stdout=subprocess.DEVNULL)
        missing = missing_packages(group)
    for package in missing:
        print("missing: %s (install it to have its figures)" % package)


def build_tls(aioloop_flags, mbedtls):
    """mbedtls: the folder of another one than the system's, or None. Answers the programs that are there."""
    there = ["python"]
    libraries, flags = dict(TLS_LIBRARIES), []
    if mbedtls is not None:
        found = {file.name: str(file) for file in pathlib.Path(mbedtls).glob("lib/**/libmbed*.a")}
        libraries["tls"] = libraries["tls_hand"] = [found["libmbed%s.a" % part] for part in ("tls", "x509", "crypto")]
        flags = ["-isystem", os.path.join(mbedtls, "include")]
    for name in libraries:
        more = aioloop_flags if name == "tls" else []
        result = compile_program(name, libraries[name], [*(flags if "-lssl" not in libraries[name] else []), *more])
        if result.stdout:
            print(result.stdout.rstrip())
        if result.returncode == 0:
            there.append(name)
    if "tls_load" not in there:
        sys.exit("tests/bench/bench_tls_load.c does not compile")
    subprocess.run([os.path.join(ROOT, "tests", "certificates.sh"), program("certificates")], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return there


def build(programs, aioloop_flags):
    """Compiles what can be; answers the names of the programs that are there."""
    load = compile_program("load", [], [])
    if load.returncode != 0:
        sys.exit("tests/bench/bench_load.c does not compile:\n" + load.stdout)
    if "aioloop" in programs and compile_program("names", [], aioloop_flags).returncode != 0:
        print("bench_names.c does not compile: left out")
    uv, header, _ = LIBRARIES["libuv"]
    with_uv = ([uv], ["-DBENCH_UV"]) if has_header(header) else ([], [])
    if "aioloop" in programs and compile_program("process", with_uv[0], with_uv[1] + aioloop_flags).returncode != 0:
        print("bench_process.c does not compile: left out")
    there = []
    for name in programs:
        flags, libraries = [], []
        if name in LIBRARIES:
            library, header, _ = LIBRARIES[name]
            libraries = [library]
            if not has_header(header):
                continue
        if name in ("aioloop", "tasks"):
            flags = aioloop_flags
            if not flags and not os.path.exists(os.path.join(ROOT, "aioloop.h")):
                print("aioloop.h is not there yet: only the peers are measured")
                continue
        result = compile_program(name, libraries, flags)
        if result.stdout:
            print(result.stdout.rstrip())
        if result.returncode == 0:
            there.append(name)
        else:
            print("bench_%s.c does not compile: left out" % name)
    return there


# ---- running ----


def program(name):
    return os.path.join(BUILD, name)


def command(name, mode):
    """What runs a mode of a program, also of one of TASKS."""
    executable, prefix = TASKS.get(name, (name, ""))
    if executable == "python":
        return [PYTHON, os.path.join(SOURCE, "bench_tasks.py"), prefix + mode]
    return [program(executable), prefix + mode]


def environment(**more):
    """What would change aioloop's behaviour must not leak in. Against the peers, which are on epoll, it is on epoll too; the group
    `engines` compares the engines."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("AIOLOOP_")},
            "AIOLOOP_BACKEND": "epoll", **more}


def run(command, **more):
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, env=environment(**more))
    except subprocess.TimeoutExpired:
        raise Failed("took more than %d s" % TIMEOUT)
    if result.returncode != 0:
        raise Failed("exit status %d: %s" % (result.returncode, result.stderr.strip()[-300:]))
    if "warning:" in result.stderr:
        print(result.stderr.strip())
    return result.stdout


def run_json(*command, **more):
    return json.loads(run([str(word) for word in command], **more))


class Server:
    """An echo server, a program or one of ENGINES or TASKS, perhaps under a tool. It ends when its standard input does, or by
    itself with --once."""

    def __init__(self, name, *arguments, under=(), mode="echo"):
        executable, engine = ENGINES.get(name, (name, None))
        self.start([*under, *command(executable, mode), *arguments], engine)

    def start(self, words, engine):
        self.process = subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL,
                                        env=environment(AIOLOOP_BACKEND=engine) if engine else environment())
        said = self.process.stdout.readline().split()
        if len(said) != 2 or said[0] != "port":
            self.process.kill()
            self.process.wait()
            raise Failed("the server did not start")
        self.port = said[1]
        if engine is not None and self.figures()["engine"] != engine:
            self.__exit__(Failed)
            raise Failed("the server does not run on " + engine)

    def __enter__(self):
        return self

    def figures(self):
        self.process.stdin.write("?")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait(self):
        """For a server that ends by itself."""
        status = self.process.wait(TIMEOUT)
        if status != 0:
            raise Failed("the server ended with status %d" % status)

    def __exit__(self, kind, *_):
        try:
            self.process.stdin.close()
            status = self.process.wait(10 if kind is None else 1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = -9
        self.process.stdout.close()
        if kind is None and status != 0:
            raise Failed("the server ended with status %d" % status)


def rounds_of(server, connections, count):
    run([program("load"), "rounds", "--port", server.port, "--connections", str(connections),
         "--count", str(count), "--core", CORE2])
    server.wait()


# ---- counts ----


def callgrind_command(file):
    return ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + file]


def callgrind_total(file):
    with open(file) as lines:
        for line in lines:
            if line.startswith(("summary:", "totals:")):
                return int(line.split()[1])
    raise Failed("callgrind wrote no total")


def instructions(name, mode, live, short, long):
    file = os.path.join(BUILD, "callgrind.out")
    totals = []
    for count in (short, long):
        run([*callgrind_command(file), *command(name, mode), "--live", str(live), "--count", str(count)])
        totals.append(callgrind_total(file))
    return {"instructions": (totals[1] - totals[0]) / (long - short)}


def instructions_echo(name, short, long, connections=1):
    file = os.path.join(BUILD, "callgrind.out")
    totals = []
    for count in (short, long):
        with Server(name, "--once", under=callgrind_command(file)) as server:
            rounds_of(server, connections, count)
        totals.append(callgrind_total(file))
    return {"instructions": (totals[1] - totals[0]) / (long - short) / connections}


def strace_calls(file):
    """System calls by name from the table of strace -c: per cent, seconds, usecs/call, calls, [errors,] name."""
    calls = {}
    with open(file) as lines:
        for line in lines:
            words = line.split()
            if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
                calls[words[-1]] = int(words[3])
    return calls


def system_calls(name, connections, short, long):
    file = os.path.join(BUILD, "strace.out")
    counted = []
    for count in (short, long):
        under = ["strace", "-f", "-c", "-o", file]
        with Server(name, "--once", "--core", CORE, under=under) as server:
            rounds_of(server, connections, count)
        counted.append(strace_calls(file))
    messages = (long - short) * connections
    by_name = {call: round((counted[1][call] - counted[0].get(call, 0)) / messages, 4) for call in counted[1]}
    by_name = {call: value for call, value in by_name.items() if value != 0}
    return {"calls": (sum(counted[1].values()) - sum(counted[0].values())) / messages, "by_name": by_name}


def idle_memory(name, few, many):
    """Bytes that the server has from malloc (headers and rounding included) for each further connection, after
    each has echoed one message and rests. What mallinfo2 cannot see (a library's own mmap) shows in rss_anon."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < many + 100:
        raise Failed("needs %d open files; raise the hard limit (ulimit -Hn)" % (many + 100))
    figures = []
    with Server(name, "--core", CORE) as server:
        load = subprocess.Popen([program("load"), "hold", "--port", server.port, "--core", CORE2],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            for count in (few, many):
                load.stdin.write("%d\n" % count)
                load.stdin.flush()
                if load.stdout.readline() != "held %d\n" % count:
                    raise Failed("the connections could not be opened")
                figures.append(server.figures())
                if figures[-1]["connections"] != count:
                    raise Failed("the server has %d connections" % figures[-1]["connections"])
        finally:
            load.stdin.close()
            load.wait(TIMEOUT)
            load.stdout.close()
    return {key: (figures[1][key] - figures[0][key]) / (many - few) for key in ("heap", "rss_anon")}


# ---- times ----


def echo(name, size, connections, seconds, depth=1, mode="load"):
    with Server(name, "--core", CORE, mode="udp" if mode == "udp" else "echo") as server:
        return run_json(program("load"), mode, "--port", server.port, "--connections", connections, "--size", size,
                        "--depth", depth, "--seconds", seconds, "--pid", server.process.pid, "--core", CORE2)


def timed(name, mode, *arguments, **more):
    return run_json(*command(name, mode), *arguments, "--core", CORE, **more)


# ---- TLS ----


class TlsCase:
    """What is asked of the servers of TLS, and how: bytes of a request and of its answer, connections, requests at once."""

    version = 12

    def __init__(self, size=1024, answer=1024, connections=1, depth=1):
        self.connections, self.depth = connections, depth
        self.words = [str(word) for word in ("--tls", self.version, "--size", size, "--answer", answer, "--connections", connections)]

    def load(self, server, mode, *words):
        """What bench_tls_load prints."""
        return run([program("tls_load"), mode, *self.words, "--depth", str(self.depth), "--port", server.port,
                    "--pid", str(server.process.pid), *words])

    def timed(self, name, mode, seconds):
        with TlsServer(name, self, "--core", CORE) as server:
            return json.loads(self.load(server, mode, "--seconds", str(seconds), "--core", CORE2))

    def counted(self, name, mode, count, under, *words):
        """So many rounds, or handshakes."""
        with TlsServer(name, self, *words, under=under) as server:
            self.load(server, mode, "--once", "--count", str(count), "--core", CORE2)

    def instructions(self, name, mode, short, long):
        file = os.path.join(BUILD, "callgrind.out")
        totals = []
        for count in (short, long):
            self.counted(name, mode, count, callgrind_command(file))
            totals.append(callgrind_total(file))
        return {"instructions": (totals[1] - totals[0]) / (long - short) / self.depth / self.connections}

    def system_calls(self, name, mode, short, long):
        file = os.path.join(BUILD, "strace.out")
        totals = []
        for count in (short, long):
            self.counted(name, mode, count, ["strace", "-f", "-c", "-o", file], "--core", CORE)
            totals.append(sum(strace_calls(file).values()))
        return {"calls": (totals[1] - totals[0]) / (long - short) / self.depth / self.connections}

    def steps(self, server, mode, counts):
        """The server's figures after bench_tls_load has done each of the steps that it reads."""
        figures = []
        load = subprocess.Popen([program("tls_load"), mode, *self.words, "--depth", str(self.depth), "--port", server.port, "--core", CORE2],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            for count in counts:
                load.stdin.write("%d\n" % count)
                load.stdin.flush()
                if load.stdout.readline() not in ("held %d\n" % count, "done %d\n" % count):
                    raise Failed("the load generator failed")
                figures.append(server.figures())
        finally:
            load.stdin.close()
            load.wait(TIMEOUT)
            load.stdout.close()
        return figures

    def allocations(self, name, count):
        """After a first few rounds."""
        with TlsServer(name, self, "--core", CORE) as server:
            before, after = self.steps(server, "steps", (20, count))
        return {"allocations": after["allocations"] - before["allocations"]}

    def idle(self, name, few, many):
        with TlsServer(name, self, "--core", CORE, "--connections", "0") as server:
            before, after = self.steps(server, "hold", (few, many))
        return {key: (after[key] - before[key]) / (many - few) for key in ("heap", "rss_anon")}

    def lateness(self, name, mode, seconds):
        """All cores for all. The first figures start the timer, the second are of the warm-up."""
        with TlsServer(name, self, mode=mode) as server:
            server.figures()
            self.load(server, "paced", "--rate", "200", "--seconds", "0.5")
            server.figures()
            rate = json.loads(self.load(server, "paced", "--rate", "200", "--seconds", str(seconds)))
            return {**server.figures(), **rate}


class TlsServer(Server):
    def __init__(self, name, case, *arguments, mode=None, under=()):
        executable, its_mode, engine = TLS[name]
        words = [PYTHON, os.path.join(SOURCE, "bench_tls.py")] if executable == "python" else [program(executable)]
        self.start([*under, *words, mode or its_mode, "--folder", program("certificates"), *case.words, *arguments], engine)


# ---- what is measured, and what it has to be ----


class Row:
    """One line of the table: a figure of a benchmark. target: at most this, or `least`; relative: times the figure of `to`, a
    program or several, of which the best one counts. It has to hold for each program in `of`."""

    def __init__(self, key, text, unit, target=None, relative=False, digits=1, of=("aioloop",), to="hand", least=False):
        self.key, self.text, self.unit, self.target = key, text, unit, target
        self.relative, self.digits, self.of, self.least = relative, digits, of, least
        self.to = (to,) if isinstance(to, str) else to

    def judge(self, values):
        """The median and the best round of the worst program, of its figures or ratios; None: nothing to judge. values: for each
        program those of its rounds."""
        worst, best = (min, max) if self.least else (max, min)
        judged = [values[name] for name in self.of if name in values] if self.target is not None else []
        others = [values[name] for name in self.to if name in values] if self.relative else []
        if not judged or self.relative and not others:
            return None
        if self.relative:
            judged = [[a / best(h) for a, *h in zip(each, *others)] for each in judged]
        return worst((statistics.median(each), best(each)) for each in judged)

    def holds(self, measured):
        # Compared as printed: 3.004 system calls are three.
        rounded = round(measured, 2)
        return rounded >= self.target if self.least else rounded <= self.target


class Bench:
    """names: the programs that have it; None: all."""

    def __init__(self, name, tool, measure, *rows, names=None):
        self.name, self.tool, self.measure, self.rows, self.names = name, tool, measure, rows, names

    def is_time(self):
        return self.tool == "time"


def benchmarks(quick):
    few = 4 if quick else 1  # how many times less work
    seconds = 0.4 if quick else 1.0

    def count(mode, live):
        return lambda name: instructions(name, mode, live, 20000, 20000 + 40000 // few // 10000 * 10000)

    def micro(mode, live, operations):
        return lambda name: timed(name, mode, "--live", live, "--count", operations // few)

    def by_name(name, mode, operations):
        figures = run_json(program("names"), name + "." + mode, "--count", operations)
        return {**figures, "us": figures["ns"] / 1000}

    def process(mode, operations, *words, hand="hand"):
        """Of bench_process, on all cores: a child is another program."""
        def measured(name):
            name = {"libuv": "uv", "hand": hand}.get(name, name)
            figures = run_json(program("process"), name + "." + mode, "--count", operations // few, *words)
            return {**figures, "us": figures["wall_ns"] / 1000, "gb_s": 65536 / figures["wall_ns"]}
        return measured

    def served(size, connections):
        return lambda name: echo(name, size, connections, seconds)

    def echo_rows(what):
        return (Row("server_cpu_us", "echo %s: server CPU a request" % what, "us", 1.03, True, 2),
                Row("rate", "echo %s: requests" % what, "/s", digits=0))

    ir = "instr."
    with_pools = ("aioloop", "hand", "libuv")
    def sent(name, **more):
        return timed(name, "sendfile", "--count", 1024 // few, "--core2", CORE2, **more)

    return [
        Bench("ir.echo", "valgrind", lambda name: instructions_echo(name, 500, 500 + 2000 // few),
              Row("instructions", "echo 64 B x 1: a round trip", ir, 300)),
        Bench("ir.soon", "valgrind", count("soon", 1000),
              Row("instructions", "call_soon, 1,000 live: a callback", ir, 70)),
        Bench("ir.chain", "valgrind", count("soon", 1),
              Row("instructions", "call_soon, one live: an iteration", ir, 250)),
        Bench("ir.timers", "valgrind", count("timers", 10000),
              Row("instructions", "timer: arm, half cancelled, half fired", ir, 330)),
        Bench("ir.rearm", "valgrind", count("rearm", 10000),
              Row("instructions", "re-arm one of 10,000 timers", ir, 60)),
        # The second target allows for the wait that a hundred messages share.
        Bench("calls.1", "strace", lambda name: system_calls(name, 1, 200, 200 + 1000 // few),
              Row("calls", "system calls a round trip, 1 connection", "calls", 3.0, digits=2)),
        Bench("calls.100", "strace", lambda name: system_calls(name, 100, 20, 20 + 100 // few),
              Row("calls", "system calls a round trip, 100 connections", "calls", 2.05, digits=2)),
        Bench("idle", "memory", lambda name: idle_memory(name, 1000, 10000),
              Row("heap", "idle connection: user memory", "B", 400, digits=0)),
        Bench("echo.1k", "time", served(1024, 10), *echo_rows("1 KiB x 10")),
        Bench("echo.64", "time", served(64, 100), *echo_rows("64 B x 100")),
        Bench("echo.100k", "time", served(102400, 10), *echo_rows("100 KiB x 10")),
        # Datagrams: one at a time, and thirty that come in bunches. A loss would end it.
        Bench("udp.echo", "time", lambda name: echo(name, 64, 1, seconds, mode="udp"),
              Row("server_cpu_us", "UDP echo 64 B x 1: server CPU a datagram", "us", 1.03, True, 2),
              Row("rate", "UDP echo 64 B x 1: datagrams", "/s", digits=0), names=("aioloop", "hand")),
        Bench("udp.echo.30", "time", lambda name: echo(name, 64, 30, seconds, mode="udp"),
              Row("server_cpu_us", "UDP echo 64 B x 30: server CPU a datagram", "us", 1.03, True, 2),
              Row("rate", "UDP echo 64 B x 30: datagrams", "/s", digits=0), names=("aioloop", "hand")),
        Bench("spawn", "time", process("spawn", 2000),
              Row("us", "start /bin/true and reap it", "us", 1.03, True), names=with_pools),
        Bench("spawn.posix", "time", process("spawn", 2000, hand="posix_spawn"),
              Row("us", "the same, posix_spawn as what is by hand", "us", 1.03, True), names=("aioloop", "hand")),
        Bench("spawn.1g", "time", process("spawn", 200, "--ballast", 1024),
              Row("us", "the same, from a program with 1 GiB in memory", "us", 1.03, True), names=with_pools),
        Bench("pipe", "time", process("pipe", 100000),
              Row("gb_s", "64 KiB at a time through a pipe", "GB/s", 0.97, True, 2, least=True), names=with_pools),
        Bench("soon", "time", micro("soon", 1000, 10000000), Row("ns", "call_soon, batch of 1,000", "ns", 6)),
        Bench("chain", "time", micro("soon", 1, 1000000), Row("ns", "call_soon, chain", "ns")),
        Bench("million", "time", lambda name: timed(name, "million", "--live", 1000000),
              Row("arm_ns", "1e6 timers: arm", "ns", 47), Row("cancel_ns", "1e6 timers: cancel", "ns", 36),
              Row("fire_ns", "1e6 timers: fire", "ns", 362),
              Row("peak_mib", "1e6 timers: peak memory", "MiB", 74)),
        Bench("rearm", "time", micro("rearm", 10000, 5000000), Row("ns", "re-arm one of 10,000 timers", "ns")),
        Bench("posts", "time",
              lambda name: timed(name, "posts", "--count", 2000000 // few, "--core2", CORE2),
              Row("wall_ns", "posts from a thread on another core", "ns", 60)),
        Bench("posts.1core", "time",
              lambda name: timed(name, "posts", "--count", 2000000 // few, "--core2", CORE),
              Row("wall_ns", "posts from a thread on the same core", "ns")),
        # libuv 1.44 (Debian 12) spins while the other thread should have the only core: 70 us. Newer ones do not.
        Bench("wakeup", "time", lambda name: timed(name, "wakeup", "--count", 20000 // few),
              Row("wall_us", "wake-up round trip of two threads, one core", "us", 5.5, digits=2)),
        Bench("pool.1", "time", lambda name: timed(name, "pool", "--live", 1, "--count", 50000 // few),
              Row("wall_us", "a function in a pool of threads, one at a time, one core", "us", 1.1, True, digits=2),
              names=with_pools),
        Bench("pool.64", "time", lambda name: timed(name, "pool", "--live", 64, "--count", 500000 // few),
              Row("wall_ns", "a function in a pool of threads, 64 at a time, one core", "ns", 1.1, True, digits=0),
              names=with_pools),
        Bench("pool.64.cores", "time",
              lambda name: run_json(*command(name, "pool"), "--live", 64, "--count", 500000 // few),
              Row("wall_ns", "a function in a pool of threads, 64 at a time, all cores", "ns", digits=0), names=with_pools),
        # One program has both. All cores: a look-up is a thread's.
        Bench("names.lookup", "time", lambda name: by_name(name, "lookup", 20000 // few),
              Row("wall_us", "look-up of localhost, one after the other", "us", 1.25, True, digits=2),
              Row("us", "the same: processor time of all threads", "us", digits=2), names=("aioloop", "hand")),
        Bench("names.connect", "time", lambda name: by_name(name, "connect", 10000 // few),
              Row("wall_us", "look up, connect and close", "us", 1.25, True, digits=2),
              Row("us", "the same: processor time of all threads", "us", digits=2), names=("aioloop", "hand")),
        # A file in memory of 1 GiB, over the loopback to a thread that drops it. The sender's own processor time.
        Bench("sendfile", "time", sent, Row("cpu_us", "sendfile, 1 GiB: CPU a MiB", "us", 1.03, True),
              Row("wall_us", "sendfile, 1 GiB: time a MiB", "us", 1.03, True), names=("aioloop", "hand")),
        Bench("sendfile.uring", "time", lambda name: sent(name, AIOLOOP_BACKEND="io_uring"),
              Row("cpu_us", "the same, aioloop on io_uring: CPU a MiB", "us", 1.03, True),
              Row("wall_us", "the same, aioloop on io_uring: time a MiB", "us", 1.03, True), names=("aioloop", "hand")),
    ]


def tls_benchmarks(quick):
    few = 4 if quick else 1
    seconds = 0.4 if quick else 1.0
    own, by_hand = ("aioloop", "aioloop io_uring"), ("mbedTLS", "mbedTLS plain")
    compiled = (*own, *by_hand, "libevent")
    small, wide, deep = TlsCase(), TlsCase(connections=10), TlsCase(depth=16)
    large = TlsCase(size=64, answer=102400)

    def timed_bench(name, text, case, mode, what, factor=1.03, to=by_hand):
        """Judged by the least disturbed tenth of the time, in slices of a millisecond; the rate is of all of it."""
        return Bench("tls." + name, "time", lambda server: case.timed(server, mode, seconds),
                     Row("low_cpu_us", text + ": server CPU", "us", factor, True, 1, own, to),
                     Row("low_wall_us", text + ": there and back", "us", factor, True, 1, own, to),
                     Row("rate", text + ": " + what, "/s", digits=0))

    def counts(name, text, case, mode, short, long):
        """Of instructions outside the kernel and of system calls."""
        long //= few
        return [Bench("tls.ir." + name, "valgrind", lambda server: case.instructions(server, mode, short, short + long),
                      Row("instructions", text, "instr.", 1.03, True, 0, own, by_hand), names=compiled),
                Bench("tls.calls." + name, "strace", lambda server: case.system_calls(server, mode, short, short + long),
                      Row("calls", text, "calls", digits=2), names=compiled)]

    def allocations(name, text, case):
        return Bench("tls.allocations." + name, "memory", lambda server: case.allocations(server, 10000 // case.depth),
                     Row("allocations", text + ": allocations in 10,000", "", 0, digits=0, of=own), names=compiled)

    def lateness(mode, text, *targets):
        return Bench("tls.lateness." + mode, "time", lambda server: small.lateness(server, "lateness." + mode, 8 // few),
                     Row("p50_us", text + ": late by, median", "us", digits=0), Row("p99_us", text + ": p99", "us", *targets, digits=0, of=own),
                     Row("max_us", text + ": at most", "us", digits=0), Row("rate", text + ": handshakes", "/s", digits=0), names=own)

    return [
        *counts("1k", "1 KiB: a request", small, "rounds", 50, 2000),
        *counts("pipelined", "1 KiB, 16 at once: a request", deep, "rounds", 10, 200),
        *counts("100k", "100 KiB answers: a request", large, "rounds", 10, 100),
        *counts("full", "handshake", small, "full", 2, 20),
        *counts("resumed", "handshake, resumed", small, "resumed", 2, 100),
        allocations("1k", "1 KiB", small), allocations("pipelined", "1 KiB, 16 at once", deep),
        allocations("100k", "100 KiB answers", large),
        Bench("tls.idle", "memory", lambda server: small.idle(server, 50, 50 + 400 // few),
              Row("heap", "idle connection: memory", "B", digits=0)),
        timed_bench("1k", "1 KiB", small, "load", "requests"),
        timed_bench("1kx10", "1 KiB x 10", wide, "load", "requests"),
        timed_bench("pipelined", "1 KiB, 16 at once", deep, "load", "requests", 1.0, "mbedTLS plain"),
        timed_bench("100k", "100 KiB answers", large, "load", "requests"),
        timed_bench("full", "handshake", small, "full", "handshakes"),
        timed_bench("resumed", "handshake, resumed", small, "resumed", "handshakes"),
        lateness("loop", "timer, 200 handshakes/s in the loop"),
        lateness("executor", "timer, 200 handshakes/s in the executor", 1000),
    ]


def task_benchmarks(quick):
    few = 4 if quick else 1
    seconds = 0.2 if quick else 0.4
    own = ("stackful", "stackless")
    compiled = (*own, "by hand")
    all_but_callbacks = (*compiled, "uvloop", "asyncio")  # and sock, which only echoes

    def slow(name):
        return 20 if name in ("uvloop", "asyncio") else 1

    def count(mode, live):
        return lambda name: instructions(name, mode, live, 4000, 4000 + 16000 // few)

    def micro(mode, live, operations):
        return lambda name: timed(name, mode, "--live", live, "--count", operations // few // slow(name))

    def both(name, text, mode, live, operations):
        """Instructions and time of the same."""
        return [Bench("tasks.ir." + name, "valgrind", count(mode, live), Row("instructions", text, "instr."), names=compiled),
                Bench("tasks." + name, "time", micro(mode, live, operations), Row("ns", text, "ns"), names=all_but_callbacks)]

    def memory(name, mode, live):
        return timed(name, mode, "--live", live // few // slow(name))

    def echo_bench(name, text, size, connections):
        return Bench("tasks.echo." + name, "time", lambda name: echo(name, size, connections, seconds),
                     Row("server_cpu_us", "echo %s, a task each: server CPU a request" % text, "us", 1.10, True, 2, own, "callbacks"),
                     Row("rate", "echo %s, a task each: requests" % text, "/s", digits=0))

    def sleeping(name):
        return "given" if name == "stackless" else "sleeping"

    return [
        *both("await", "await of a future that is done", "await", 1, 2000000),
        *both("create.1", "a task that ends at once, awaited", "create", 1, 200000),
        *both("create.1000", "the same, 1,000 at a time, dropped", "create", 1000, 400000),
        *both("gather", "the same, 1,000 at a time, gathered", "gather", 1000, 400000),
        *both("yield", "sleep of 0 s, 1,000 tasks", "yield", 1000, 400000),
        *both("handover.1", "hand-over round trip, two tasks", "handover", 1, 100000),
        *both("handover.1000", "the same, 1,000 pairs", "handover", 1000, 200000),
        *both("queue.1", "an item through a queue with room for one", "queue", 1, 200000),
        *both("queue.100", "an item through a queue with room for 100", "queue", 100, 400000),
        Bench("tasks.ir.echo", "valgrind", lambda name: instructions_echo(name, 300, 300 + 1200 // few),
              Row("instructions", "echo 64 B x 1, a task each: a round trip", "instr."), names=(*own, "sock", "callbacks", "by hand")),
        Bench("tasks.ir.bare", "valgrind", count("bare", 1),
              Row("instructions", "the bare switch, there and back", "instr."), names=("stackful", "by hand")),
        Bench("tasks.bare", "time", micro("bare", 1, 2000000),
              Row("ns", "the bare switch, there and back", "ns", 15, of=("stackful",)), names=("stackful", "by hand")),
        Bench("tasks.cancel", "time", lambda name: timed(name, "cancel", "--live", 10000),
              Row("ns", "cancel of 10,000 tasks asleep", "ns"), names=(*own, "uvloop", "asyncio")),
        Bench("tasks.sleeping", "memory", lambda name: memory(name, sleeping(name), 1000000),
              Row("heap", "1e6 tasks asleep: asked of the allocator", "B", 200, digits=0, of=("stackless",)),
              Row("resident", "1e6 tasks asleep: resident", "B", digits=0), names=("stackless", "uvloop", "asyncio")),
        Bench("tasks.copied", "memory", lambda name: memory(name, "copied", 1000000),
              Row("heap", "the same, frames copied, without the frame", "B", 200, digits=0, of=("stackless",)),
              Row("resident", "the same, frames copied, resident in all", "B", digits=0), names=("stackless",)),
        Bench("tasks.waiting", "memory", lambda name: memory(name, "waiting", 100000),
              Row("resident", "1e5 tasks that wait: resident, with page tables", "B", 8192, digits=0, of=("stackful",)),
              names=("stackful", "by hand")),
        echo_bench("1k", "1 KiB x 10", 1024, 10),
        echo_bench("64", "64 B x 100", 64, 100),
    ]


# ---- results ----


class Report:
    """names: of the programs; the first one's figures stand beside the targets."""

    def __init__(self, path, names):
        self.path, self.names = path, names
        self.raws, self.lines = [], []
        self.failed = False

    def raw(self, **what):
        self.raws.append(json.dumps(what))

    def write(self):
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        with open(self.path, "w") as file:
            file.write("".join(line + "\n" for line in self.raws))

    def bench(self, bench, samples):
        """samples: for each program the figures of its rounds."""
        for row in bench.rows:
            values = {name: [figures[row.key] for figures in runs] for name, runs in samples.items() if runs}
            middle = {name: statistics.median(runs) for name, runs in values.items()}
            measured, best = row.judge(values) or (None, None)
            verdict = "-" if measured is None else "holds" if row.holds(measured) else "MISSES"
            self.add(row, middle, measured, best, verdict, bench.is_time())
            self.raw(row=row.text, bench=bench.name, unit=row.unit, target=row.target,
                     relative_to=" ".join(row.to) if row.relative else None, of=row.of, measured=measured,
                     medians={name: round(value, 4) for name, value in middle.items()},
                     holds={"holds": True, "MISSES": False}.get(verdict))

    def add(self, row, middle, measured, best, verdict, is_time):
        def number(value):
            return "-" if value is None else "{:,.{}f}".format(value, row.digits)

        target = "-" if row.target is None else ("%gx " + row.to[0] if row.relative else "%g") % row.target
        if verdict != "-" and row.relative:
            verdict += " x%.3g" % measured
        if verdict.startswith("MISSES") and is_time:
            verdict += " (best %s%.3g)" % ("x" if row.relative else "", best)
        cells = [row.text, row.unit, target, number(middle.get(self.names[0])), verdict]
        self.lines.append(cells + [number(middle.get(name)) for name in self.names[1:]])

    def table(self):
        head = ["", "unit", "target", self.names[0], "verdict", *self.names[1:]]
        widths = [max(len(line[i]) for line in [head, *self.lines]) for i in range(len(head))]
        left = (0, 1, 4)
        for line in [head, *self.lines]:
            print("  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                            for i, (cell, width) in enumerate(zip(line, widths))).rstrip())


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = re.sub(r"\s+", " ", line.split(":", 1)[1].strip())
                break
    compiler = subprocess.run(["gcc", "--version"], stdout=subprocess.PIPE, text=True).stdout.split("\n")[0]
    return {"cpu": model, "cores": len(CORES), "kernel": platform.release(), "compiler": compiler}


def wanted(bench, only):
    """A benchmark by its name, or all whose names begin with it and a dot."""
    return not only or any(bench.name == name or bench.name.startswith(name.rstrip(".") + ".") for name in only)


def measure(bench, names, rounds, report):
    names = [name for name in names if bench.names is None or name in bench.names]
    samples = {name: [] for name in names}
    print("%s ..." % bench.name, end="", flush=True, file=sys.stderr)
    for number in range(rounds if bench.is_time() else 1):
        for name in names:
            if samples[name] is None:
                continue
            try:
                figures = bench.measure(name)
            except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
                print("\n%s, %s: %s" % (bench.name, name, error), file=sys.stderr)
                samples[name] = None
                report.failed = True
                continue
            if "wall_ns" in figures:
                figures["wall_us"] = figures["wall_ns"] / 1000
            samples[name].append(figures)
            report.raw(bench=bench.name, program=name, round=number, **figures)
    print("\r\033[K" if sys.stderr.isatty() else "", end="\n" if not sys.stderr.isatty() else "", file=sys.stderr)
    report.bench(bench, {name: runs for name, runs in samples.items() if runs})


# ---- the group "engines" ----


class Case:
    """What every server of ENGINES is measured by. measure answers the figures of a round; best: of several rounds."""

    def __init__(self, name, text, measure, figures, tool=None, **what):
        self.name, self.text, self.measure, self.figures = name, text, measure, figures
        self.tool, self.what = tool, what


# Figures: what they are called, digits, and which of several is the best.
TIMED = {"server_cpu_us": ("server CPU per request, us", 2, min), "rate": ("requests per second", 0, max)}
INSTRUCTIONS = {"instructions": ("instructions outside the kernel per round trip", 0, min)}
COUNTED = {"calls": ("system calls per round trip", 3, min)}
MEMORY = {"heap": ("user memory per idle connection, B", 0, min)}
KEPT = ("rate", "server_cpu_us", "client_cpu_us", "p50_us", "p99_us", "instructions", "calls", "heap")


def engine_cases(quick):
    seconds = 0.2 if quick else 0.4
    cases = []

    def timed_case(kind, size, connections, depth=1, mode="load"):
        short = "%dk" % (size // 1024) if size >= 1024 else str(size)
        text = "%s %s x %d" % (kind, "%d KiB" % (size // 1024) if size >= 1024 else "%d B" % size, connections)
        cases.append(Case("%s.%sx%d" % (kind, short, connections), text,
                          lambda name: echo(name, size, connections, seconds, depth, mode), TIMED,
                          kind=kind, size=size, connections=connections, depth=depth))

    for size in (64, 1024):
        for connections in (1, 10, 100, 1000) if quick else (1, 10, 100, 1000, 5000):
            timed_case("echo", size, connections)
    for connections in (1, 10, 100):
        timed_case("echo", 102400, connections)
    for connections in (10, 100):
        timed_case("pipelined", 64, connections, depth=16)
    timed_case("cycles", 64, 10, mode="cycles")
    cases += [Case("ir.1", "64 B x 1", lambda name: instructions_echo(name, 500, 1500), INSTRUCTIONS, "valgrind",
                   kind="ir", size=64, connections=1),
              Case("ir.100", "64 B x 100", lambda name: instructions_echo(name, 10, 40, 100), INSTRUCTIONS, "valgrind",
                   kind="ir", size=64, connections=100),
              Case("calls.1", "64 B x 1", lambda name: system_calls(name, 1, 200, 1200), COUNTED, "strace",
                   kind="calls", size=64, connections=1),
              Case("calls.100", "64 B x 100", lambda name: system_calls(name, 100, 20, 120), COUNTED, "strace",
                   kind="calls", size=64, connections=100),
              Case("idle", "10,000 connections", lambda name: idle_memory(name, 1000, 10000), MEMORY, "memory",
                   kind="idle", size=64, connections=10000)]
    return cases


def engine_rounds(cases, names, rounds, report):
    """All cases in each round, so that a disturbance spoils one round of a case and not all of them; all servers one
    after the other in each case, each time another one first. Answers samples[case name][server]: figures by round."""
    samples = {case.name: {name: [] for name in names} for case in cases}
    for number in range(rounds):
        for case in cases:
            if case.tool is not None and number > 0:
                continue
            print("round %d of %d: %s ..." % (number + 1, rounds, case.name), end="", flush=True, file=sys.stderr)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                if samples[case.name][name] is None:
                    continue
                try:
                    samples[case.name][name].append(case.measure(name))
                except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
                    print("\n%s, %s: %s" % (case.name, name, error), file=sys.stderr)
                    samples[case.name][name] = None
                    report.failed = True
            print("\r\033[K" if sys.stderr.isatty() else "\n", end="", file=sys.stderr)
    return samples


def engine_results(cases, names, samples, report):
    """A line for each server in each case; answers the same by case and server."""
    results = {}
    for case in cases:
        for name in names:
            rounds = samples[case.name][name]
            if not rounds:
                continue
            base = samples[case.name][names[0]]
            result = {"median": {}, "best": {}, "ratio": {}}
            for key, (_, _, best) in case.figures.items():
                values = [figures[key] for figures in rounds]
                result["median"][key] = round(statistics.median(values), 4)
                result["best"][key] = best(values)
                if base and len(base) == len(rounds) and all(figures[key] > 0 for figures in base):
                    ratios = [value / figures[key] for value, figures in zip(values, base)]
                    result["ratio"][key] = round(statistics.median(ratios), 4)
            results[case.name, name] = result
            report.raw(case=case.name, **case.what, server=name, **result,
                       rounds={key: [round(figures[key], 4) for figures in rounds] for key in KEPT if key in rounds[0]})
    return results


def engine_tables(cases, names, results):
    """For each figure the medians with the ratios to the first server, then the best rounds."""
    for figures in (TIMED, INSTRUCTIONS, COUNTED, MEMORY):
        having = [case for case in cases
                  if case.figures is figures and any((case.name, name) in results for name in names)]
        for key, (title, digits, _) in figures.items():
            for which in ("median", "best") if figures is TIMED else ("median",):
                lines = []
                for case in having:
                    line = [case.text]
                    for name in names:
                        result = results.get((case.name, name))
                        value = result[which][key] if result else None
                        cell = "{:,.{}f}".format(value, digits + (value < 1)) if result else "-"
                        if which == "median" and name != names[0] and result and key in result["ratio"]:
                            cell += "  x%.2f" % result["ratio"][key]
                        line.append(cell)
                    lines.append(line)
                if which == "median" and len(having) > 1 and figures is TIMED:
                    lines.append(["geometric mean of the ratios", ""] + [mean_ratio(having, name, key, results)
                                                                         for name in names[1:]])
                if not lines:
                    continue
                what = "medians; x: times %s's, in the same round" % names[0] if which == "median" else "best rounds"
                print_cells([["%s (%s)" % (title, what if figures is TIMED else "x: times %s's" % names[0]), *names],
                             *lines])


def mean_ratio(cases, name, key, results):
    ratios = [results[case.name, name]["ratio"][key] for case in cases
              if (case.name, name) in results and key in results[case.name, name]["ratio"]]
    return "x%.2f" % math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else "-"


def print_cells(lines):
    print("\n" + lines[0][0])
    lines = [["", *lines[0][1:]], *lines[1:]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(line, widths))).rstrip())


def engines(options, rounds, report):
    only = [name[len("engines."):] for name in options.only if name != "engines"]
    cases = [case for case in engine_cases(options.quick) if "engines" in options.only or wanted(case, only)]
    there = build(list(dict.fromkeys(name for name, _ in ENGINES.values())), shlex.split(options.aioloop_cflags))
    names = [name for name, (executable, _) in ENGINES.items() if executable in there]
    for name in list(names):
        try:
            with Server(name):
                pass
        except (Failed, OSError, ValueError) as error:
            print("%s: %s: left out" % (name, error))
            names.remove(name)
            report.failed = True
    if not cases or not names:
        sys.exit("nothing to measure; there are: " + ", ".join("engines." + case.name for case in engine_cases(False)))
    cases = [case for case in cases if case.tool not in TOOLS or shutil.which(case.tool) is not None]
    begun = time.monotonic()
    samples = engine_rounds(cases, names, rounds, report)
    results = engine_results(cases, names, samples, report)
    report.raw(took_seconds=round(time.monotonic() - begun))
    report.write()
    engine_tables(cases, names, results)
    print("\n%d rounds in %d s; every round in %s" % (rounds, time.monotonic() - begun, os.path.relpath(report.path)))


# ---- main ----


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = ", ".join(bench.name for bench in benchmarks(False))
    groups = {"tasks": task_benchmarks, "tls": tls_benchmarks}
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="only this benchmark or group (ir, calls, echo); may be repeated. There are: " + names +
                        ". Apart from these: engines, the back ends in comparison; tasks and tls (and tasks.await and so on)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of what is timed (default 7; quick 2)")
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds: to see that all runs")
    parser.add_argument("--out", metavar="FILE",
                        help="raw results (default build/bench.json, build/bench-engines.json and so on)")
    parser.add_argument("--aioloop-cflags", default="", metavar="FLAGS", help="more flags to compile aioloop with")
    parser.add_argument("--mbedtls", metavar="FOLDER", help="tls: another mbedTLS than the system's, with include/ and lib/")
    parser.add_argument("--tls", choices=["1.2", "1.3"], default="1.2", help="tls: the version that is spoken")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 7)
    asked = {name.split(".")[0] for name in options.only}
    alone = asked & {"engines", *groups}
    if alone and len(asked) > 1:
        parser.error("engines, tasks and tls run alone")
    group = alone.pop() if alone else None
    TlsCase.version = {"1.2": 12, "1.3": 13}[options.tls]
    chosen = [bench for bench in groups.get(group, benchmarks)(options.quick) if wanted(bench, options.only)]
    if not chosen and group != "engines":
        parser.error("no such benchmark; there are: " + names)

    install(group)
    load = os.getloadavg()[0]
    if load > 0.5:
        print("the machine is busy (load %.1f): trust the counts, not the times" % load)
    name = "bench-%s.json" % group if group else "bench.json"
    report = Report(options.out or os.path.join(ROOT, "build", name), list({"tasks": TASKS, "tls": TLS}.get(group, PROGRAMS)))
    report.raw(machine=machine(), rounds=rounds, quick=options.quick, aioloop_cflags=options.aioloop_cflags)
    if group == "engines":
        engines(options, rounds, report)
        return 1 if report.failed else 0
    flags = shlex.split(options.aioloop_cflags)
    if group == "tls":
        executables = build_tls(flags, options.mbedtls)
        there = [name for name, (executable, _, _) in TLS.items() if executable in executables]
    else:
        there = build(PROGRAMS if group is None else ["tasks", "hand_tasks", "aioloop"], flags)
    if group == "tasks":
        there = [name for name, (executable, _) in TASKS.items()
                 if executable in there or (executable == "python" and has_module(name))]
    try:
        for bench in chosen:
            if bench.tool not in TOOLS or shutil.which(bench.tool) is not None:
                measure(bench, there, rounds, report)
    finally:
        report.write()
        report.table()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
