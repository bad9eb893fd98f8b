#!/bin/sh
# Runs each fuzz target for SECONDS (default 60). usage: fuzz/run.sh [SECONDS [TARGET...]]
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`), a C and a C++ compiler. Works with the stable toolchain: coverage
# instrumentation needs no nightly flag, and WSIC_FUZZ_SANITIZER=address adds AddressSanitizer, for which
# RUSTC_BOOTSTRAP=1 is set. WSIC_FUZZ_JOBS=N runs each target in N processes that share a corpus. README.md says what
# the targets check. Seeds come from spec/vectors; the corpus grows in fuzz/corpus/TARGET, inputs that fail are written
# to fuzz/artifacts/TARGET.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-payload round_trip kernels c_abi c_decoder container checkpoint imatrix}
sanitizer=${WSIC_FUZZ_SANITIZER:-none}
[ "$sanitizer" = none ] || export RUSTC_BOOTSTRAP=1
jobs=${WSIC_FUZZ_JOBS:-1}
[ "$jobs" = 1 ] && jobs= || jobs="-fork=$jobs"

# The targets that read files need a feature. One set of features for all targets: what they share is built once.
features=
for target in $targets; do
    case $target in
    container | checkpoint | imatrix) features="--features formats" ;;
    esac
done

# Copies payloads that are not there yet, with as many zeros in front as the target has bytes that steer.
seed_payloads() {
    for path in ../spec/vectors/valid/*.wsic ../spec/vectors/invalid/*.wsic; do
        to="corpus/$1/$(basename "$path")"
        [ -e "$to" ] || { head -c "$2" /dev/zero; cat "$path"; } >"$to"
    done
}

for target in $targets; do
    mkdir -p "corpus/$target"
    case $target in
    payload | c_decoder) seed_payloads "$target" 0 ;;
    kernels | c_abi) seed_payloads "$target" 32 ;;
    container) cp -n ../spec/vectors/valid/*.gguf ../spec/vectors/invalid/*.gguf "corpus/$target/" 2>/dev/null || true ;;
    esac
    # -timeout and -rss_limit_mb end a case that takes more than two minutes or 1 GiB; the targets have tighter caps of
    # their own on memory and on processor time.
    cargo fuzz run --sanitizer "$sanitizer" $features "$target" "corpus/$target" -- $jobs \
        -max_total_time="$seconds" -timeout=120 -rss_limit_mb=1024 -max_len=16384 -len_control=0 -print_final_stats=1
done
