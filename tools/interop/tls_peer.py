"""The Python side of TLS in `make interop`.

    tls_peer.py ROLE --OPTION VALUE ...

ssl-client, asyncio-client      send --bytes of a pattern, expect them back, and end as --last says
ssl-server, asyncio-server      send back what comes; print the port
smtp-client                     smtplib: starttls and a mail
smtp-server                     an SMTP server on asyncio, of one dialogue after the other
smtp-injector                   sends a command in clear behind STARTTLS, which nobody may answer
listening PID                   prints the port at which a process listens

Each prints a line for each connection made, as tls.c does. Clients fail where something is not right.
"""
import argparse
import asyncio
import os
import select
import smtplib
import socket
import ssl
import sys
import time

VERSIONS = {"1.0": ssl.TLSVersion.TLSv1, "1.1": ssl.TLSVersion.TLSv1_1,
            "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
PIECE = 65536


def make_context(side, o):
    context = ssl.SSLContext(side)
    if o.version in ("1.0", "1.1"):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    if o.version:
        context.minimum_version = context.maximum_version = VERSIONS[o.version]
    if o.cert:
        context.load_cert_chain(o.cert, o.key)
    if o.ca:
        context.load_verify_locations(o.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if o.alpn:
        context.set_alpn_protocols(o.alpn.split(","))
    return context


def tell(tls):
    peer = tls.getpeercert()
    names = [value for group in peer["subject"] for key, value in group] if peer else ["none"]
    print("connected %s %s alpn=%s peer=%s reused=%s" % (
        tls.version(), tls.cipher()[0], tls.selected_alpn_protocol() or "none", names[0],
        "yes" if tls.session_reused else "no"), flush=True)


def check(received, expected):
    if received != expected:
        sys.exit("%d bytes came, of which some are wrong or missing" % len(received))
    print("%d bytes right" % len(received), flush=True)


# ---- ssl ----

def exchange(tls, data):
    """Sends and receives at once, on one thread."""
    tls.setblocking(False)
    received = bytearray()
    sent = 0
    view = memoryview(data)
    while len(received) < len(data):
        waits = True
        try:
            if sent < len(data):
                sent += tls.send(view[sent:sent + PIECE])
                waits = False
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        try:
            piece = tls.recv(PIECE)
            if not piece:
                break
            received += piece
            waits = False
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        if waits:
            select.select([tls], [tls] if sent < len(data) else [], [], 10)
    tls.settimeout(10)
    return bytes(received)


def ssl_client(o, data):
    context = make_context(ssl.PROTOCOL_TLS_CLIENT, o)
    session = None
    for _ in range(o.connections):
        raw = socket.create_connection(("127.0.0.1", o.port), 10)
        with context.wrap_socket(raw, server_hostname=o.name, suppress_ragged_eofs=False, session=session) as tls:
            tell(tls)
            check(exchange(tls, data), data)
            session = tls.session
            if o.last == "peer":
                if tls.recv(1):             # b"" for a close_notify, an error without one
                    sys.exit("more came")
                print("the peer's close_notify came")
            else:
                tls.unwrap()
                print("our close_notify was answered")


def ssl_server(o, data):
    context = make_context(ssl.PROTOCOL_TLS_SERVER, o)
    listening = socket.create_server(("127.0.0.1", 0))
    print("port", listening.getsockname()[1], flush=True)
    while True:
        raw, _ = listening.accept()
        raw.settimeout(20)
        try:
            with context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=False) as tls:
                tell(tls)
                done = 0
                while done < o.bytes or not o.bytes:
                    piece = tls.recv(PIECE)
                    if not piece:
                        break
                    tls.sendall(piece)
                    done += len(piece)
                tls.unwrap()
                print("close_notify both ways", flush=True)
        except OSError as error:
            print("failed", error, flush=True)


# ---- asyncio ----

async def asyncio_client(o, data):
    context = make_context(ssl.PROTOCOL_TLS_CLIENT, o)
    for _ in range(o.connections):
        reader, writer = await asyncio.open_connection("127.0.0.1", o.port, ssl=context, server_hostname=o.name)
        tell(writer.get_extra_info("ssl_object"))

        async def send():
            for at in range(0, len(data), PIECE):
                writer.write(data[at:at + PIECE])
                await writer.drain()
        sending = asyncio.create_task(send())
        check(await reader.readexactly(len(data)), data)
        await sending
        if o.last == "peer":
            if await reader.read():
                sys.exit("more came")
            print("the peer's close_notify came")
        writer.close()
        await writer.wait_closed()


async def listen(talk, context=None):
    async def guarded(reader, writer):
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError) as error:
            print("failed", repr(error), flush=True)
        writer.close()
    server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def asyncio_server(o, data):
    async def echo(reader, writer):
        tell(writer.get_extra_info("ssl_object"))
        done = 0
        while (done < o.bytes or not o.bytes) and (piece := await reader.read(PIECE)):
            writer.write(piece)
            await writer.drain()
            done += len(piece)
    await listen(echo, make_context(ssl.PROTOCOL_TLS_SERVER, o))


