#!/usr/bin/env python3
"""Times ik_llama.cpp's CPU matrix products on one thread, in processor time of that thread, through PyPI's
ik-llama-cpp-python: ctypes on its libggml, a graph of one product for each copy of the matrix.

Usage: ik.py ROWS COLUMNS BATCH COLD [TYPE...], with a Python that has ik-llama-cpp-python and numpy; prints one line for
each type: name, bits, 10^9 weights/s, as ggml-peer does. With COLD 1 copies of the matrix take turns so that no cache
holds them.
"""
import ctypes, glob, os, sys, time

import numpy

DRAWN = 16  # rows that are quantized; the others repeat them
COLD_BYTES = 384 << 20


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def library():
    import importlib.util

    folder = os.path.dirname(importlib.util.find_spec("ik_llama_cpp").origin)
    ggml = ctypes.CDLL(glob.glob(os.path.join(folder, "lib", "libggml.so"))[0], mode=ctypes.RTLD_GLOBAL)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "ggml_init": (pointer, [InitParams]),
        "ggml_free": (None, [pointer]),
        "ggml_type_name": (ctypes.c_char_p, [ctypes.c_int]),
        "ggml_row_size": (ctypes.c_size_t, [ctypes.c_int, number]),
        "ggml_quantize_chunk": (ctypes.c_size_t, [ctypes.c_int, pointer, pointer, number, number, number, pointer]),
        "ggml_new_tensor_2d": (pointer, [pointer, ctypes.c_int, number, number]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_mul_mat": (pointer, [pointer, pointer, pointer]),
        "ggml_new_graph": (pointer, [pointer]),
        "ggml_build_forward_expand": (None, [pointer, pointer]),
        "ggml_graph_compute_with_ctx": (ctypes.c_int, [pointer, pointer, ctypes.c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(ggml, name)
        function.restype, function.argtypes = result, arguments
    return ggml


def measure(ggml, kind, rows, columns, batch, cold):
    row_bytes = ggml.ggml_row_size(kind, columns)
    noise = numpy.random.default_rng(1)
    source = (0.02 * noise.standard_normal((DRAWN, columns))).astype(numpy.float32)
    importance = numpy.ones(columns, numpy.float32)
    drawn = numpy.zeros(DRAWN * row_bytes, numpy.uint8)
    ggml.ggml_quantize_chunk(
        kind, source.ctypes.data, drawn.ctypes.data, 0, DRAWN, columns, importance.ctypes.data
    )
    data = numpy.resize(drawn, rows * row_bytes)
    copies = COLD_BYTES // data.nbytes + 1 if cold else 1
    room = copies * (data.nbytes + 4 * rows * batch + 4096) + 64 * columns * batch + (64 << 20)
    context = ggml.ggml_init(InitParams(room, None, False))
    x = ggml.ggml_new_tensor_2d(context, 0, columns, batch)
    values = noise.standard_normal(columns * batch).astype(numpy.float32)
    ctypes.memmove(ggml.ggml_get_data(x), values.ctypes.data, values.nbytes)
    graph = ggml.ggml_new_graph(context)
    for _ in range(copies):
        matrix = ggml.ggml_new_tensor_2d(context, kind, columns, rows)
        ctypes.memmove(ggml.ggml_get_data(matrix), data.ctypes.data, data.nbytes)
        ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(context, matrix, x))
    best, spent, rounds = 1e9, 0.0, 0
    # Each computation takes working memory from the context for good.
    while rounds < 3 or (spent < 0.6 and rounds < 12):
        start = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
        ggml.ggml_graph_compute_with_ctx(context, graph, 1)
        taken = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - start
        spent, rounds, best = spent + taken, rounds + 1, min(best, taken / copies)
    ggml.ggml_free(context)
    return 8 * row_bytes / columns, rows * columns * batch / best / 1e9


def main():
    rows, columns, batch, cold = (int(argument) for argument in sys.argv[1:5])
    ggml = library()
    wanted = sys.argv[5:] or ["iq2_kt", "iq3_kt"]
    kinds = {(ggml.ggml_type_name(kind) or b"").decode(): kind for kind in range(400)}
    for name in wanted:
        bits, speed = measure(ggml, kinds[name], rows, columns, batch, cold)
        print(f"{name}\t{bits:.3f}\t{speed:.3f}", flush=True)


if __name__ == "__main__":
    main()
