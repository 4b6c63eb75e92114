#!/bin/sh
# Run a command of this project, or one of its development tools, without installing anything beside this folder.
#
#     sh boot.sh qsotn demo
#     sh boot.sh sh check.sh
#
# The first call makes `.boot`, a virtual environment that holds only uv; uv then makes `.venv` exactly as `uv.lock`
# says. Needed beforehand: Python 3.11 or later as `python3`, and a way to the Python package index. Debian keeps the
# standard library's `venv` in a package of its own: where it is missing, it is installed with apt-get.
set -eu

UV='uv>=0.9,<1'
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

fail() {
    echo "boot.sh: $1" >&2
    exit 1
}

apt_get() {
    if [ "$(id -u)" -eq 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get "$@" >&2
    else
        sudo DEBIAN_FRONTEND=noninteractive apt-get "$@" >&2
    fi
}

can_make_environments() {
    python3 -c 'import ensurepip, venv' 2>/dev/null
}

install_venv() {
    command -v apt-get >/dev/null 2>&1 || fail "python3 or its venv module is missing; install both and try again"
    apt_get update
    apt_get install --yes --no-install-recommends python3-venv
    can_make_environments || fail "python3 still has no venv module after installing python3-venv"
}

make_boot() {
    can_make_environments || install_venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is older than 3.11"
    # Built beside and renamed at the end, so that an interrupted first call leaves nothing half made. pip is run as a
    # module, and uv as a program of its own, because neither then minds the renaming.
    rm -rf "$root/.boot" "$root/.boot.new"
    python3 -m venv "$root/.boot.new"
    "$root/.boot.new/bin/python" -m pip install --quiet --disable-pip-version-check "$UV" >&2
    mv "$root/.boot.new" "$root/.boot"
}

[ $# -gt 0 ] || fail "say what to run, for example: sh boot.sh qsotn demo"
[ -x "$root/.boot/bin/uv" ] || make_boot

# Without a home folder uv would have no place for its cache.
if [ ! -d "${HOME:-}" ]; then
    UV_CACHE_DIR=${UV_CACHE_DIR:-$root/.boot/cache}
    export UV_CACHE_DIR
fi
unset VIRTUAL_ENV
exec "$root/.boot/bin/uv" run --project "$root" --locked -- "$@"
