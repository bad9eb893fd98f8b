#!/usr/bin/env python3
"""Reference decoder of the WSIC tensor format, written from spec/FORMAT.md.

The sections follow those of the text, in its order, and comments name them. It needs Python 3.8 and numpy.

    wsic.py vectors DIR                          check all vectors of DIR
    wsic.py decode FILE.gguf TENSOR -o OUT.npy   weights of one tensor, [rows, columns] or [matrices, rows, columns]
    wsic.py verify FILE.gguf                     verify all WSIC tensors of a model
    wsic.py dump FILE.wsic ...                   verdict of each payload; what it decodes to goes to FILE.wsic.decoded
"""
import argparse
import os
import struct
import sys
import time

import numpy as np

# --------------------------------------------------------------------------------------------------------------
# Section 11: errors. Section 10: limits.


class WsicError(Exception):
    """A refusal; `kind` is its class as section 11 names it."""

    def __init__(self, kind, about=""):
        super().__init__(f"{kind}: {about}" if about else kind)
        self.kind = kind


def check(condition, kind, about=""):
    if not condition:
        raise WsicError(kind, about)


class Limits:
    """Section 10, with its defaults."""

    rows = 1 << 24
    columns = 1 << 20
    matrices = 1 << 14
    total = 1 << 25  # (rows + columns) * matrices


# --------------------------------------------------------------------------------------------------------------
# Section 1: notation.


