#!/bin/sh
# Builds ggml for this machine, and a second time without AVX-512, and the timer ggml-peer.
# Usage: build-ggml.sh FOLDER [JOBS]; afterwards FOLDER/native/bin and FOLDER/avx2/bin have libggml*.so, and
# FOLDER/ggml-peer runs with either in LD_LIBRARY_PATH. The source is that of llama-cpp-python on PyPI, or the llama.cpp
# folder that LLAMA_SOURCE names; LLAMA_BUILD names a native build of it that exists already.
# Needs python3, a C++ compiler and 2 GB; takes about ten minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?folder to build in}
jobs=${2:-2}
mkdir -p "$folder"
cd "$folder"
[ -x venv/bin/cmake ] || { python3 -m venv venv; venv/bin/pip -q install cmake ninja; }
PATH="$PWD/venv/bin:$PATH"
export PATH
source=${LLAMA_SOURCE:-$PWD/source/vendor/llama.cpp}
if [ ! -d "$source" ]; then
    [ -e llama_cpp_python-*.tar.gz ] ||
        venv/bin/pip download -q --no-binary llama-cpp-python --no-deps llama-cpp-python -d .
    mkdir source.part
    tar -xzf llama_cpp_python-*.tar.gz -C source.part --strip-components=1
    mv source.part source
fi
build() {
    name=$1
    shift
    cmake -G Ninja -S "$source" -B "$name" -DCMAKE_BUILD_TYPE=Release -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=ON \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TOOLS=OFF "$@" > "$name.log"
    cmake --build "$name" -j "$jobs" --target ggml-base ggml-cpu ggml >> "$name.log" 2>&1 ||
        { tail -30 "$name.log"; exit 1; }
}
if [ -n "${LLAMA_BUILD:-}" ]; then
    ln -sfn "$LLAMA_BUILD" native
else
    build native -DGGML_NATIVE=ON
fi
build avx2 -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON
c++ -O2 -std=c++17 -I "$source/ggml/include" "$here/ggml.cpp" -o ggml-peer \
    -L native/bin -lggml -lggml-cpu -lggml-base
echo "built: $folder/ggml-peer, $folder/native/bin, $folder/avx2/bin"
