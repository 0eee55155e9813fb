#!/bin/sh
# interop.sh: aioloop against other programs, over loopback: interop/plain.sh without TLS, interop/tls.sh with it. PARTS
# chooses of the two, TLS and TLS_LIBS the mbedTLS to build with. Installs what is missing through need.sh. Everything it
# makes is in build/interop. AIOLOOP_BACKEND chooses a back end.
set -u
cd "$(dirname "$0")/.." || exit 1
cc=${CC:-cc}
sh tools/need.sh "${cc%% *}=gcc" /usr/include/stdio.h=libc6-dev curl=curl python3=python3 || exit 1
out=build/interop
passed=0
failed=0
skipped=0
running=
number=0

mkdir -p "$out"

# ---- helpers ----

# build SOURCE FLAG ...: to a program of the same name in $out, unless what is there is newer and of the same flags.
build() {
    program=$out/$(basename "$1" .c)
    source=$1
    shift
    [ "$program" -nt "$source" ] && [ "$program" -nt aioloop.h ] && [ "$(cat "$program.flags")" = "$cc $*" ] && return
    $cc -O2 -g "$source" -o "$program" "$@" && echo "$cc $*" >"$program.flags" || exit 1
}

# Ends what was started here, by its number.
end_all() {
    for pid in $running; do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    running=
}
trap end_all EXIT
trap 'exit 1' INT TERM

# start FILE COMMAND ...: runs it in the background until the end and waits for its first line, which goes to FILE.
start() {
    file=$1
    shift
    : >"$file"
    "$@" >>"$file" 2>"$file.err" &
    started=$!
    running="$running $started"
    tries=0
    until [ -s "$file" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 200 ] || ! kill -0 "$started" 2>/dev/null; then
            echo "$1 did not start" >&2
            cat "$file.err" >&2
            exit 1
        fi
        sleep 0.05
    done
}

port_in() { sed -n '1s/.*[: ]\([0-9][0-9]*\).*/\1/p' "$1"; }

# check WHAT COMMAND ...: one line, and the command's output if it failed.
check() {
    what=$1
    shift
    number=$((number + 1))
    if "$@" >"$out/check.txt" 2>&1; then
        passed=$((passed + 1))
        echo "ok $number - $what"
    else
        failed=$((failed + 1))
        echo "FAIL $number - $what"
        sed 's/^/    /' "$out/check.txt"
    fi
}

skip() { # WHAT: a check that cannot be made here
    skipped=$((skipped + 1))
    echo "skipped - $1"
}

same() { [ "$1" = "$2" ] || { printf 'expected: %s\ngot: %s\n' "$2" "$1"; return 1; }; }

# ---- the parts ----

for part in ${PARTS:-plain tls}; do
    # shellcheck disable=SC1090
    . "tools/interop/$part.sh"
    end_all
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
