#!/bin/sh
# Everything about python/: lint, types, and the tests against the real AWS SDK, in a venv cached by its requirements.
#   python/tests/run.sh [pytest arguments]
# Needs python3 with venv (Debian: python3-venv) and, on the first run, PyPI. $PYTHON picks another interpreter.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${AGENTCORE_CACHE:-/var/tmp/agentcore-cache}
python=${PYTHON:-/usr/bin/python3}
[ -x "$python" ] || python=python3

key=$(cat "$here/requirements.txt" "$here/../../examples/strands_agent/requirements.txt" | sha256sum | cut -c1-12)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=$cache/python-tests-$version-$key

mkdir -p "$cache"
# Two runs may start at once; the first makes the venv, and a half-made one is never seen under its final name.
exec 9>"$venv.lock"
flock 9
if [ ! -e "$venv/ready" ]; then
    echo "python/tests: making $venv" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        -r "$here/requirements.txt" -r "$here/../../examples/strands_agent/requirements.txt"
    touch "$venv/ready"
fi
flock -u 9

cd "$here/.."
# Settings: examples/ruff.toml for the examples, this folder's pyproject.toml for the rest. --force-exclude holds for
# named files too: one example is another's program and must stay as it is.
"$venv/bin/ruff" check --quiet --no-cache --force-exclude . ../examples ../tests/standin
"$venv/bin/ruff" format --quiet --check --no-cache --force-exclude . ../examples ../tests/standin
"$venv/bin/mypy" --cache-dir "$cache/mypy"
exec "$venv/bin/python" -P -m pytest -p no:cacheprovider "$@"
