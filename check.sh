#!/bin/sh
# Everything that must hold before a change lands, cheapest first. Run it in the project's environment:
#     sh boot.sh sh check.sh
set -eu
cd "$(dirname "$0")"

ruff format --check --quiet .
ruff check --quiet .
mypy --no-error-summary
lint-imports --no-cache >/dev/null || { lint-imports --no-cache; exit 1; }
qsotn paper-map | cmp - docs/paper-map.md || { echo "docs/paper-map.md is stale: qsotn paper-map > docs/paper-map.md" >&2; exit 1; }
exec pytest --quiet --numprocesses 2 "$@"
