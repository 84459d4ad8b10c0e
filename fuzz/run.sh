#!/bin/bash
# Runs every fuzz target for SECONDS with the stable toolchain; exits 1 if one finds something.
#   fuzz/run.sh [SECONDS] [TARGET…]     (10 seconds each, if nothing is said)
# Inputs that were found before are in fuzz/seeds/TARGET; what a run adds stays in fuzz/target and is thrown away with it.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-10}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for path in fuzz_targets/*.rs; do targets+=("$(basename "$path" .rs)"); done
fi

# What `cargo fuzz` passes, as far as stable rustc takes it: coverage by SanitizerCoverage. AddressSanitizer is left out: it
# needs -Z, and no crate of ours but `sandbox` (which is not fuzzed here) has unsafe code.
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage+=" -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
# --target keeps the flags away from build scripts and procedural macros, which do not link the runtime.
RUSTFLAGS="$coverage" cargo build --release --quiet --target "$host" "${targets[@]/#/--bin=}"

failed=0
for target in "${targets[@]}"; do
    scratch="target/corpus/$target"
    findings="artifacts/$target/"
    mkdir -p "$scratch" "$findings" "seeds/$target"
    dictionary=()
    if [ -f "dictionaries/$target.dict" ]; then dictionary=("-dict=dictionaries/$target.dict"); fi
    log="target/$target.log"
    if "target/$host/release/$target" "$scratch" "seeds/$target" -max_total_time="$seconds" -max_len=65536 \
        -timeout=20 -rss_limit_mb=2048 -artifact_prefix="$findings" -print_final_stats=1 -verbosity=1 \
        "${dictionary[@]}" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        echo "fuzz $target: $runs runs in $seconds s, coverage $coverage, nothing found"
    else
        failed=1
        tail -40 "$log"
        echo "fuzz $target: FOUND SOMETHING; repeat it with: fuzz/target/$host/release/$target fuzz/${findings}FILE" >&2
    fi
done
exit "$failed"
