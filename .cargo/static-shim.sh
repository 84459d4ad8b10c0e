#!/bin/sh
# cargo calls this as `static-shim.sh rustc ARGS…` for every workspace crate (see config.toml).
case "$*" in
*"--crate-name agentcore_shim "* | *"--crate-name native_agent "*) exec "$@" -C target-feature=+crt-static ;;
*) exec "$@" ;;
esac
