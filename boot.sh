#!/bin/sh
# Run a command of this project in its locked environment, on a machine that has nothing but Python 3.11 or newer:
#     sh boot.sh qsotn demo
# Makes .boot (a virtual environment with uv) and .venv (the locked one) beside this file; changes nothing else, but for
# Debian's python3-venv package where Python cannot make virtual environments without it.
set -eu
cd "$(dirname "$0")"

make_boot() {
    rm -rf .boot
    python3 -m venv .boot && .boot/bin/python -m pip install --quiet --disable-pip-version-check uv
}

install_venv() {
    command -v apt-get >/dev/null || { echo "boot.sh: python3 -m venv does not work; install Python 3.11 with venv" >&2; exit 1; }
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root="sudo"
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
}

if [ ! -x .boot/bin/uv ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "boot.sh: Python 3.11 or newer is needed" >&2; exit 1; }
    python3 -c 'import ensurepip' 2>/dev/null || install_venv
    make_boot
fi
exec .boot/bin/uv run --quiet --locked "$@"
