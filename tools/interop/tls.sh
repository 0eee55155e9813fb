# tls.sh: TLS against OpenSSL, curl, GnuTLS and Python, each as client and as server; a part of interop.sh. tls.c is our
# side, tls_peer.py Python's.
# shellcheck disable=SC2046,SC2086
sh tools/need.sh openssl=openssl gnutls-cli=gnutls-bin || exit 1
build tools/interop/tls.c ${TLS:--DAIOLOOP_USE_TLS=1} ${TLS_LIBS:--lmbedtls -lmbedx509 -lmbedcrypto}
tls=$out/tls
certs=$out/certificates
ca=$certs/ca.pem
said=$out/said.txt
host=localhost
log=$out/tls_server.txt
big=104857600
less=4194304 # for gnutls-cli, which prints each byte by itself, and gnutls-serv, which answers line by line
versions="1.2 1.3"
[ -f "$certs/folder/README" ] || sh tests/certificates.sh "$certs" || exit 1
"$tls" pattern $big >"$out/pattern"
"$tls" client 1 --min 1.3 | grep -q ENOTAVAILABLE && versions=1.2

# ---- helpers ----

python() { timeout 60 python3 tools/interop/tls_peer.py "$@"; }
named() { echo "--cert $certs/$1.pem --key $certs/$1.key"; }

# ours OPTION ...: our server, at $port; what it tells goes to $log.
ours() {
    start "$log" "$tls" server "$@"
    port=$(port_in "$log")
}

# theirs FILE COMMAND ...: another's server, at $port.
theirs() {
    file=$1
    shift
    : >"$file"
    "$@" >>"$file" 2>&1 <&4 &
    started=$!
    running="$running $started"
    port=$(python listening $started | sed 's/port //')
}

# input TEXT: what programs read that have <&4, and no end behind it.
input() {
    rm -f "$out/input"
    mkfifo "$out/input"
    exec 4<>"$out/input"
    rm -f "$out/input"
    [ -z "$1" ] || printf '%s' "$1" >&4
}

# feed BYTES: the same, with so many of the pattern.
feed() {
    input ""
    head -c "$1" "$out/pattern" >&4 &
    running="$running $!"
}

# has PATTERN: the program that was run last has said so.
has() { grep -q -e "$1" "$said" || { echo "nothing like $1 in:"; tail -n 40 "$said"; return 1; }; }

# in_time FILE PATTERN: the file has it, in five seconds at the latest.
in_time() {
    tries=0
    [ -n "$2" ] || return 0
    until grep -q -e "$2" "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || { echo "nothing like $2 in:"; tail -n 40 "$1"; return 1; }
        sleep 0.05
    done
}

# told PATTERN: our server has said so since it was last asked.
told() { in_time "$log" "$1" && : >"$log"; }

# The programs. Their status is that of the handshake, more or less; what they say goes to $said.
client() { timeout 60 "$tls" client "$port" --ca "$ca" "$@" >"$said" 2>&1; }
s_client() {
    timeout 20 openssl s_client -connect "127.0.0.1:$port" -CAfile "$ca" -verify_return_error -verify_hostname "$host" \
        -servername "$host" "$@" >"$said" 2>&1
}
curl_to() {
    curl -sS -v --http1.1 --max-time 60 --cacert "$ca" --resolve "$host:$port:127.0.0.1" "$@" "https://$host:$port/" \
        >"$said" 2>&1
}
gnutls_cli() {
    timeout 20 gnutls-cli -p "$port" --x509cafile "$ca" --sni-hostname "$host" --verify-hostname "$host" "$@" \
        127.0.0.1 >"$said" 2>&1
}
ssl_client() { python ssl-client "$port" --ca "$ca" --name "$host" --pattern "$out/pattern" "$@" >"$said" 2>&1; }
asyncio_client() { python asyncio-client "$port" --ca "$ca" --pattern "$out/pattern" "$@" >"$said" 2>&1; }
fails() { ! "$@" || { echo "went well"; cat "$said"; return 1; }; }
only() { echo "NORMAL:-VERS-ALL:+VERS-TLS$1"; } # GnuTLS's way to say a version
s_server() { theirs "$out/s_server.txt" openssl s_server -accept 0 -state "$@"; }
gnutls_serv() { theirs "$out/gnutls_serv.txt" gnutls-serv -p 0 "$@"; }

