"""Writes blocks of every ggml type with what gguf-py makes of them: the oracle of tests/gguf_blocks.rs.

Usage: python blocks.py OUT.bin [BYTES_OF_FLOATS_PER_TYPE [SEED]]     (needs the PyPI packages gguf and numpy)

Records, little endian: u8 direction (0: blocks to floats, 1: floats to blocks), u32 ggml type, u32 number of
blocks, the blocks, the floats as f32. The committed blocks.bin is the output with 4096 bytes and seed 1.
"""

import struct
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

# Where the half-float scales of a block are, so that NaN, infinities, zeros and subnormals can be put there.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.TQ1_0: [52], T.TQ2_0: [64],
    T.F16: [], T.BF16: [], T.F32: [], T.IQ1_M: [], T.MXFP4: [], T.NVFP4: [],
}
SPECIAL = [0x7C00, 0xFC00, 0x7E01, 0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF]


def main():
    out, budget, seed = sys.argv[1], int((sys.argv[2:] or ["4096"])[0]), int((sys.argv[3:] or ["1"])[0])
    rng = np.random.default_rng(seed)
    np.seterr(all="ignore")
    with open(out, "wb") as file:
        for ty, halves in HALVES.items():
            elements, size = GGML_QUANT_SIZES[ty]
            count = max(2, budget // (4 * elements))
            blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
            for number, block in enumerate(blocks):
                for at in halves:
                    # Every fourth block has a special scale, the others one of ordinary size.
                    if number % 4 == 3:
                        half = SPECIAL[rng.integers(len(SPECIAL))]
                    else:
                        half = np.float16(rng.normal() * 0.05).view(np.uint16)
                    block[at : at + 2] = np.frombuffer(struct.pack("<H", half), np.uint8)
            floats = quants.dequantize(blocks, ty).astype(np.float32)
            record(file, 0, ty, count, blocks, floats)
        for ty in [T.Q8_0, T.BF16, T.F16]:
            elements, _ = GGML_QUANT_SIZES[ty]
            count = max(8, budget // (4 * elements))
            scale = np.exp(rng.normal(size=(count, 1)) * 4)
            floats = (rng.normal(size=(count, elements)) * scale).astype(np.float32)
            floats[0] = 0
            floats[1] = np.round(floats[1] / scale[1] * 64) / 2  # exact ties
            record(file, 1, ty, count, quants.quantize(floats, ty), floats)


def record(file, direction, ty, count, blocks, floats):
    file.write(struct.pack("<BII", direction, int(ty), count))
    file.write(np.ascontiguousarray(blocks).tobytes())
    file.write(np.ascontiguousarray(floats, dtype="<f4").tobytes())


main()
