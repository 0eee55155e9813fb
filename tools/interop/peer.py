"""The Python side of `make interop`, on asyncio.

    peer.py client PORT CONNECTIONS BYTES    talks to an echo server, checks every byte
    peer.py server                           is an echo server; prints its port; ends at the end of standard input
    peer.py datagrams PORT ENDPOINTS         sends datagrams of all sizes to an echo server, one at a time from each, and
                                             checks the echoes
    peer.py datagram_server                  is an echo server of datagrams, as server
    peer.py pipeline PORT                    sends 50 HTTP requests in one piece and checks the answers' order
"""
import asyncio
import random
import socket
import sys


async def converse(port, number, size):
    """Sends size bytes, half closes, expects them back and then the end."""
    data = random.Random(number).randbytes(size)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send():
        for at in range(0, size, 50000):
            writer.write(data[at:at + 50000])
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    answer = await reader.read()
    await sending
    writer.close()
    await writer.wait_closed()
    return answer == data


async def client(port, connections, size):
    results = await asyncio.gather(*(converse(port, i, size) for i in range(connections)), return_exceptions=True)
    right = sum(result is True for result in results)
    for result in results:
        if result is not True:
            print("got", repr(result), file=sys.stderr)
            break
    print("%d of %d connections right, %d bytes each way on each" % (right, connections, size))
    return right == connections


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def server():
    listening = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=256)
    print("port", listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    listening.close()
    return True


class Asker(asyncio.DatagramProtocol):
    """Gets the answers one by one."""

    def __init__(self):
        self.answers = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.answers.put_nowait(data)

    def error_received(self, exc):
        self.answers.put_nowait(exc)


async def ask(port, number):
    """Datagrams may be lost, so each is sent up to five times."""
    transport, asker = await asyncio.get_running_loop().create_datagram_endpoint(Asker, remote_addr=("127.0.0.1", port))
    for size in (1, 2, 512, 1472, 1473, 9000, 40000, 65507):
        data = random.Random(number * 100000 + size).randbytes(size)
        for _ in range(5):
            transport.sendto(data)
            try:
                answer = await asyncio.wait_for(asker.answers.get(), 2)
                break
            except asyncio.TimeoutError:
                answer = None
        if answer != data:
            print("to %d bytes came %.100r" % (size, answer), file=sys.stderr)
            return False
    transport.close()
    return True


async def datagrams(port, endpoints):
    # An empty one by a plain socket: older versions of asyncio do not send it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.settimeout(5)
        plain.sendto(b"", ("127.0.0.1", port))
        if plain.recvfrom(100) != (b"", ("127.0.0.1", port)):
            return False
    return all(await asyncio.gather(*(ask(port, i) for i in range(endpoints))))


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def datagram_server():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    print("port", transport.get_extra_info("sockname")[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    transport.close()
    return True


async def pipeline(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    paths = ["/path" if i % 3 else "/nothing-%d" % i for i in range(50)]
    requests = "".join("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths).encode()
    for at in range(0, len(requests), 700):     # cut where it pleases nobody
        writer.write(requests[at:at + 700])
        await asyncio.sleep(0.001)
    for path in paths:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.lower().split("content-length:")[1].split("\r\n")[0])
        body = await reader.readexactly(size)
        status = head.split()[1]
        if (status, body) != (("200", b"/path") if path == "/path" else ("404", body)):
            print("to %s came %s %r" % (path, status, body), file=sys.stderr)
            return False
    writer.close()
    return True


if __name__ == "__main__":
    role, *numbers = sys.argv[1:]
    roles = {"client": client, "server": server, "pipeline": pipeline, "datagrams": datagrams, "datagram_server": datagram_server}
    right = asyncio.run(roles[role](*map(int, numbers)))
    sys.exit(0 if right else 1)