input ""

# ---- our server: handshake, ALPN, resumption, goodbye ----

a_s_client() {
    printf 'hello\n' | s_client -tls1_"$n" -alpn h2,other -state -ign_eof && has 'ALPN protocol: h2' && has '^hello' &&
        has 'Verify return code: 0 (ok)' && has 'SSL3 alert read:warning:close notify' &&
        told "connected TLSv$v .*alpn=h2 name=localhost peer=none reused=no"
}
again_s_client() {
    printf 'hello\n' | s_client -tls1_"$n" -ign_eof -sess_out "$out/session" && has '^New, TLS' &&
        printf 'hello\n' | s_client -tls1_"$n" -ign_eof -sess_in "$out/session" && has "^Reused, TLSv$v" &&
        told "connected TLSv$v .*reused=yes"
}
reconnect() { s_client -tls1_2 -reconnect </dev/null; same "$(grep -c '^Reused, TLSv1.2' "$said")" 5; }
a_gnutls_cli() {
    input 'hello
'
    gnutls_cli --priority "$(only "$v")" --alpn h2 --alpn other <&4 && has "Description: (TLS$v" &&
        has 'Application protocol: h2' && has '^hello' &&
        has 'Peer has closed the GnuTLS connection' && told "connected TLSv$v .*alpn=h2 name=localhost"
}
again_gnutls_cli() {
    input 'hello
'
    gnutls_cli --priority "$(only "$v")" --resume --waitresumption <&4 && has 'This is a resumed session' &&
        has '^hello' && told "connected TLSv$v .*reused=yes"
}
a_python() {
    ssl_client --version "$v" --alpn other,h2 --bytes 6 --last peer && has "connected TLSv$v .*alpn=h2 peer=server" &&
        has "the peer's close_notify came" && told "connected TLSv$v .*alpn=h2"
}
again_python() {
    ssl_client --version "$v" --bytes 6 --connections 3 --last peer && same "$(grep -c 'reused=yes' "$said")" 2 &&
        told 'reused=yes'
}
an_asyncio() { asyncio_client --version "$v" --alpn h2 --bytes 6 --last peer && has 'alpn=h2'; }
a_curl() { # which takes no tickets in TLS 1.2
    [ "$v" = 1.2 ] && reused=no || reused=yes
    curl_to --tlsv"$v" --tls-max "$v" -H 'Connection: close' "https://localhost:$port/" &&
        same "$(grep -c '^hello' "$said")" 2 &&
        has 'server accepted http/1.1' && has 'close notify' && has "SSL connection using TLSv$v" &&
        told "connected TLSv$v .*alpn=http/1.1 name=localhost peer=none reused=$reused"
}
farewell() { ssl_client --version "$v" --bytes 300000 && has 'our close_notify was answered' && told closed; }

