#!/bin/sh
# demo.sh [CONNECTIONS] [SECONDS]: an echo server and its load, both built from aioloop.h, on this machine's loopback;
# then, where mbedTLS and openssl are there, a connection that is upgraded to TLS.
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
# wait_for PATTERN FILE: until the server has printed it.
wait_for() {
    tries=0
    until grep -q "$1" "$2"; do
        tries=$((tries + 1))
        if [ $tries -gt 100 ] || ! kill -0 "$server" 2>/dev/null; then
            echo "the server did not start" >&2
            exit 1
        fi
        sleep 0.05
    done
}
wait_for '^backend' "$out/server.txt"
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

echo
tls='-lmbedtls -lmbedx509 -lmbedcrypto'
if ! command -v openssl >/dev/null 2>&1 ||
    ! printf '#include <mbedtls/ssl.h>\nint main(void) { mbedtls_ssl_config_init(0); return 0; }\n' |
    $cc -x c - -o "$out/has_tls" $tls >/dev/null 2>&1; then
    echo "the upgrade to TLS is left out: it needs mbedTLS (libmbedtls-dev) and openssl"
    exit $status
fi
echo "a mail from examples/starttls_client.c to examples/starttls_server.c, which go on with TLS after STARTTLS:"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$out/key.pem" -out "$out/cert.pem" \
    -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null
for side in server client; do
    $cc -O1 "examples/starttls_$side.c" -o "$out/starttls_$side" $tls -lpthread
done
: >"$out/starttls.txt"
"$out/starttls_server" "$out/cert.pem" "$out/key.pem" 0 >"$out/starttls.txt" &
server=$!
wait_for '^listening on port' "$out/starttls.txt"
"$out/starttls_client" localhost "$(sed -n 's/^listening on port //p' "$out/starttls.txt")" "$out/cert.pem" \
    "Hello over TLS" | sed 's/^/  /'
echo "the server got:"
sed -n '/^listening/!s/^/  /p' "$out/starttls.txt"
grep -q 'Hello over TLS' "$out/starttls.txt" || status=1
exit $status
