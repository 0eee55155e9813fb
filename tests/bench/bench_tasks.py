#!/usr/bin/env python3
"""The benchmarks of tasks on Python's asyncio and on uvloop: the modes and the output of bench_tasks.c.

    bench_tasks.py asyncio.create --live 1000 --count 100000 --core 0"""

import argparse
import asyncio
import json
import os
import socket
import sys
import time


class Span:
    """Processor time and wall time."""

    def __enter__(self):
        self.wall, self.cpu = time.monotonic_ns(), time.process_time_ns()
        return self

    def __exit__(self, *_):
        self.cpu, self.wall = time.process_time_ns() - self.cpu, time.monotonic_ns() - self.wall


def show(span, count):
    print(json.dumps({"ns": span.cpu / count, "wall_ns": span.wall / count, "count": count}))


def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


async def nothing():
    pass


async def await_done(args):
    future = asyncio.get_running_loop().create_future()
    future.set_result(0)
    with Span() as span:
        for _ in range(args.count):
            await future
    show(span, args.count)


async def create(args):
    with Span() as span:
        if args.live == 1:
            for _ in range(args.count):
                await asyncio.create_task(nothing())
        else:
            for _ in range(args.count // args.live):
                for _ in range(args.live):
                    asyncio.create_task(nothing())
                await asyncio.sleep(0)
    show(span, args.count)


async def gather(args):
    with Span() as span:
        for _ in range(args.count // args.live):
            await asyncio.gather(*[asyncio.create_task(nothing()) for _ in range(args.live)])
    show(span, args.count)


async def all_of(args, coroutines):
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    with Span() as span:
        for task in tasks:
            await task
    show(span, args.count)


async def yields(args):
    async def one():
        for _ in range(args.count // args.live):
            await asyncio.sleep(0)

    await all_of(args, [one() for _ in range(args.live)])


class Pair:
    ping = pong = None


async def handover(args):
    loop = asyncio.get_running_loop()
    each = args.count // args.live

    async def pong(pair):
        for _ in range(each):
            pair.ping = loop.create_future()
            await pair.ping
            pair.pong.set_result(0)

    async def ping(pair):
        for _ in range(each):
            pair.pong = loop.create_future()
            pair.ping.set_result(0)
            await pair.pong

    pairs = [Pair() for _ in range(args.live)]
    await all_of(args, [side(pair) for pair in pairs for side in (pong, ping)])


async def queue(args):
    room = asyncio.Queue(args.live)

    async def producer():
        for _ in range(args.count):
            await room.put(room)

    async def consumer():
        for _ in range(args.count):
            assert await room.get() is room

    await all_of(args, [consumer(), producer()])


async def cancel(args):
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(args.live)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with Span() as span:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    show(span, args.live)


async def sleeping(args):
    """Memory of tasks that sleep."""
    before = status("VmRSS:"), status("VmPTE:")
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(args.live)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rss, pte = ((now - then) * 1024 / args.live for now, then in zip((status("VmRSS:"), status("VmPTE:")), before))
    print(json.dumps({"heap": 0, "rss": rss, "pte": pte, "resident": rss + pte}), flush=True)
    os._exit(len(tasks) != args.live)


async def echo(args):
    connections = 0
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def connected(reader, writer):
        nonlocal connections
        connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()
        connections -= 1
        if connections == 0 and args.once:
            over.set()

    def control():
        if not os.read(0, 1):
            over.set()
            return
        print(json.dumps({"engine": "epoll", "connections": connections, "heap": 0, "rss_anon": status("RssAnon:") * 1024,
                          "cpu_ns": time.process_time_ns()}), flush=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(0, control)
    await over.wait()
    sys.stdout.flush()
    os._exit(0)


MODES = {"await": await_done, "create": create, "gather": gather, "yield": yields, "handover": handover, "queue": queue,
         "cancel": cancel, "sleeping": sleeping, "echo": echo}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", help="asyncio. or uvloop. and one of: " + ", ".join(MODES))
    parser.add_argument("--live", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--core", type=int, default=-1)
    parser.add_argument("--once", action="store_true")
    args = parser.parse_args()
    library, _, mode = args.mode.partition(".")
    if args.core >= 0:
        os.sched_setaffinity(0, {args.core})
    if library == "uvloop":
        import uvloop
        uvloop.install()
    asyncio.run(MODES[mode](args))


if __name__ == "__main__":
    main()