for v in $versions; do
    n=${v#1.}
    ours $(named server) --alpn h2,http/1.1 --min "$v" --max "$v" --bytes 6
    check "TLS $v, s_client: handshake, ALPN, our goodbye" a_s_client
    check "TLS $v, s_client: a session resumed" again_s_client
    [ "$v" = 1.3 ] || check "TLS $v, s_client: -reconnect resumes five times" reconnect
    check "TLS $v, gnutls-cli: handshake, ALPN, our goodbye" a_gnutls_cli
    check "TLS $v, gnutls-cli: a session resumed" again_gnutls_cli
    check "TLS $v, Python's ssl: handshake, ALPN, our goodbye" a_python
    check "TLS $v, Python's ssl: sessions resumed" again_python
    check "TLS $v, asyncio: handshake, ALPN, our goodbye" an_asyncio
    end_all
    ours $(named server) --alpn http/1.1 --min "$v" --max "$v" --speak http
    check "TLS $v, curl: handshake, ALPN, our goodbye$([ "$v" = 1.2 ] || echo ", a session resumed")" a_curl
    end_all
    ours $(named server) --min "$v" --max "$v"
    check "TLS $v, Python's ssl: its goodbye is answered" farewell
    end_all
done
[ "$versions" != 1.2 ] || skip "TLS 1.3: this mbedTLS has none"

# ---- our server: 100 MiB each way at once ----

big_s_client() {
    timeout 60 openssl s_client -quiet -connect "127.0.0.1:$port" <"$out/pattern" >"$out/got" 2>"$said" &&
        cmp "$out/got" "$out/pattern"
}
big_curl() { curl_to -H Expect: -T "$out/pattern" -o "$out/got" && cmp "$out/got" "$out/pattern"; }
big_gnutls_cli() {
    feed $less
    timeout 60 gnutls-cli --logfile="$said" -p "$port" --x509cafile "$ca" --verify-hostname localhost \
        --sni-hostname localhost 127.0.0.1 <&4 >"$out/got"
    head -c $less "$out/pattern" | cmp "$out/got" -
}
big_python() { ssl_client --bytes $big --last peer && has "$big bytes right"; }
big_asyncio() { asyncio_client --bytes $big --last peer && has "$big bytes right"; }

ours $(named server) --bytes $big
check "s_client: 100 MiB each way at once" big_s_client
check "Python's ssl: 100 MiB each way at once" big_python
check "asyncio: 100 MiB each way at once" big_asyncio
end_all
ours $(named server) --bytes $less --drain no # gnutls-cli does not read while it cannot write
check "gnutls-cli: 4 MiB each way at once" big_gnutls_cli
end_all
ours $(named server) --speak http
check "curl: 100 MiB each way at once" big_curl
end_all

# ---- our server: two certificates ----

which_s_client() { s_client </dev/null && has "subject=CN = $cn" && told "name=$host"; }
which_curl() { curl_to -H 'Connection: close' && has "subject: CN=$cn" && told "name=$host"; }
which_gnutls_cli() { gnutls_cli </dev/null && has "subject .CN=$cn" && told "name=$host"; }
which_python() { ssl_client --bytes 1000 && has "peer=$cn" && told "name=$host"; }

ours $(named server) --sni second.example.net --sni-cert "$certs/second.pem" --sni-key "$certs/second.key"
for pair in localhost=server www.example.org=server second.example.net=second; do
    host=${pair%=*}
    cn=${pair#*=}
    check "s_client: $host gets its certificate" which_s_client
    check "gnutls-cli: $host gets its certificate" which_gnutls_cli
    check "Python's ssl: $host gets its certificate" which_python
done
end_all
ours $(named server) --sni second.example.net --sni-cert "$certs/second.pem" --sni-key "$certs/second.key" --speak http
for pair in localhost=server second.example.net=second; do
    host=${pair%=*}
    cn=${pair#*=}
    check "curl: $host gets its certificate" which_curl
done
end_all
host=localhost

# ---- our server: clients' certificates ----

# Only with TLS 1.2 a client hears within the handshake that it is refused; so it is our server that is asked.
with_s_client() { printf 'hello\n' | s_client -tls1_"$n" -ign_eof "$@" && has '^hello'; }
with_curl() { curl_to --tlsv"$v" --tls-max "$v" "$@" && has '^hello'; }
with_gnutls_cli() {
    input 'hello
'
    gnutls_cli --priority "$(only "$v")" "$@" <&4 && has '^hello'
}
with_python() { ssl_client --version "$v" --bytes 6 "$@" && has '6 bytes right'; }

accepted() { who=$1; shift; "$who" "$@" && told "connected TLSv$v .*peer=CN=client"; }
refused() { who=$1; message=$2; shift 2; fails "$who" "$@" && told "failed ESSL_CERT_VERIFY: .*$message"; }

# each WHO CERT KEY: the three checks with a program that names its certificate so.
each() {
    case $1 in with_python) whose="Python's ssl" ;; with_gnutls_cli) whose=gnutls-cli ;; *) whose=${1#with_} ;; esac
    check "TLS $v, $whose: a client's certificate is accepted" accepted "$1" "$2" "$certs/client.pem" "$3" \
        "$certs/client.key"
    check "TLS $v, $whose: none is refused" refused "$1" "there is none"
    check "TLS $v, $whose: a stranger's is refused" refused "$1" "no authority that is trusted" "$2" \
        "$certs/stranger.pem" "$3" "$certs/stranger.key"
}
for v in $versions; do
    n=${v#1.}
    ours $(named server) --ca "$ca" --verify required --upgrade yes --max "$v" --bytes 6
    each with_s_client -cert -key
    each with_gnutls_cli --x509certfile --x509keyfile
    each with_python --cert --key
    end_all
    ours $(named server) --ca "$ca" --verify required --upgrade yes --max "$v" --speak http
    each with_curl --cert --key
    end_all
done

# ---- our server: what the two do not agree on ----

no_version() { fails "$@" && told 'failed ESSL_HANDSHAKE: .*no version of TLS in common'; }
no_alpn() { fails "$@" && told 'failed ESSL_HANDSHAKE: .*(ALPN)'; }
old() { [ "$1" = 1.0 ] && echo 1 || echo "1_${1#1.}"; } # OpenSSL's way to say a version
weak='DEFAULT:@SECLEVEL=0'

ours $(named server) --upgrade yes --alpn h2
for v in 1.0 1.1; do
    check "TLS $v, s_client: refused" no_version s_client -tls"$(old $v)" -cipher "$weak"
    check "TLS $v, curl: refused" no_version curl_to --tlsv$v --tls-max $v --ciphers "$weak"
    check "TLS $v, gnutls-cli: refused" no_version gnutls_cli --priority "$(only $v)"
    check "TLS $v, Python's ssl: refused" no_version ssl_client --version $v
done
check "s_client: an unknown ALPN is refused" no_alpn s_client -alpn other
check "gnutls-cli: an unknown ALPN is refused" no_alpn gnutls_cli --alpn other
check "Python's ssl: an unknown ALPN is refused" no_alpn ssl_client --alpn other
end_all

# The other way round: they refuse us, and our server says why.
alert() { message=$1; shift; fails "$@" && told "failed ESSL_ALERT: .*$message"; }
ours $(named expired) --upgrade yes
check "s_client: it refuses an expired certificate, and we are told" alert 'alert certificate_expired' s_client
check "curl: it refuses an expired certificate, and we are told" alert 'alert certificate_expired' curl_to
check "Python's ssl: it refuses an expired certificate, and we are told" alert 'alert certificate_expired' ssl_client
end_all
ours $(named self) --upgrade yes
check "s_client: it refuses one signed by itself, and we are told" alert 'alert unknown_ca' s_client
check "curl: it refuses one signed by itself, and we are told" alert 'alert unknown_ca' curl_to
check "Python's ssl: it refuses one signed by itself, and we are told" alert 'alert unknown_ca' ssl_client
end_all

# ---- our server: STARTTLS ----

smtplib() { # leaves without a goodbye
    python smtp-client "$port" --ca "$ca" >"$said" 2>&1 && has "connected TLSv" && told 'mail of 10003 lines'
}
smtp_s_client() {
    printf 'EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n' |
        s_client -starttls smtp -ign_eof -crlf -quiet && has 'took 1 lines' && has '221 bye' && told 'mail of 1 lines'
}
smtp_gnutls_cli() {
    input 'QUIT
'
    gnutls_cli --starttls-proto=smtp --crlf <&4 && has '221 bye' && told 'connected TLS'
}
injector() { python smtp-injector "$port" >"$said" 2>&1 && told 'failed E'; }
ours $(named server) --speak smtp
check "smtplib: EHLO, STARTTLS, a mail of 10,000 lines" smtplib
check "s_client -starttls smtp: a mail" smtp_s_client
check "gnutls-cli --starttls-proto=smtp: a dialogue" smtp_gnutls_cli
check "a command in clear behind STARTTLS is not obeyed" injector
end_all

# ---- our client: handshake, ALPN, resumption, goodbye ----

serv_log=$out/s_server.txt
an_s_server() {
    client --alpn h2,other && has "connected TLSv$v .*alpn=h2 .*peer=CN=server" && has closed &&
        in_time "$serv_log" 'ALPN protocols selected: h2' && in_time "$serv_log" 'SSL3 alert read:warning:close notify'
}
s_server_www() {
    client --speak get --connections 3 && same "$(grep -c "^Reused, TLSv$v" "$said")" 2 &&
        same "$(grep -c 'reused=yes' "$said")" 2 &&
        has '2 session cache hits' && same "$(grep -c '^closed' "$said")" 3
}
a_gnutls_serv() {
    client --speak lines --bytes 8000 --alpn h2 && has "connected TLSv$v .*alpn=h2" && has '8000 bytes right' &&
        in_time "$out/gnutls_serv.txt" 'Application protocol: h2' && in_time "$out/gnutls_serv.txt" "Version: TLS$v"
}
again_gnutls_serv() {
    : >"$out/gnutls_serv.txt"
    client --speak lines --bytes 8000 --connections 3 && same "$(grep -c 'reused=yes' "$said")" 2 &&
        same "$(grep -c 'This is a resumed session' "$out/gnutls_serv.txt")" 2
}
a_python_server() {
    client --bytes 100000 --connections 3 --alpn h2,other && same "$(grep -c 'alpn=h2 .*reused=yes' "$said")" 2 &&
        in_time "$out/python.txt" "connected TLSv$v .*alpn=h2 .*reused=yes" &&
        in_time "$out/python.txt" 'close_notify both ways'
}
an_asyncio_server() {
    client --bytes 100000 --connections 3 --alpn h2 && same "$(grep -c 'alpn=h2 .*reused=yes' "$said")" 2 &&
        in_time "$out/python.txt" "connected TLSv$v .*alpn=h2 .*reused=yes"
}
their_goodbye() { client --bytes 100000 --last peer && has '100000 bytes right' && has '^closed'; }
# their ROLE OPTION ...: Python's server.
their() {
    start "$out/python.txt" python3 tools/interop/tls_peer.py "$@" $(named server)
    port=$(port_in "$out/python.txt")
}
for v in $versions; do
    n=${v#1.}
    input ""
    s_server $(named server) -tls1_"$n" -alpn third,h2
    check "TLS $v, s_server: handshake, ALPN, our goodbye" an_s_server
    end_all
    s_server $(named server) -tls1_"$n" -www
    check "TLS $v, s_server: sessions resumed, its goodbye" s_server_www
    end_all
    gnutls_serv --echo --alpn h2 --disable-client-cert --priority "$(only "$v")" \
        --x509certfile "$certs/server.pem" --x509keyfile "$certs/server.key"
    check "TLS $v, gnutls-serv: handshake, ALPN" a_gnutls_serv
    check "TLS $v, gnutls-serv: sessions resumed" again_gnutls_serv
    end_all
    their ssl-server --version "$v" --alpn h2
    check "TLS $v, Python's ssl: handshake, ALPN, sessions resumed, goodbye" a_python_server
    end_all
    their asyncio-server --version "$v" --alpn h2
    check "TLS $v, asyncio: handshake, ALPN, sessions resumed" an_asyncio_server
    end_all
    their ssl-server --version "$v" --bytes 100000
    check "TLS $v, Python's ssl: its goodbye" their_goodbye
    end_all
    their asyncio-server --version "$v" --bytes 100000
    check "TLS $v, asyncio: its goodbye" their_goodbye
    end_all
done

# ---- our client: 100 MiB each way at once ----

big_client() { client --bytes $big "$@" && has "$big bytes right" && has '^closed'; }
big_s_server() { big_client && in_time "$out/s_server.txt" 'close notify' && cmp "$out/got" "$out/pattern"; }
lines_gnutls_serv() { client --speak lines --bytes $less && has "$less bytes right"; }

input ""
quiet() { exec openssl s_server -accept 0 -state -quiet $(named server) 2>"$out/s_server.txt" >"$out/got"; }
theirs "$out/quiet.txt" quiet
cat "$out/pattern" >&4 &
running="$running $!"
check "s_server: 100 MiB each way at once" big_s_server
end_all
their ssl-server
check "Python's ssl: 100 MiB echoed" big_client
end_all
their asyncio-server
check "asyncio: 100 MiB echoed" big_client
end_all
gnutls_serv --echo --quiet --disable-client-cert --x509certfile "$certs/server.pem" --x509keyfile "$certs/server.key"
check "gnutls-serv: 4 MiB, line by line" lines_gnutls_serv
end_all

# ---- our client: two certificates, its own certificate ----

names() {
    client --name second.example.net "$@" && has 'name=second.example.net peer=CN=second' && client &&
        has 'name=localhost peer=CN=server'
}
s_server $(named server) -servername second.example.net -cert2 "$certs/second.pem" -key2 "$certs/second.key"
check "s_server: each name gets its certificate" names
end_all

shown() { file=$1; text=$2; shift 2; client --max "$v" "$@" && has '^closed' && in_time "$file" "$text"; }
# What a server thinks of a certificate is told after the handshake in TLS 1.3, so the client reads; it does not write,
# for that might be answered by a reset, which comes before the alert is read.
rejected() { fails client --max "$v" --speak wait "$@" && has 'failed ESSL_ALERT: .*alert'; }
for v in $versions; do
    n=${v#1.}
    s_server $(named server) -tls1_"$n" -Verify 1 -verify_return_error -CAfile "$ca"
    check "TLS $v, s_server: our certificate is accepted" shown "$serv_log" 'CN = client' $(named client)
    check "TLS $v, s_server: without one we are refused" rejected
    check "TLS $v, s_server: with a stranger's we are refused" rejected $(named stranger)
    end_all
    gnutls_serv --http --require-client-cert --verify-client-cert --x509cafile "$ca" --priority "$(only "$v")" \
        --x509certfile "$certs/server.pem" --x509keyfile "$certs/server.key"
    check "TLS $v, gnutls-serv: our certificate is accepted" shown "$out/gnutls_serv.txt" 'CN=client' \
        --speak get $(named client)
    check "TLS $v, gnutls-serv: without one we are refused" rejected
    check "TLS $v, gnutls-serv: with a stranger's we are refused" rejected $(named stranger)
    end_all
    their ssl-server --version "$v" --ca "$ca"
    check "TLS $v, Python's ssl: our certificate is accepted" shown "$out/python.txt" 'peer=client' \
        --bytes 1000 $(named client)
    check "TLS $v, Python's ssl: without one we are refused" rejected
    check "TLS $v, Python's ssl: with a stranger's we are refused" rejected $(named stranger)
    end_all
done

# ---- our client: whom it refuses ----

# refuses CODE MESSAGE ALERT OPTION ...: the message is ours, the alert what the server has read.
refuses() {
    code=$1 message=$2 alert=$3
    shift 3
    fails client "$@" && has "failed $code: .*$message" && in_time "$serv_log" "$alert"
}
# against CERTIFICATE: with it and its chain.
against() {
    certificate=$1
    shift
    s_server -cert "$certs/$certificate.pem" -key "$certs/$certificate.key" "$@"
}
against server
check "s_server: another host's certificate is refused" refuses ESSL_CERT_VERIFY 'for "example.com": it is for' \
    'read:fatal' --name example.com
check "s_server: an unknown authority's is refused" refuses ESSL_CERT_VERIFY 'for "localhost": .*trust' \
    'read:fatal:unknown CA' --ca "$certs/other.pem"
check "s_server: an address of the certificate is accepted" client --name 127.0.0.1
check "s_server: another address is refused" refuses ESSL_CERT_VERIFY 'for "127.0.0.2": it is for' \
    'read:fatal' --name 127.0.0.2
check "s_server: good, and not on the list of the revoked" client --crl "$certs/crl.pem"
check "s_server: a list of the revoked that is out of date is no help" refuses ESSL_CERT_VERIFY 'localhost' \
    'read:fatal' --crl "$certs/crl.old.pem"
end_all
for pair in "expired=expired" "future=not valid yet" "self=signed by itself" "stranger=trust" "usage=extendedKeyUsage" \
    "chained=trust"; do # the last one's server leaves out what is between it and the authority
    against "${pair%%=*}"
    check "s_server: refused: ${pair%%=*}" refuses ESSL_CERT_VERIFY "for \"localhost\": .*${pair#*=}" 'read:fatal'
    end_all
done
against revoked
check "s_server: revoked, as the list says" refuses ESSL_CERT_VERIFY 'for "localhost": .*revoked' \
    'read:fatal:certificate revoked' --crl "$certs/crl.pem"
check "s_server: revoked, and nobody has a list" client
end_all
against chained -cert_chain "$certs/chain.pem"
check "s_server: a chain of two is accepted" client
end_all
cat "$certs/server.pem" "$certs/other.pem" "$certs/middle.pem" >"$out/disordered.pem"
against chained -cert_chain "$out/disordered.pem"
check "s_server: a chain with others in between is accepted" client
end_all
cat "$certs/middle.pem" "$certs/chained.pem" >"$out/reversed.pem"
fails_to_load() {
    timeout 5 "$tls" server --cert "$out/reversed.pem" --key "$certs/chained.key" >"$said" 2>&1; has 'failed ESSL_KEY'
}
check "a chain of our own in the wrong order is refused as it is loaded" fails_to_load
for v in 1.0 1.1; do # the default suites are none for these versions, so one check has such a one
    against server -tls"$(old $v)" -cipher "$weak"
    check "TLS $v, s_server: refused, with an old suite too" refuses ESSL_HANDSHAKE 'no version of TLS in common' \
        'read:fatal:protocol version' \
        --max 1.2 --ciphers TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA
    check "TLS $v, s_server: refused" refuses ESSL_ALERT 'alert \(protocol_version\|handshake_failure\)' ''
    end_all
    gnutls_serv --http --disable-client-cert --priority "$(only $v)" --x509certfile "$certs/server.pem" \
        --x509keyfile "$certs/server.key"
    check "TLS $v, gnutls-serv: refused" refuses ESSL_ALERT 'alert' ''
    end_all
    their ssl-server --version $v
    check "TLS $v, Python's ssl: refused" refuses ESSL_ALERT 'alert \(protocol_version\|handshake_failure\)' ''
    end_all
done

# ---- our client: STARTTLS ----

mail() { client --speak smtp && has 'connected TLS' && has '^closed'; }
their smtp-server
check "asyncio's SMTP server: EHLO, STARTTLS, a mail" mail
check "asyncio's SMTP server: with another name it is refused" refuses ESSL_CERT_VERIFY 'for "example.com"' \
    '' --speak smtp --name example.com
end_all
exec 4<&-
