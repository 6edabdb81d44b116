#!/bin/sh
# Resolves requirements/*.txt again: pinned versions with the hashes of every platform's files, no addresses.
# Usage: sh requirements/lock.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."

uv=.cache/lock/bin/uv
test -x "$uv" || {
    "${1:-python3}" -m venv .cache/lock
    .cache/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.9'
}

# One file for Linux and macOS and for every Python that is supported (lowest: the first argument).
compile() {
    "$uv" pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version "$@"
}

compile 3.11 --upgrade --extra postgres --group dev --output-file requirements/development.txt pyproject.toml
# What the image of the sink gets is what the tests ran with, without what only they need.
compile 3.11 --extra postgres --constraint requirements/development.txt --output-file requirements/sink.txt pyproject.toml
compile 3.11 --upgrade --prerelease allow --output-file requirements/peers.txt requirements/peers.in
for version in 1.86.0 1.109.1 2.54.0 3.54.0; do
    echo "openai==$version" | compile 3.10 --upgrade --output-file "requirements/openai-$version.txt" -
done
