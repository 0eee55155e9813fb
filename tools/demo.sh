#!/bin/sh
# demo.sh [CONNECTIONS] [SECONDS]: an echo server and its load, both built from aioloop.h, on this machine's loopback.
# Needs a C compiler (CC, default the first of cc, gcc, clang). Everything it makes is in build/demo.
set -eu
cd "$(dirname "$0")/.."
connections=${1:-1000}
seconds=${2:-3}
out=build/demo

cc=${CC:-}
for name in cc gcc clang; do
    [ -n "$cc" ] || { command -v $name >/dev/null 2>&1 && cc=$name; } || :
done
if [ -z "$cc" ]; then
    sh tools/need.sh gcc=gcc /usr/include/stdio.h=libc6-dev
    cc=gcc
fi

limit=$(ulimit -H -n)
if [ "$limit" != unlimited ] && [ "$limit" -lt $((connections + 50)) ]; then
    echo "only $limit files may be open here: $((limit - 50)) connections instead of $connections"
    connections=$((limit - 50))
fi

mkdir -p "$out"
echo "building with $cc -O2"
$cc -O2 tools/demo/server.c -o "$out/server" -lpthread
$cc -O2 tools/demo/client.c -o "$out/client" -lpthread

server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || :' EXIT
trap 'exit 1' INT TERM
: >"$out/server.txt"
"$out/server" "$connections" >"$out/server.txt" &
server=$!
tries=0
until grep -q '^backend' "$out/server.txt"; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ] || ! kill -0 $server 2>/dev/null; then
        echo "the server did not start" >&2
        exit 1
    fi
    sleep 0.05
done
value() { sed -n "s/^$1 //p" "$out/server.txt"; }

echo "back end             $(value backend)"
status=0
"$out/client" "$(value port)" "$connections" "$seconds" || status=$?
if [ $status = 0 ]; then
    wait $server || status=$?
    server=
fi
echo "memory per idle connection, in the server, with $connections open and before the first byte:"
echo "  $(value idle_bytes) bytes    allocated by the loop (a counting allocator, aioloop_config.allocator)"
[ -z "$(value idle_resident)" ] ||
    echo "  $(value idle_resident) bytes    growth of the process (RssAnon of /proc/self/status); the kernel's sockets are not in it"
exit $status
