#!/usr/bin/env python3
"""Times our kernels and ggml's in turns, in processor time of one thread, and prints a table of ratios.

Usage: compare.py FOLDER [--wsic PATH] [--ik PYTHON] [--rounds N] [--shape ROWSxCOLUMNS] [--bits B]
FOLDER is where build-ggml.sh built; PYTHON one with ik-llama-cpp-python and numpy, for ik_llama.cpp's trellis types (its
wheel is built for AVX2). A ratio is ours over theirs within one round; the table has the median ratio of all
rounds, and the best figure of each side, because other programs only ever make a figure worse.
"""
import argparse, json, os, statistics, subprocess, sys

BUILDS = {"native": "ggml native", "avx2": "ggml avx2", "ik": "ik_llama.cpp avx2"}
TYPES = ["iq2_xxs", "iq2_s", "iq3_xxs", "q2_K", "q3_K", "q4_K", "iq4_xs", "q8_0"]


def ours(arguments, isa, operation, batch):
    command = [arguments.wsic, "--quiet", "--threads", "1", "bench", "kernels", "--json", "--isa", isa, "--op", operation]
    command += ["--shape", arguments.shape, "--bits", str(arguments.bits), "--batch", str(batch), "--time", "0.5"]
    rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    cold = operation == "matvec"
    return next(row["gweights_per_s"] for row in rows if row["cold"] == cold)


def theirs(arguments, build, batch, types):
    rows, columns = arguments.shape.split("x")
    numbers = [rows, columns, str(batch), "1" if batch == 1 else "0"]
    command = [f"{arguments.folder}/ggml-peer", *numbers, *types]
    if build == "ik":
        command = [arguments.ik, os.path.join(os.path.dirname(__file__), "ik.py"), *numbers, *types]
    libraries = os.path.join(os.path.abspath(arguments.folder), build, "bin")
    environment = dict(os.environ, LD_LIBRARY_PATH=libraries)
    result = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = [line.split("\t") for line in result.stdout.decode().splitlines()]
    return {name: (float(bits), float(speed)) for name, bits, speed in lines}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--wsic", default="target/release/wsic")
    parser.add_argument("--ik", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", default="4096x14336")
    parser.add_argument("--bits", type=float, default=2.1)
    arguments = parser.parse_args()
    cases = [
        ("matvec, out of cache", "avx512", "native", 1, TYPES),
        ("matvec, out of cache", "avx2", "avx2", 1, ["iq2_xxs", "iq2_s", "iq3_xxs", "q2_K", "q4_K"]),
        ("matmul of 128", "avx512", "native", 128, ["iq2_xxs", "q2_K", "q4_K"]),
        ("matmul of 128", "avx2", "avx2", 128, ["iq2_xxs", "q4_K"]),
    ]
    if arguments.ik:
        kt = ["iq2_kt", "iq3_kt"]
        cases += [
            ("matvec, out of cache", "avx512", "ik", 1, kt),
            ("matvec, out of cache", "avx2", "ik", 1, kt),
            ("matmul of 128", "avx512", "ik", 128, kt),
            ("matmul of 128", "avx2", "ik", 128, kt),
        ]
    print("| operation | ours | Gw/s | peer | bits | Gw/s | ratio, median (range) |\n|---|---|---|---|---|---|---|")
    for name, isa, build, batch, types in cases:
        operation = "matvec" if batch == 1 else "matmul"
        speeds, peers = [], {}
        for _ in range(arguments.rounds):
            speeds.append(ours(arguments, isa, operation, batch))
            for peer, (bits, speed) in theirs(arguments, build, batch, types).items():
                peers.setdefault(peer, (bits, []))[1].append(speed)
        for peer, (bits, figures) in peers.items():
            ratios = sorted(a / b for a, b in zip(speeds, figures))
            print(
                f"| {name} | {isa} | {max(speeds):.2f} | {BUILDS[build]} {peer} | {bits:.3f} | {max(figures):.2f} "
                f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
