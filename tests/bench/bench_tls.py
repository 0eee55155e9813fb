"""bench_tls.py serve ...: TLS on Python's asyncio; see bench_tls.h."""

import argparse
import asyncio
import json
import os
import resource
import ssl
import sys
import time

connections = 0


class Client(asyncio.Protocol):
    def connection_made(self, transport):
        global connections
        connections += 1
        self.transport = transport
        self.got = 0

    def data_received(self, data):
        self.got += len(data)
        while self.got >= request:
            self.got -= request
            self.transport.write(answer)

    def connection_lost(self, error):
        global connections
        connections -= 1


def control(loop):
    if not os.read(0, 1):
        loop.stop()
        return
    rss = 0
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("RssAnon:"):
                rss = int(line.split()[1]) * 1024
    print(json.dumps({"engine": "asyncio", "connections": connections, "heap": rss, "rss_anon": rss,
                      "cpu_ns": time.process_time_ns(), "allocations": 0}), flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("mode", choices=["serve"])
for name in ("tls", "size", "answer", "connections", "core"):
    parser.add_argument("--" + name, type=int, default=-1)
parser.add_argument("--folder")
options = parser.parse_args()
request, answer = options.size, b"a" * options.answer
if options.core >= 0:
    os.sched_setaffinity(0, {options.core})
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(options.folder, "server.pem"), os.path.join(options.folder, "server.key"))
context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3 if options.tls == 13 else ssl.TLSVersion.TLSv1_2
context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")

loop = asyncio.new_event_loop()
server = loop.run_until_complete(loop.create_server(Client, "127.0.0.1", 0, ssl=context, backlog=1024))
print("port", server.sockets[0].getsockname()[1], flush=True)
loop.add_reader(0, control, loop)
loop.run_forever()
sys.stdout.flush()
os._exit(0)