# ---- SMTP ----

def smtp_client(o, data):
    with smtplib.SMTP("127.0.0.1", o.port, timeout=10) as mail:
        mail.ehlo()
        if not mail.has_extn("starttls"):
            sys.exit("no STARTTLS was offered")
        mail.starttls(context=make_context(ssl.PROTOCOL_TLS_CLIENT, o))
        tell(mail.sock)
        mail.ehlo()
        if mail.has_extn("starttls"):
            sys.exit("STARTTLS was offered again")
        mail.sendmail("a@example.org", ["b@example.org"], "Subject: hello\r\n\r\nworld\r\n" + "x\r\n" * 10000)


async def smtp_server(o, data):
    context = make_context(ssl.PROTOCOL_TLS_SERVER, o)

    async def talk(reader, writer):
        secure = False
        writer.write(b"220 peer.example ESMTP\r\n")
        while line := (await reader.readline()).upper():
            if line.startswith(b"EHLO"):
                writer.write(b"250-peer.example\r\n250 %s\r\n" % (b"8BITMIME" if secure else b"STARTTLS"))
            elif line.startswith(b"STARTTLS"):
                writer.write(b"220 go ahead\r\n")
                await writer.start_tls(context)
                secure = True
                tell(writer.get_extra_info("ssl_object"))
            elif line.startswith(b"DATA"):
                writer.write(b"354 go on\r\n")
                mail = await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 took %d lines\r\n" % (mail.count(b"\r\n") - 1))
            elif line.startswith(b"QUIT"):
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250 ok\r\n" if secure else b"530 STARTTLS first\r\n")
            await writer.drain()
    await listen(talk)


def smtp_injector(o, data):
    with socket.create_connection(("127.0.0.1", o.port), 10) as sock:
        lines = sock.makefile("rb")
        lines.readline()
        sock.sendall(b"STARTTLS\r\nMAIL FROM:<evil@example.org>\r\n")
        answer = lines.readline()
        rest = lines.read()
        if not answer.startswith(b"220") or rest[:1] == b"2":
            sys.exit("came %r and %r" % (answer, rest))


# ---- the port of a process ----

def listening(o, data):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        sockets = set()
        for fd in os.listdir("/proc/%d/fd" % o.port):
            try:
                sockets.add(os.readlink("/proc/%d/fd/%s" % (o.port, fd)))
            except OSError:
                pass
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in open(table).readlines()[1:]:
                words = line.split()
                if words[3] == "0A" and "socket:[%s]" % words[9] in sockets:
                    print("port", int(words[1].rsplit(":", 1)[1], 16))
                    return
        time.sleep(0.02)
    sys.exit("it does not listen")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("port", type=int, nargs="?", default=0)
    for option in ("ca", "cert", "key", "alpn", "version", "last", "pattern"):
        parser.add_argument("--" + option)
    parser.add_argument("--name", default="localhost")
    parser.add_argument("--bytes", type=int, default=0)
    parser.add_argument("--connections", type=int, default=1)
    o = parser.parse_args()
    data = b""
    if o.pattern:
        with open(o.pattern, "rb") as file:
            data = file.read(o.bytes)
    result = globals()[o.role.replace("-", "_")](o, data)
    if asyncio.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    try:
        main()
    except (OSError, asyncio.IncompleteReadError, smtplib.SMTPException) as problem:
        sys.exit("failed %r" % problem)
