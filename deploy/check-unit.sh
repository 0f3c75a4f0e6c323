#!/bin/sh
# Has systemd verify the units of this folder, with unknown keys as errors, and prints how exposed the system's one is.
#
#   deploy/check-unit.sh [BATTD]
#
# BATTD is a battd that exists on this machine: verify looks whether what a unit starts is there.
# Exits 0 where there is no systemd-analyze, and says so.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
battd=${1:-$here/../.venv/bin/battd}

if ! command -v systemd-analyze >/dev/null 2>&1; then
    echo "check-unit: NOT VERIFIED: there is no systemd-analyze here" >&2
    exit 0
fi
if ! [ -x "$battd" ]; then
    echo "check-unit: $battd is not a program" >&2
    exit 2
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM HUP
# By a link: a unit's program may not have spaces in its path, a clone may.
ln -s "$(cd "$(dirname "$battd")" && pwd)/$(basename "$battd")" "$folder/battd"
for unit in battd.service battd-user.service; do
    sed "s|^ExecStart=[^ ]*|ExecStart=$folder/battd|" "$here/$unit" >"$folder/$unit"
done

# Whether there are manual pages on this machine says nothing about a unit.
systemd-analyze verify --man=no --recursive-errors=no "$folder/battd.service"
XDG_RUNTIME_DIR=$folder systemd-analyze --user verify --man=no --recursive-errors=no "$folder/battd-user.service"
echo "check-unit: both units pass systemd-analyze verify"
systemd-analyze security --no-pager --offline=true "$folder/battd.service" |
    sed -n 's/.*Overall exposure level for battd.service: \([0-9.]* [A-Z]*\).*/check-unit: battd.service is exposed \1 (of 10)/p'
