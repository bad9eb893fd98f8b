#!/bin/sh
# Runs each fuzz target for SECONDS (default 60). usage: fuzz/run.sh [SECONDS [TARGET...]]
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler. Works with the stable toolchain: coverage
# instrumentation needs no nightly flag, and WSIC_FUZZ_SANITIZER=address adds AddressSanitizer, for which
# RUSTC_BOOTSTRAP=1 is set. Seeds come from spec/vectors; the corpus grows in fuzz/corpus/TARGET, inputs that fail
# are written to fuzz/artifacts/TARGET.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-payload round_trip container}
sanitizer=${WSIC_FUZZ_SANITIZER:-none}
[ "$sanitizer" = none ] || export RUSTC_BOOTSTRAP=1

for target in $targets; do
    mkdir -p "corpus/$target"
    features=
    case $target in
    payload) cp -n ../spec/vectors/valid/*.wsic ../spec/vectors/invalid/*.wsic "corpus/$target/" 2>/dev/null || true ;;
    container)
        cp -n ../spec/vectors/valid/*.gguf ../spec/vectors/invalid/*.gguf "corpus/$target/" 2>/dev/null || true
        features="--features convert"
        ;;
    esac
    # -timeout and -rss_limit_mb end a case that takes more than 5 seconds or 1 GiB; the targets have tighter caps
    # on memory of their own.
    cargo fuzz run --sanitizer "$sanitizer" $features "$target" "corpus/$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=16384 -len_control=0 -print_final_stats=1
done
