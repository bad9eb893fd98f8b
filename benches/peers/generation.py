#!/usr/bin/env python3
"""Times `wsic run` and `llama-bench` in turns and prints tokens per second and the ratios within a round.

Usage: generation.py --bench LLAMA-BENCH [--wsic PATH]... [--ours FILE]... [--int8] [--ik PYTHON] [--ik-peer FILE]... [--rounds N]
    [--threads 1,2] OURS.gguf PEER.gguf...
OURS and further files of ours (--ours) are run by each WSIC given (several compare builds of it), with --int8 OURS again
with `--resident int8`, the peers by LLAMA-BENCH,
whose libraries are expected beside it, and files for ik_llama.cpp (--ik-peer) through PYTHON, which has ik-llama-cpp-python.
A prompt of some 130 tokens, then 48 new ones. Run it on an idle machine.
"""
import argparse, json, os, statistics, subprocess, tempfile

PROMPT = "The quick brown fox jumps over the lazy dog and runs away. " * 10
NEW = "48"


def ours(wsic, model, threads, prompt, form="coded"):
    command = [wsic, "run", model, "-f", prompt, "-n", NEW, "--temp", "0", "--json", "-q", "--threads", threads]
    command += [] if form == "coded" else ["--resident", form]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if result["generated_tokens"] != int(NEW):
        print(f"note: {model} ended after {result['generated_tokens']} tokens")
    return result["prompt_tokens_per_second"], result["tokens_per_second"]


def theirs(bench, model, threads):
    command = [bench, "-m", model, "-t", threads, "-p", "128", "-n", NEW, "-r", "1", "-o", "json"]
    environment = dict(os.environ, LD_LIBRARY_PATH=os.path.dirname(os.path.abspath(bench)))
    output = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    rows = json.loads(output.stdout)
    speed = lambda key: next(row["avg_ts"] for row in rows if row[key] > 0)
    return speed("n_prompt"), speed("n_gen")


def ik(python, model, threads):
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ik_run.py")
    output = subprocess.run([python, program, model, threads, "128", NEW], check=True, stdout=subprocess.PIPE).stdout
    prompt, generation = output.split()
    return float(prompt), float(generation)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--wsic", action="append")
    parser.add_argument("--ours", action="append", default=[])
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--ik")
    parser.add_argument("--ik-peer", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("model", metavar="OURS")
    parser.add_argument("peers", nargs="*")
    arguments = parser.parse_args()
    builds = arguments.wsic or ["target/release/wsic"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
        prompt.write(PROMPT)
        prompt.flush()
        print("| threads | program | model | prompt, tokens/s | generation, tokens/s | first row's over it: prompt | generation |")
        print("|---|---|---|---|---|---|---|")
        for threads in arguments.threads.split(","):
            runs = {}
            for _ in range(arguments.rounds):
                for build in builds:
                    for model in [arguments.model, *arguments.ours]:
                        runs.setdefault((build, model), []).append(ours(build, model, threads, prompt.name))
                    if arguments.int8:
                        speeds = ours(build, arguments.model, threads, prompt.name, "int8")
                        runs.setdefault((build + " --resident int8", arguments.model), []).append(speeds)
                for peer in arguments.peers:
                    runs.setdefault(("llama-bench", peer), []).append(theirs(arguments.bench, peer, threads))
                for peer in arguments.ik_peer:
                    runs.setdefault(("ik_llama.cpp", peer), []).append(ik(arguments.ik, peer, threads))
            first = next(iter(runs.values()))
            for (program, model), speeds in runs.items():
                median = lambda part: statistics.median(speed[part] for speed in speeds)
                cells = [threads, program, os.path.basename(model), f"{median(0):.1f}", f"{median(1):.2f}"]
                for part in 0, 1:
                    ratios = [mine[part] / other[part] for mine, other in zip(first, speeds)]
                    cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
                print("| " + " | ".join(cells) + " |", flush=True)


main()
