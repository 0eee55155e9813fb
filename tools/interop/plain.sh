# plain.sh: the examples against curl, nc, socat, wrk and Python's asyncio; a part of interop.sh.
sh tools/need.sh nc=netcat-openbsd socat=socat wrk=wrk || exit 1
for source in examples/echo_server examples/unix_echo examples/http_server examples/udp_echo_server examples/udp_echo_client \
    tools/interop/client; do
    build "$source.c"
done

# ---- HTTP: curl ----

start "$out/http.txt" "$out/http_server"
http=$(port_in "$out/http.txt")
url=http://127.0.0.1:$http
fetch() { curl -sS --max-time 20 "$@"; }

root() { same "$(fetch "$url/")" "Hello, world!"; }
path() { same "$(fetch "$url/path")" "/path"; }
missing() { same "$(fetch -o /dev/null -w '%{http_code}' "$url/nothing")" 404; }
head_only() { same "$(fetch -I -o /dev/null -w '%{http_code} %{size_download}' "$url/large")" "200 0"; }
reuse() { same "$(fetch -o /dev/null -w '%{num_connects} ' "$url/" -o /dev/null "$url/path" -o /dev/null "$url/nothing")" "1 0 0 "; }
old() { same "$(fetch -0 "$url/" "$url/path" -w '%{num_connects} ')" "Hello, world!
1 /path1 "; }
large() {
    fetch -o "$out/large" "$url/large" && python3 -c '
import sys
made = bytes((i * 2654435761 >> 24) & 255 for i in range(4 << 20))
sys.exit(open(sys.argv[1], "rb").read() != made)' "$out/large"
}
post() { head -c 300000 /dev/zero >"$out/body" && same "$(fetch --data-binary "@$out/body" "$url/path" "$url/")" "/pathHello, world!"; }
slow_reader() { same "$(fetch --limit-rate 8M -o "$out/slow" -w '%{size_download}' "$url/large")" 4194304 && cmp "$out/slow" "$out/large"; }
check "curl: a page" root
check "curl: another page" path
check "curl: 404" missing
check "curl: HEAD has no body" head_only
check "curl: three requests on one connection" reuse
check "curl: HTTP/1.0 closes" old
check "curl: 4 MiB, every byte" large
check "curl: a reader that is slow" slow_reader
check "curl: a body of 300,000 bytes is skipped" post
check "asyncio: 50 pipelined requests, cut anywhere" timeout 30 python3 tools/interop/peer.py pipeline "$http"

# ---- HTTP: wrk ----

loaded() {
    wrk -t 2 -c 64 -d 3s "$url/" >"$out/wrk.txt" 2>&1 || { cat "$out/wrk.txt"; return 1; }
    cat "$out/wrk.txt"
    grep -q 'Requests/sec: *[1-9]' "$out/wrk.txt" && ! grep -q -e 'Socket errors' -e 'Non-2xx' "$out/wrk.txt"
}
check "wrk: 3 seconds, no socket errors, nothing but 2xx" loaded
echo "    $(sed -n 's/^Requests.sec: */requests per second: /p' "$out/wrk.txt")"

# ---- echo over TCP: nc, socat ----

start "$out/echo.txt" "$out/echo_server"
echo_pid=$started
echo=$(port_in "$out/echo.txt")
head -c 3000000 /dev/urandom >"$out/random"

nc_line() { same "$(printf 'one\ntwo\n' | timeout 30 nc -N 127.0.0.1 "$echo")" "one
two"; }
nc_bytes() { timeout 30 nc -N 127.0.0.1 "$echo" <"$out/random" >"$out/back" && cmp "$out/random" "$out/back"; }
socat_bytes() { timeout 30 socat -t 20 - "TCP:127.0.0.1:$echo" <"$out/random" >"$out/back" && cmp "$out/random" "$out/back"; }
empty() { same "$(timeout 30 nc -N 127.0.0.1 "$echo" </dev/null)" ""; }
check "nc: lines, half close" nc_line
check "nc: 3 MB, half close, every byte" nc_bytes
check "nc: the end and nothing else" empty
check "socat: 3 MB, half close, every byte" socat_bytes

# ---- echo over a Unix socket: nc, socat ----

socket=/tmp/aioloop-interop-$$.sock
start "$out/unix.txt" "$out/unix_echo" "$socket"
unix_pid=$started
nc_unix() { timeout 30 nc -N -U "$socket" <"$out/random" >"$out/back" && cmp "$out/random" "$out/back"; }
socat_unix() { timeout 30 socat -t 20 - "UNIX-CONNECT:$socket" <"$out/random" >"$out/back" && cmp "$out/random" "$out/back"; }
again() { # a socket file that a killed server left behind is replaced
    kill -9 "$unix_pid" && { wait "$unix_pid" 2>/dev/null; [ -S "$socket" ]; } &&
        start "$out/unix.txt" "$out/unix_echo" "$socket" && nc_unix
}
check "nc: 3 MB over a Unix socket, half close" nc_unix
check "socat: 3 MB over a Unix socket, half close" socat_unix
check "nc: after a server that was killed" again
rm -f "$socket"

# ---- Python's asyncio, both ways ----

check "asyncio client: 100 connections at once, 1 MiB each way on each" timeout 120 python3 tools/interop/peer.py client "$echo" 100 1048576
check "asyncio client: 4 connections, 16 MiB each way on each" timeout 120 python3 tools/interop/peer.py client "$echo" 4 16777216

mkfifo "$out/stdin.$$" && exec 3<>"$out/stdin.$$" && rm -f "$out/stdin.$$"
python_server() { exec python3 tools/interop/peer.py server <&3; }
start "$out/python.txt" python_server
python=$(port_in "$out/python.txt")
check "asyncio server: 100 connections at once, 1 MiB each way on each" timeout 120 "$out/client" 127.0.0.1 "$python" 100 1048576
check "asyncio server: 4 connections, 16 MiB each way on each" timeout 120 "$out/client" 127.0.0.1 "$python" 4 16777216

# ---- datagrams: nc, socat, asyncio ----

start "$out/udp.txt" "$out/udp_echo_server"
udp_pid=$started
udp=$(port_in "$out/udp.txt")
head -c 60000 "$out/random" >"$out/datagram"
nc_datagram() { same "$(printf 'one datagram' | timeout 30 nc -u -w 1 127.0.0.1 "$udp")" "one datagram"; }
socat_datagram() {
    timeout 30 socat -b 60000 -T 1 - "UDP4:127.0.0.1:$udp,sndbuf=200000" <"$out/datagram" >"$out/back" && cmp "$out/datagram" "$out/back"
}
check "nc: a datagram and its echo" nc_datagram
check "socat: a datagram of 60,000 bytes" socat_datagram
check "asyncio endpoints: 20 at once, datagrams up to the largest, and an empty one" timeout 60 \
    python3 tools/interop/peer.py datagrams "$udp" 20
python_udp() { exec python3 tools/interop/peer.py datagram_server <&3; }
start "$out/python_udp.txt" python_udp
python_udp=$(port_in "$out/python_udp.txt")
udp_client() { same "$(timeout 30 "$out/udp_echo_client" 127.0.0.1 "$python_udp" "to Python and back")" "to Python and back"; }
check "asyncio endpoint: udp_echo_client" udp_client
udp_end() { kill -INT "$udp_pid" && wait "$udp_pid"; }
check "udp_echo_server: SIGINT ends it in good order" udp_end

# ---- the end ----

graceful() { # an idle connection is given two seconds, then the server ends with 0
    sleep 5 | nc 127.0.0.1 "$echo" >/dev/null &
    idle=$!
    sleep 0.3
    kill -TERM "$echo_pid"
    wait "$echo_pid"
    status=$?
    kill "$idle" 2>/dev/null
    same "$status" 0
}
check "echo_server: SIGTERM ends it in good order" graceful