def ceil_div(a, b):
    return -(-a // b)


def u32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def u64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


# --------------------------------------------------------------------------------------------------------------
# Section 3: the payload. (Section 2, GGUF, stands at the end of this file, since it uses all others.)

MAGIC = b"WSIC"


class Payload:
    """Section 3.1: opens the header and all matrices; no tile is read."""

    def __init__(self, data, limits=Limits):
        size = len(data)
        check(size >= 4, "truncated")
        check(data[0:4] == MAGIC, "bad-magic")
        check(size >= 32, "truncated")
        check(data[4] == 1, "unsupported-version")
        check(not any(data[5:8]) and not any(data[28:32]), "unsupported-feature")
        length = u64(data, 8)
        check(length <= size, "truncated")
        check(length >= size, "trailing-bytes")
        self.columns, self.rows, count = u32(data, 16), u32(data, 20), u32(data, 24)
        check(self.columns >= 1 and self.rows >= 1 and count >= 1, "bad-header")
        check(
            self.rows <= limits.rows
            and self.columns <= limits.columns
            and count <= limits.matrices
            and (self.rows + self.columns) * count <= limits.total,
            "limit-exceeded",
        )
        base = 36 + 8 * count
        check(size >= base, "truncated")
        check(crc32c(data[: base - 4]) == u32(data, base - 4), "bad-checksum", "payload header")
        self.matrices = []
        start = 0
        for index in range(count):
            end = u64(data, 32 + 8 * index)
            check(start <= end <= size - base, "bad-directory", f"end of matrix {index}")
            section = data[base + start : base + end]
            self.matrices.append(Matrix(section, self.rows, self.columns))
            start = end
        check(start == size - base, "bad-directory", "bytes after the last matrix")


class Matrix:
    """Section 3.2: the header of one matrix, its side information and its directory."""

    def __init__(self, section, rows, columns):
        self.section, self.rows, self.columns = section, rows, columns
        check(len(section) >= 24, "truncated")
        header_length = u32(section, 0)
        check(header_length <= len(section), "truncated")
        check(header_length >= 28, "bad-header")
        check(crc32c(section[: header_length - 4]) == u32(section, header_length - 4), "bad-checksum", "matrix header")
        self.k, self.trellis, self.s, self.classes = section[4], section[5], section[6] | section[7] << 8, section[8]
        self.column_scales, self.row_scale_kind = section[9], section[10]
        scale_bits, self.extra, side_length = u32(section, 12), u32(section, 16), u32(section, 20)
        check(self.k in (4, 16, 64) and 1 <= self.s <= 256, "bad-header", "K or S")
        check(self.trellis <= 2, "unsupported-feature", "trellis")
        check(self.classes <= 32, "bad-header", "number of classes")
        check(self.column_scales <= 1, "unsupported-feature", "kind of column scales")
        check(self.row_scale_kind <= 2, "unsupported-feature", "kind of row scales")
        check(section[11] == 0, "unsupported-feature", "reserved byte")
        check(31 <= scale_bits >> 23 <= 167, "bad-header", "tensor scale")
        check(self.extra <= 2 * columns, "bad-header", "extra columns")
        check(side_length <= header_length - 28, "bad-header", "length of the side information")
        self.tensor_scale = np.array([scale_bits], np.uint32).view(np.float32)[0]
        self.header_length = header_length
        read_side_information(self, section[24 : 24 + side_length])
        self.read_directory(24 + side_length)

    def read_directory(self, at):
        """Section 3.3."""
        self.rows_per_step = 64 // self.k
        self.rows_per_tile = self.rows_per_step * self.s
        self.tiles = 0 if self.positions == 0 else ceil_div(self.rows, self.rows_per_tile)
        check(self.header_length - 4 - at == 12 * self.tiles, "bad-directory", "length of the directory")
        all_bytes = len(self.section) - self.header_length
        entries = np.frombuffer(self.section, "<u4", 3 * self.tiles, at).reshape(self.tiles, 3)
        self.tile_ends, self.escape_bytes, self.tile_crcs = (entries[:, i].astype(np.int64) for i in range(3))
        self.tile_starts = np.concatenate([[0], self.tile_ends])[: self.tiles]
        steps = ceil_div(np.minimum(self.rows_per_tile, self.rows - np.arange(self.tiles) * self.rows_per_tile),
                         self.rows_per_step)
        raw_per_step = 8 * sum(self.tables[c].raw_bits for c in self.chunk_class)
        least = self.escape_bytes + raw_per_step * steps + 128
        good = (self.tile_ends <= all_bytes) & (self.tile_ends - self.tile_starts >= least)
        check(bool(np.all(good)), "bad-directory", "end of a tile")
        last = int(self.tile_ends[-1]) if self.tiles else 0
        check(last == all_bytes, "bad-directory", "bytes after the last tile")

    def rows_in(self, tile):
        return min(self.rows_per_tile, self.rows - tile * self.rows_per_tile)

    def steps_in(self, tile):
        return ceil_div(self.rows_in(tile), self.rows_per_step)

    def tile_range(self, tile):
        """First and last byte of a tile in the section, escapes included."""
        return self.header_length + int(self.tile_starts[tile]), self.header_length + int(self.tile_ends[tile])


# Section 3.4: checksums.


def make_crc_table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


CRC_TABLE = make_crc_table()
CRC_LIST = CRC_TABLE.tolist()


def crc32c(data):
    if len(data) < 4096:
        crc = 0xFFFFFFFF
        for byte in bytes(data):
            crc = (crc >> 8) ^ CRC_LIST[(crc ^ byte) & 255]
        return crc ^ 0xFFFFFFFF
    # The same for long data, many segments at once. Without the initial value the CRC is linear and ignores zeros in
    # front; the initial value equals an exclusive or on the first four bytes. 32 more rows carry the single bits
    # through as many zero bytes as a segment has: what they become is how the state before a segment enters it.
    steps = 512
    count = ceil_div(len(data), steps)
    padded = np.zeros(count * steps, np.uint8)
    padded[count * steps - len(data) :] = np.frombuffer(data, np.uint8)
    padded[count * steps - len(data) :][:4] ^= 255
    columns = np.zeros((steps, count + 32), np.uint8)
    columns[:, :count] = padded.reshape(count, steps).T
    state = np.zeros(count + 32, np.uint32)
    state[count:] = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for step in range(steps):
        state = (state >> 8) ^ CRC_TABLE[(state & 255) ^ columns[step]]
    through = state[count:].tolist()
    crc = 0
    for segment in state[:count].tolist():
        moved = 0
        for bit in range(32):
            if crc >> bit & 1:
                moved ^= through[bit]
        crc = moved ^ segment
    return crc ^ 0xFFFFFFFF


# --------------------------------------------------------------------------------------------------------------
# Section 4: side information. Section 4.1: the coder.

SIDE = "bad-side-information"


class Tree:
    def __init__(self, bits):
        self.bits = bits
        self.node = [2048] * (1 << bits)


class Number:
    def __init__(self):
        self.length = [2048] * 24
        self.first = [2048] * 24


class SideCoder:
    def __init__(self, data):
        check(len(data) >= 4, SIDE)
        self.data = data
        self.code = int.from_bytes(data[0:4], "big")
        check(self.code != 0xFFFFFFFF, SIDE)
        self.range = 0xFFFFFFFF
        self.position = 4

    def split(self, bound):
        if self.code < bound:
            bit = 0
            self.range = bound
        else:
            bit = 1
            self.range -= bound
            self.code -= bound
        while self.range < 0x1000000:
            check(self.position < len(self.data), SIDE, "out of bytes")
            self.range <<= 8
            self.code = self.code << 8 | self.data[self.position]
            self.position += 1
        return bit

    def adaptive(self, contexts, at):
        p = contexts[at]
        bit = self.split((self.range >> 12) * p)
        contexts[at] = p + ((4096 - p) >> 4) if bit == 0 else p - (p >> 4)
        return bit

    def direct(self, bits):
        value = 0
        for _ in range(bits):
            value = value << 1 | self.split(self.range >> 1)
        return value

    def tree(self, t):
        node = 1
        for _ in range(t.bits):
            node = node << 1 | self.adaptive(t.node, node)
        return node - (1 << t.bits)

    def number(self, n):
        exponent = 0
        while self.adaptive(n.length, exponent) == 1:
            exponent += 1
            check(exponent <= 23, SIDE, "number too long")
        if exponent == 0:
            return 0
        value = 2 | self.adaptive(n.first, exponent)
        value = value << (exponent - 1) | self.direct(exponent - 1)
        return value - 1

    def finish(self):
        check(self.position == len(self.data) and self.code == 0, SIDE, "end")


def signed(u):
    return u >> 1 if u & 1 == 0 else -((u >> 1) + 1)


# Section 4.2: order.


def read_side_information(matrix, data):
    coder = SideCoder(data)
    contexts = TableContexts()
    matrix.tables = [read_table(coder, matrix.trellis, contexts) for _ in range(matrix.classes)]
    entries = []
    if matrix.classes > 0:
        entries = read_columns(coder, matrix)
    else:
        check(matrix.extra == 0, SIDE, "extra columns of a dead matrix")
    matrix.row_scales = None
    if matrix.row_scale_kind > 0:
        matrix.row_scales = read_row_scales(coder, matrix)
    coder.finish()
    arrange(matrix, entries)


# Section 4.3: class tables.


class Table:
    """A single table, with one entry for each slot: 0..256 for parity 0, 256..512 for parity 1."""

    second = None

    def __init__(self, raw_bits, smallest, runs):
        self.raw_bits, self.smallest, self.runs = raw_bits, smallest, runs
        self.frequency = np.zeros(512, np.int32)
        self.rank = np.zeros(512, np.int32)
        self.integer = np.zeros(512, np.int32)  # 2 * k + q, with raw = 0
        for q in range(2):
            symbols = np.repeat([s for s, _ in runs[q]], [n for _, n in runs[q]])
            for symbol in set(symbols.tolist()):
                slots = np.flatnonzero(symbols == symbol)
                self.frequency[256 * q + slots] = len(slots)
                self.rank[256 * q + slots] = np.arange(len(slots))
                self.integer[256 * q + slots] = 2 * ((smallest[q] + symbol) << raw_bits) + q

    def obeys_the_rules(self):
        r = self.raw_bits
        if r > 4 or len(self.runs[0]) + len(self.runs[1]) > 64 or self.frequency.max() > 255:
            return False
        off = offset_of(self.smallest, r)
        for q in range(2):
            for symbol, _ in self.runs[q]:
                largest = 2 * (((self.smallest[q] + symbol + 1) << r) - 1) + q
                if largest + off > (127 if r == 0 else 255):
                    return False
        return True


class PairTable:
    """A pair table: `integer` and `second` are the two integers of each slot, all else is as in a single table."""

    raw_bits = 0

    def __init__(self, smallest, sides, frequencies):
        self.smallest, self.sides, self.frequencies = smallest, sides, frequencies
        self.frequency, self.rank, self.integer, self.second = (np.zeros(512, np.int32) for _ in range(4))
        for q in range(2):
            # A stable sort: pairs of the same frequency stay in rising order of s * n + t.
            order = sorted(range(sides[q] ** 2), key=lambda pair: -frequencies[q][pair])
            slot = 256 * q
            for pair in order:
                slots = slice(slot, slot + frequencies[q][pair])
                self.frequency[slots] = frequencies[q][pair]
                self.rank[slots] = np.arange(frequencies[q][pair])
                self.integer[slots] = 2 * (smallest[q] + pair // sides[q]) + q
                self.second[slots] = 2 * (smallest[q] + pair % sides[q]) + q
                slot += frequencies[q][pair]

    def obeys_the_rules(self):
        off = offset_of(self.smallest, 0)
        for q in range(2):
            largest = 2 * (self.smallest[q] + self.sides[q] - 1) + q
            if sum(f > 0 for f in self.frequencies[q]) > 64 or largest + off > 127:
                return False
        return True


def offset_of(smallest, r):
    """`off` of the rules: what makes every integer of a table unsigned."""
    least = min(2 * (smallest[0] << r), 2 * (smallest[1] << r) + 1)
    return 4 * ceil_div(max(0, -least), 4)


class TableContexts:
    """What the inline tables of a matrix share."""

    def __init__(self):
        self.symbols, self.lengths, self.frequencies = Tree(6), Number(), Number()


def read_table(coder, trellis, contexts):
    identifier = coder.direct(8)
    if identifier == 255:
        return read_inline_table(coder, trellis, contexts.symbols, contexts.lengths)
    if identifier == 254 and trellis == 2:
        return read_inline_pair_table(coder, contexts.frequencies)
    if identifier == 253 and trellis == 2:
        identifier = coder.direct(8)
        check(identifier <= 103, SIDE, "unknown pair table")
        return standard_pair_table(identifier)
    check(identifier <= 251, SIDE, "unknown table")
    return standard_table(identifier)


def read_smallest(coder):
    smallest = coder.direct(8)
    return smallest - 256 if smallest >= 128 else smallest


def read_inline_table(coder, trellis, symbols, lengths):
    r = coder.direct(3)
    smallest, runs = [0, 0], [[], []]
    for q in range(2):
        if trellis == 0 and q == 1:
            smallest[1], runs[1] = smallest[0], runs[0]
            continue
        smallest[q] = read_smallest(coder)
        slots = 0
        while slots < 256:
            symbol = coder.tree(symbols)
            length = coder.number(lengths) + 1
            slots += length
            check(length <= 255 and slots <= 256, "bad-table", "runs")
            runs[q].append((symbol, length))
    table = Table(r, smallest, runs)
    check(table.obeys_the_rules(), "bad-table", "rules")
    return table


def read_inline_pair_table(coder, number):
    smallest, sides, frequencies = [0, 0], [0, 0], [[], []]
    for q in range(2):
        smallest[q] = read_smallest(coder)
        sides[q] = coder.direct(4) + 1
        for _ in range(sides[q] ** 2):
            f = coder.number(number)
            check(f <= 255, "bad-table", "frequency")
            frequencies[q].append(f)
        check(sum(frequencies[q]) == 256, "bad-table", "sum of the frequencies")
    table = PairTable(smallest, sides, frequencies)
    check(table.obeys_the_rules(), "bad-table", "rules")
    return table


class StandardFile:
    """One of the two files of standard tables, read when the first of its tables is asked for."""

    def __init__(self, name, size, crc, parse):
        self.name, self.size, self.crc, self.parse = name, size, crc, parse
        self.lines, self.tables = [], {}

    def table(self, identifier):
        if not self.lines:
            path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", self.name)
            with open(path, "rb") as file:
                text = file.read()
            if len(text) != self.size or crc32c(text) != self.crc:
                raise RuntimeError(f"{path} is not the file that the text describes")
            self.lines.extend(line for line in text.decode("ascii").splitlines() if not line.startswith("#"))
        if identifier not in self.tables:
            self.tables[identifier] = self.parse(self.lines[identifier].split("/"))
        return self.tables[identifier]


def parse_table(fields):
    smallest, runs = [], []
    for field in fields[1:]:
        number, listed = field.split(":")
        smallest.append(int(number))
        runs.append([tuple(int(part) for part in run.split("*")) for run in listed.split()])
    return Table(int(fields[0]), smallest, runs)


def parse_pair_table(fields):
    smallest, sides, frequencies = [], [], []
    for field in fields:
        numbers, listed = field.split(":")
        smallest.append(int(numbers.split()[0]))
        sides.append(int(numbers.split()[1]))
        frequencies.append([int(f) for f in listed.split()])
    return PairTable(smallest, sides, frequencies)


standard_table = StandardFile("standard-tables.txt", 50972, 0x880B44A6, parse_table).table
standard_pair_table = StandardFile("standard-pair-tables.txt", 16483, 0xDE022DAD, parse_pair_table).table


# Section 4.4: columns.


def read_columns(coder, matrix):
    bits = 0
    while 1 << bits < matrix.classes + 1:
        bits += 1
    classes, gaps, scales = Tree(bits), Number(), Number()
    prediction = [2048] * matrix.classes
    entries = []
    place = copies = 0
    for i in range(matrix.columns + matrix.extra):
        if i < matrix.columns:
            place = i
        else:
            gap = coder.number(gaps)
            copies = copies + 1 if i > matrix.columns and gap == 0 else 1
            place = gap if i == matrix.columns else place + gap
            check(place < matrix.columns and copies <= 2, SIDE, "extra column")
        symbol = coder.tree(classes)
        check(symbol <= matrix.classes and (symbol > 0 or i < matrix.columns), SIDE, "class of a column")
        if symbol > 0:
            code, prediction[symbol - 1] = read_scale(
                coder, matrix.column_scales == 1, prediction[symbol - 1], scales)
            entries.append((place, symbol - 1, code))
    return entries


# Section 4.5: scales.

E = np.array([0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], np.int64)


def read_scale(coder, half, p, number):
    """The code of a scale, and what the prediction becomes."""
    if half:
        code = coder.direct(16)
        check(1 <= code >> 10 <= 30, SIDE, "half float")
        return code, p
    code = ((p + 8) >> 4) + signed(coder.number(number))
    check(0 <= code <= 255, SIDE, "scale code")
    return code, p + ((code * 16 - p) >> 2)


def read_row_scales(coder, matrix):
    number, p = Number(), 2048
    half = matrix.row_scale_kind == 2
    codes = []
    for _ in range(matrix.rows):
        code, p = read_scale(coder, half, p, number)
        codes.append(code)
    return scale_values(codes, half, -16)


def scale_values(codes, half, octaves):
    codes = np.array(codes, np.int64)
    if half:
        bits = (codes << 13) + 0x38000000
    else:
        bits = E[codes & 7] + (((codes >> 3) + octaves) << 23)
    return bits.astype(np.uint32).view(np.float32)


# Section 4.6: stream order.


def arrange(matrix, entries):
    n = len(entries)
    matrix.positions = ceil_div(n, matrix.k) * matrix.k
    matrix.padding = matrix.positions - n
    entries = sorted(entries, key=lambda entry: entry[1])  # stable
    counts = np.bincount([c for _, c, _ in entries] or [0], minlength=matrix.classes)[: matrix.classes]
    check(bool(np.all(counts > 0)), SIDE, "class without columns")
    ends = matrix.padding + np.cumsum(counts)
    check(bool(np.all(ends % matrix.k == 0)), SIDE, "class does not end with a chunk")
    matrix.chunk_class = np.searchsorted(ends, np.arange(0, matrix.positions, matrix.k), side="right").tolist()
    matrix.inputs = np.full(matrix.positions, 0xFFFFFFFF, np.uint32)
    matrix.scales = np.zeros(matrix.positions, np.float32)
    matrix.inputs[matrix.padding :] = [place for place, _, _ in entries]
    # Section 6: scale[s]; one binary32 multiplication.
    values = scale_values([code for _, _, code in entries], matrix.column_scales == 1, 0)
    matrix.scales[matrix.padding :] = matrix.tensor_scale * values


# --------------------------------------------------------------------------------------------------------------
# Section 5: tiles. Section 5.2: the trellis, as NEXT[2 * state + (k & 1)] and AFTER_PAIR[2 * state + b].

NEXT = np.array([0, 2, 5, 7, 1, 3, 4, 6, 2, 0, 7, 5, 3, 1, 6, 4], np.int32)
AFTER_PAIR = np.array([(state >> 1) ^ 45 * (state & 1) ^ 17 * b for state in range(64) for b in range(2)], np.int32)


def decode_tiles(matrix, first, count, verify):
    """Integers of `count` tiles of the same number of steps: [count, rows, positions], the tiles side by side.

    Section 5.3 for all of them at once: each row of the arrays here is a tile, each column a lane.
    The refusal is that of the first tile that has one.
    """
    data = np.frombuffer(matrix.section, np.uint8)
    tiles = range(first, first + count)
    ranges = np.array([matrix.tile_range(t) for t in tiles], np.int64).reshape(count, 2)
    starts, ends = ranges[:, 0], ranges[:, 1] - matrix.escape_bytes[first : first + count]
    steps = matrix.steps_in(first)
    raw_bytes = 8 * steps * sum(matrix.tables[c].raw_bits for c in matrix.chunk_class)
    # 5.1: raw planes, high bytes, low bytes, renormalisation bytes
    raw_at = starts.copy()
    lanes = np.arange(64)
    high = data[(starts + raw_bytes)[:, None] + lanes].astype(np.int32)
    low = data[(starts + raw_bytes + 64)[:, None] + lanes].astype(np.int32)
    position = starts + raw_bytes + 128
    x = high << 8 | low
    corrupt = (x < 256).any(axis=1)
    rows_per_step, k = matrix.rows_per_step, matrix.k
    m = np.zeros((count, steps * rows_per_step, matrix.positions), np.int32)
    for chunk, of_class in enumerate(matrix.chunk_class):
        table = matrix.tables[of_class]
        frequency, rank, integer, r = table.frequency, table.rank, table.integer, table.raw_bits
        state = np.zeros_like(x)
        for step in range(0, steps, 1 if table.second is None else 2):
            slot = (x & 255) | ((state & 1) << 8)
            x = frequency[slot] * (x >> 8) + rank[slot]
            small = x < 256
            if small.any():
                order = np.cumsum(small, axis=1)
                at = np.minimum(position[:, None] + order - 1, len(data) - 1)
                x = np.where(small, x << 8 | data[at], x)
                position += order[:, -1]
            value = integer[slot]
            for b in range(r):
                plane = data[(raw_at + 8 * b)[:, None] + (lanes >> 3)].astype(np.int32)
                value = value + ((plane >> (lanes & 7) & 1) << (b + 1))  # k grows by raw, m by twice as much
            raw_at += 8 * r
            for at, value in enumerate([value] if table.second is None else [value, table.second[slot]], step):
                if at < steps:
                    rows = slice(at * rows_per_step, (at + 1) * rows_per_step)
                    m[:, rows, chunk * k : (chunk + 1) * k] = value.reshape(count, rows_per_step, k)
                if matrix.trellis == 1:
                    state = NEXT[2 * state + (value >> 1 & 1)]
                elif matrix.trellis == 2 and at % 2 == 1:
                    state = AFTER_PAIR[2 * state + ((previous ^ value) >> 1 & 1)]
                previous = value
    corrupt |= (x != 256).any(axis=1) | (position != ends)
    m[:, :, : matrix.padding] = 0
    for i, tile in enumerate(tiles):
        start, end = matrix.tile_range(tile)
        if verify:
            expected = int(matrix.tile_crcs[tile])
            check(crc32c(matrix.section[start:end]) == expected, "bad-checksum", f"tile {tile}")
        check(not corrupt[i], "corrupt-tile", f"tile {tile}")
        if end > ends[i]:
            add_escapes(matrix, m[i], steps, matrix.rows_in(tile), matrix.section[int(ends[i]) : end])
    return m


# Section 5.4: escapes.


class EscapeBits:
    def __init__(self, data):
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        self.ones = np.flatnonzero(self.bits)
        self.next_one = 0
        self.at = 0

    def unary(self):
        self.next_one = int(np.searchsorted(self.ones, self.at))
        check(self.next_one < len(self.ones), "bad-escape", "unary number without end")
        one = int(self.ones[self.next_one])
        zeros = one - self.at
        self.at = one + 1
        return zeros

    def read(self, n):
        check(self.at + n <= len(self.bits), "bad-escape", "out of bits")
        value = sum(int(bit) << i for i, bit in enumerate(self.bits[self.at : self.at + n]))
        self.at += n
        return value

    def at_end(self):
        rest = self.bits[self.at :]
        return len(rest) < 8 and not rest.any()


def add_escapes(matrix, m, steps, rows, data):
    g = data[0]
    check(g <= 24, "bad-escape", "parameter")
    bits = EscapeBits(data[1:])
    following = 0
    while True:
        p = following + (bits.unary() << g | bits.read(g))
        following = p + 1
        e = bits.unary()
        check(e <= 22, "bad-escape", "exponent")
        code = 1 << e | bits.read(e)
        lane, step, chunk = p % 64, (p // 64) % steps, p // (64 * steps)
        column = chunk * matrix.k + lane % matrix.k
        row = step * matrix.rows_per_step + lane // matrix.k
        check(matrix.padding <= column < matrix.positions and row < rows, "bad-escape", "place")
        value = int(m[row, column]) + 4 * signed(code)
        check(abs(value) < 1 << 23, "bad-escape", "too large")
        m[row, column] = value
        if bits.at_end():
            return


def integers(matrix, verify=False):
    """Yields (first row, integers [rows, positions]) for all rows of a matrix in order, some tiles at a time."""
    tile = 0
    while tile < matrix.tiles:
        count = max(1, (1 << 23) // (matrix.rows_per_tile * matrix.positions))
        full = matrix.rows // matrix.rows_per_tile  # tiles without the shorter last one
        count = min(count, full - tile) if tile < full else 1
        m = decode_tiles(matrix, tile, count, verify)
        first = tile * matrix.rows_per_tile
        tile += count
        yield first, m.reshape(-1, matrix.positions)[: matrix.rows - first]


# --------------------------------------------------------------------------------------------------------------
# Section 6: reconstruction.


def reconstruct(matrix, first, m):
    """Weights [rows, columns] of the integers [rows, positions] of the rows from `first`."""
    w = np.zeros((len(m), matrix.columns), np.float32)
    inputs = matrix.inputs[matrix.padding :].astype(np.int64)
    products = matrix.scales[matrix.padding :] * m[:, matrix.padding :].astype(np.float32)
    # Positions in rising order: the first part of every input column, then the second parts, then the third.
    part = np.zeros(len(inputs), np.int64)
    seen = {}
    for s, j in enumerate(inputs.tolist()):
        part[s] = seen.get(j, 0)
        seen[j] = part[s] + 1
    for number in range(3):
        chosen = part == number
        if chosen.any():
            w[:, inputs[chosen]] += products[:, chosen]
    if matrix.row_scales is not None:
        w *= matrix.row_scales[first : first + len(m), None]
    return w


def weights(matrix, verify=False):
    """All weights of a matrix: [rows, columns], binary32."""
    result = np.zeros((matrix.rows, matrix.columns), np.float32)
    for first, m in integers(matrix, verify):
        result[first : first + len(m)] = reconstruct(matrix, first, m)
    return result


# --------------------------------------------------------------------------------------------------------------
# Section 2: WSIC in GGUF.

CONTAINER = "bad-container"
SCALAR_TYPES = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
U32, STRING, ARRAY, U64 = 4, 8, 9, 10
# Weights and bytes of a block of ggml's types, for the lengths of the other tensors (a verifier looks for gaps).
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}


class Tensor:
    """One tensor info; `at` is where its data begins in `file`."""

    def __init__(self, file, name, dims, type_id, offset):
        self.file, self.name, self.dims, self.type_id, self.offset = file, name, dims, type_id, offset
        self.at = file.data_start + offset
        self.length = None  # of a WSIC tensor, once it is checked


def plain_length(tensor):
    """Bytes of a tensor of a type with fixed block size, None for other types."""
    if tensor.type_id not in BLOCKS:
        return None
    weights_per_block, block_bytes = BLOCKS[tensor.type_id]
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count // weights_per_block * block_bytes


class GgufFile:
    """One file: metadata as {key: (type, element type or None, value)} and tensors; all strings are bytes."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
        self.data = np.memmap(path, np.uint8, "r") if self.size else np.zeros(0, np.uint8)
        self.position = 0
        check(bytes(self.take(4)) == b"GGUF", CONTAINER, "magic")
        check(self.scalar(U32) in (2, 3), CONTAINER, "version")
        tensors, pairs = self.scalar(U64), self.scalar(U64)
        self.metadata = {}
        for _ in range(pairs):
            key = self.string()
            check(key not in self.metadata, CONTAINER, "key twice")
            self.metadata[key] = self.value(self.scalar(U32))
        infos = []
        for _ in range(tensors):
            name = self.string()
            count = self.scalar(U32)
            check(count <= 4, CONTAINER, "dimensions")
            dims = [self.scalar(U64) for _ in range(count)]
            infos.append((name, dims, self.scalar(U32), self.scalar(U64)))
        check(len({info[0] for info in infos}) == len(infos), CONTAINER, "tensor twice")
        kind, _, self.alignment = self.metadata.get(b"general.alignment", (U32, None, 32))
        check(kind == U32 and self.alignment > 0 and self.alignment & (self.alignment - 1) == 0, CONTAINER, "alignment")
        self.data_start = ceil_div(self.position, self.alignment) * self.alignment
        self.tensors = [Tensor(self, *info) for info in infos]

    def take(self, count):
        check(count <= self.size - self.position, CONTAINER, "the header is cut")
        self.position += count
        return self.data[self.position - count : self.position].data

    def scalar(self, kind):
        form = SCALAR_TYPES[kind]
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self):
        return bytes(self.take(self.scalar(U64)))

    def value(self, kind, depth=0):
        if kind == STRING:
            return kind, None, self.string()
        if kind != ARRAY:
            check(kind in SCALAR_TYPES, CONTAINER, "value type")
            return kind, None, self.scalar(kind)
        check(depth < 8, CONTAINER, "arrays in arrays")
        inner, count = self.scalar(U32), self.scalar(U64)
        if inner == STRING:
            return kind, inner, [self.string() for _ in range(count)]
        if inner == ARRAY:
            return kind, inner, [self.value(ARRAY, depth + 1) for _ in range(count)]
        check(inner in SCALAR_TYPES, CONTAINER, "element type")
        form = np.dtype(SCALAR_TYPES[inner])
        return kind, inner, np.frombuffer(self.take(count * form.itemsize), form).tolist()

    def split_count(self):
        kind, _, count = self.metadata.get(b"split.count", (U32, None, 1))
        check(kind in (0, 2, U32, U64), CONTAINER, "split.count")
        return count

    def integer(self, key):
        """The value of an integer of any type, None if there is none."""
        kind, _, value = self.metadata.get(key, (None, None, None))
        return value if kind in (0, 1, 2, 3, U32, 5, U64, 11) else None


class Model:
    """A model of one or more files; `path` is the first one."""

    def __init__(self, path, type_id=704):
        first = GgufFile(path)
        self.files = [first]
        count = first.split_count()
        for number in range(2, count + 1):
            mark = f"-00001-of-{count:05}.gguf"
            check(path.endswith(mark), CONTAINER, "name of the first file")
            sibling = path[: -len(mark)] + f"-{number:05}-of-{count:05}.gguf"
            check(os.path.exists(sibling), CONTAINER, f"{sibling} is missing")
            self.files.append(GgufFile(sibling))
        names = [t.name for file in self.files for t in file.tensors]
        check(len(set(names)) == len(names), CONTAINER, "tensor in two files")
        for number, file in enumerate(self.files):
            keys = [file.integer(key) for key in (b"split.no", b"split.count", b"split.tensors.count")]
            check(count <= 1 or keys == [number, count, len(names)], CONTAINER, "split.* keys")
        self.wsic = [t for file in self.files for t in file.tensors if t.type_id == type_id]
        self.check_metadata(first.metadata, type_id)

    def check_metadata(self, metadata, type_id):
        """Check 1."""
        if not self.wsic:
            return
        version = metadata.get(b"wsic.version", (None, None, None))
        names = metadata.get(b"wsic.tensor_names", (None, None, None))
        lengths = metadata.get(b"wsic.tensor_bytes", (None, None, None))
        typed = version[0] == U32 and names[:2] == (ARRAY, STRING) and lengths[:2] == (ARRAY, U64)
        check(typed, "metadata-mismatch", "wsic.* keys")
        check(names[2] == [t.name for t in self.wsic], "metadata-mismatch", "wsic.tensor_names")
        check(len(lengths[2]) == len(self.wsic), "metadata-mismatch", "wsic.tensor_bytes")
        check(version[2] == 1, "unsupported-version", "wsic.version")
        if b"wsic.type_id" in metadata:
            check(metadata[b"wsic.type_id"][::2] == (U32, type_id), "unsupported-feature", "wsic.type_id")
        for tensor, length in zip(self.wsic, lengths[2]):
            tensor.listed = length

    def open(self, tensor):
        """Checks 2 to 8 for one WSIC tensor; returns its payload."""
        file = tensor.file
        check(len(tensor.dims) in (2, 3), "shape-mismatch", "number of dimensions")
        check(tensor.offset % file.alignment == 0 and tensor.at <= file.size, CONTAINER, "offset")
        left = file.size - tensor.at
        check(left >= 16, "truncated", "payload")
        head = file.data[tensor.at : tensor.at + 16].tobytes()
        check(head[:4] == MAGIC, "bad-magic")
        length = u64(head, 8)
        check(length <= left, "truncated", "payload")
        check(length == tensor.listed, "metadata-mismatch", "wsic.tensor_bytes")
        for other in file.tensors:
            inside = tensor.offset <= other.offset < tensor.offset + length
            check(other is tensor or not inside, CONTAINER, "overlap")
            reach = plain_length(other)
            over = reach is not None and other.offset < tensor.offset < other.offset + reach
            check(not over, CONTAINER, "overlap from before")
        payload = Payload(file.data[tensor.at : tensor.at + length].tobytes())
        shape = [payload.columns, payload.rows, len(payload.matrices)]
        check((tensor.dims + [1])[:3] == shape, "shape-mismatch", "dimensions")
        tensor.length = length
        return payload

    def check_gaps(self):
        """The last check of a verifier: no gaps, padding of zeros, and no tensor cut off."""
        for file in self.files:
            end = 0
            for tensor in file.tensors:
                if end is not None:
                    check(tensor.offset == ceil_div(end, file.alignment) * file.alignment, CONTAINER, "gap")
                    padding = file.data[file.data_start + end : tensor.at]
                    check(tensor.at <= file.size and not padding.any(), CONTAINER, "padding")
                length = tensor.length
                if length is None:
                    length = plain_length(tensor)
                end = None if length is None else tensor.offset + length  # None: a type that is not known here
                check(end is None or file.data_start + end <= file.size, CONTAINER, "cut off")


# --------------------------------------------------------------------------------------------------------------
# Section 9: conformance. The command line.


def results(matrix, verify):
    """The four lists of the vectors (spec/vectors/README.md) as bytes."""
    decoded, rebuilt = [], []
    for first, m in integers(matrix, verify):
        decoded.append(m.astype("<i4").tobytes())
        rebuilt.append(reconstruct(matrix, first, m).astype("<f4").tobytes())
    if matrix.tiles == 0:
        rebuilt.append(bytes(4 * matrix.rows * matrix.columns))
    return [matrix.inputs.astype("<u4").tobytes(), matrix.scales.astype("<f4").tobytes(), b"".join(decoded),
            b"".join(rebuilt)]


def verdict(path, verify, limits=Limits):
    """('ok' or an error class, {name and matrix: (matrix, results)})."""
    found = {}
    try:
        if path.endswith(".gguf"):
            model = Model(path)
            for tensor in model.wsic:
                payload = model.open(tensor)
                for index, matrix in enumerate(payload.matrices):
                    found[f":{tensor.name.decode()}", index] = matrix, results(matrix, verify)
            if verify:
                model.check_gaps()
        else:
            with open(path, "rb") as file:
                payload = Payload(file.read(), limits)
            for index, matrix in enumerate(payload.matrices):
                found["", index] = matrix, results(matrix, verify)
    except WsicError as error:
        return error.kind, {}
    return "ok", found


def read_table_file(path):
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file][1:]


def vectors(directory):
    expected = {(line[0], int(line[1])): line[2:] for line in read_table_file(os.path.join(directory, "expected.tsv"))}
    passed, problems = 0, []
    for name, decoder, verifier, _ in read_table_file(os.path.join(directory, "manifest.tsv")):
        path = os.path.join(directory, name)
        bad = []
        for level, wanted in (("decoder", decoder), ("verifier", verifier)):
            got, found = verdict(path, level == "verifier")
            if got != wanted:
                bad.append(f"{level} says {got}, not {wanted}")
        if name.startswith("valid/") and got == "ok":
            for (tensor, index), (matrix, lists) in found.items():
                line = [str(matrix.tiles), str(matrix.positions)] + [f"{crc32c(part):08X}" for part in lists]
                if line != expected.pop((name + tensor, index), None):
                    bad.append(f"matrix {index}: {line}")
            path = os.path.splitext(path)[0] + ".expected"
            if name.endswith(".wsic") and os.path.exists(path):
                with open(path, "rb") as file:
                    if file.read() != b"".join(part for _, lists in found.values() for part in lists):
                        bad.append("differs from " + path)
        passed += not bad
        problems += [f"{name}: {problem}" for problem in bad]
    problems += [f"{name} matrix {index}: not decoded" for name, index in expected]
    print("\n".join(problems + [""]) if problems else "", end="")
    failed = len({problem.split(":")[0] for problem in problems})
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def command_decode(arguments):
    model = Model(arguments.file)
    for tensor in model.wsic:
        if tensor.name.decode(errors="replace") == arguments.tensor:
            break
    else:
        raise SystemExit(f"{arguments.file} has no WSIC tensor {arguments.tensor}")
    start = time.process_time()
    payload = model.open(tensor)
    result = np.stack([weights(matrix) for matrix in payload.matrices])
    result = result[0] if len(tensor.dims) == 2 else result
    seconds = time.process_time() - start
    np.save(arguments.output, result)
    print(f"{result.shape} in {seconds:.2f} s of processor time, {result.size / seconds / 1e6:.1f} million weights/s")
    return 0


def command_verify(arguments):
    start = time.process_time()
    count = size = 0
    model = Model(arguments.file)
    for tensor in model.wsic:
        for matrix in model.open(tensor).matrices:
            for _ in integers(matrix, verify=True):
                pass
            count += matrix.rows * matrix.columns
        size += tensor.length
    model.check_gaps()
    seconds = time.process_time() - start
    print(f"{len(model.wsic)} tensors, {count} weights in {size} bytes are good: {seconds:.1f} s of processor time, "
          f"{count / seconds / 1e6:.1f} million weights/s")
    return 0


def command_dump(arguments):
    limits = Limits()
    if arguments.limits:
        limits.rows, limits.columns, limits.matrices, limits.total = map(int, arguments.limits.split(","))
    for path in arguments.files:
        got, found = verdict(path, arguments.verify, limits)
        if got == "ok":
            with open(path + ".decoded", "wb") as file:
                for _, lists in found.values():
                    file.writelines(lists)
        print(f"{path}\t{got}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("vectors")
    command.add_argument("directory")
    command.set_defaults(run=lambda arguments: vectors(arguments.directory))
    command = commands.add_parser("decode")
    command.add_argument("file")
    command.add_argument("tensor")
    command.add_argument("-o", "--output", required=True)
    command.set_defaults(run=command_decode)
    command = commands.add_parser("verify")
    command.add_argument("file")
    command.set_defaults(run=command_verify)
    command = commands.add_parser("dump")
    command.add_argument("files", nargs="+")
    command.add_argument("--verify", action="store_true", help="check the checksum of each tile too")
    command.add_argument("--limits", metavar="ROWS,COLUMNS,MATRICES,TOTAL", help="instead of those of section 10")
    command.set_defaults(run=command_dump)
    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except WsicError as error:
        sys.exit(f"wsic.py: {error}")


if __name__ == "__main__":
    main()
