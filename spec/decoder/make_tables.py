#!/usr/bin/env python3
"""Writes standard_tables.h from ../standard-tables.txt and ../standard-pair-tables.txt; `make_tables.py --check` only
compares."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def tables(name):
    """The lines of a file of standard tables, cut at the slashes."""
    with open(os.path.join(HERE, "..", name), encoding="ascii") as file:
        return [line.split("/") for line in file.read().splitlines() if not line.startswith("#")]


def single_table(fields):
    data = [int(fields[0])]
    for field in fields[1:]:
        smallest, listed = field.split(":")
        runs = [tuple(int(part) for part in run.split("*")) for run in listed.split()]
        assert sum(length for _, length in runs) == 256
        data += [int(smallest) & 255, len(runs)]
        for symbol, length in runs:
            data += [symbol, length]
    return data


def pair_table(fields):
    data = []
    for field in fields:
        numbers, listed = field.split(":")
        smallest, side = (int(number) for number in numbers.split())
        frequencies = [int(f) for f in listed.split()]
        assert side <= 16 and len(frequencies) == side * side and sum(frequencies) == 256
        data += [smallest & 255, side] + frequencies
    return data


def arrays(name, encoded):
    """Two arrays in C: where each table starts, and the bytes of all."""
    starts, data = [0], []
    for table in encoded:
        data += table
        starts.append(len(data))
    assert starts[-1] < 65536 and max(data) < 256
    lines = []

    def rows(first, numbers):
        lines.append(first)
        line = "   "
        for number in numbers:
            item = f" {number},"
            if len(line) + len(item) > 118:
                lines.append(line)
                line = "   "
            line += item
        lines.append(line)
        lines.append("};")

    rows(f"static const uint16_t {name}_start[{len(starts)}] = {{", starts)
    rows(f"static const uint8_t {name}_bytes[{len(data)}] = {{", data)
    return lines


def header():
    singles, pairs = tables("standard-tables.txt"), tables("standard-pair-tables.txt")
    assert len(singles) == 252 and len(pairs) == 104
    lines = [
        "/* The standard class tables of the WSIC tensor format (spec/FORMAT.md, section 4.3).",
        " * Written by make_tables.py from standard-tables.txt and standard-pair-tables.txt: do not edit.",
        " * Table i is wsic_standard_bytes[wsic_standard_start[i] .. wsic_standard_start[i + 1]]:",
        " * raw bits, then for both parities: smallest index as i8, number of runs, runs (symbol, length).",
        " * Pair tables in the same way: for both parities smallest index as i8, side n, n * n frequencies. */",
    ]
    lines += arrays("wsic_standard", map(single_table, singles))
    lines += arrays("wsic_standard_pair", map(pair_table, pairs))
    return "\n".join(lines) + "\n"


def main():
    wanted = header()
    path = os.path.join(HERE, "standard_tables.h")
    if sys.argv[1:] == ["--check"]:
        with open(path, encoding="ascii") as file:
            sys.exit(0 if file.read() == wanted else f"{path} is not what make_tables.py writes")
    with open(path, "w", encoding="ascii") as file:
        file.write(wanted)


if __name__ == "__main__":
    main()
