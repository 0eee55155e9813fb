#!/bin/sh
# need.sh COMMAND=PACKAGE ...: makes sure that commands (or, with a slash, files) are there. As root on a system with
# apt-get it installs the packages of those that are missing, after saying so; otherwise one line names them.
missing=""
for pair in "$@"; do
    thing=${pair%%=*}
    package=${pair#*=}
    case $thing in
    */*) [ -e "$thing" ] || missing="$missing $package" ;;
    *) command -v "$thing" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing with apt-get:$missing"
    { [ -n "$(ls /var/lib/apt/lists 2>/dev/null | grep -v -e lock -e partial)" ] || apt-get update -q; } >/dev/null 2>&1
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null; } ||
        { echo "could not install:$missing" >&2; exit 1; }
    exit 0
fi
echo "please install:$missing" >&2
exit 1
