#!/usr/bin/env python3
"""Writes standard_tables.h from ../standard-tables.txt; `make_tables.py --check` only compares."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def header(text):
    starts, data = [0], []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        fields = line.split("/")
        data.append(int(fields[0]))
        for field in fields[1:]:
            smallest, listed = field.split(":")
            runs = [tuple(int(part) for part in run.split("*")) for run in listed.split()]
            assert sum(length for _, length in runs) == 256
            data += [int(smallest) & 255, len(runs)]
            for symbol, length in runs:
                data += [symbol, length]
        starts.append(len(data))
    assert len(starts) == 253 and starts[-1] < 65536 and max(data) < 256
    lines = [
        "/* The standard class tables of the WSIC tensor format (spec/FORMAT.md, section 4.3).",
        " * Written by make_tables.py from standard-tables.txt: do not edit.",
        " * Table i is wsic_standard_bytes[wsic_standard_start[i] .. wsic_standard_start[i + 1]]:",
        " * raw bits, then for both parities: smallest index as i8, number of runs, runs (symbol, length). */",
        "static const uint16_t wsic_standard_start[253] = {",
    ]

    def rows(numbers):
        line = "   "
        for number in numbers:
            item = f" {number},"
            if len(line) + len(item) > 118:
                lines.append(line)
                line = "   "
            line += item
        lines.append(line)
        lines.append("};")

    rows(starts)
    lines.append(f"static const uint8_t wsic_standard_bytes[{len(data)}] = {{")
    rows(data)
    return "\n".join(lines) + "\n"


def main():
    with open(os.path.join(HERE, "..", "standard-tables.txt"), encoding="ascii") as file:
        wanted = header(file.read())
    path = os.path.join(HERE, "standard_tables.h")
    if sys.argv[1:] == ["--check"]:
        with open(path, encoding="ascii") as file:
            sys.exit(0 if file.read() == wanted else f"{path} is not what make_tables.py writes")
    with open(path, "w", encoding="ascii") as file:
        file.write(wanted)


if __name__ == "__main__":
    main()
