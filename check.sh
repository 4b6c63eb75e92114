#!/bin/sh
# Every check of this project, cheapest first; the tests come last and say the last word. Run it as: sh boot.sh sh check.sh
set -eu
cd -- "$(dirname -- "$0")"

ruff format --check .
ruff check .
mypy
lint-imports
qsotn paper-map | diff docs/paper-map.md - || {
    echo "check.sh: docs/paper-map.md is not what the ladders say; renew it with: qsotn paper-map > docs/paper-map.md" >&2
    exit 1
}
pytest -n 2
