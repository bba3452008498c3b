#!/usr/bin/env bash
# Builds the true PyCUDA from its source on NVIDIA's headers from pip, for the tests on the strict driver.
# build_pycuda.sh PYTHON: into the folder `pycuda_on_headers` of that Python's environment; about two minutes, once.
# It needs a C++ compiler and Python's headers, neither a GPU nor a CUDA toolkit.
set -euo pipefail
# Absolute, because the build changes folders; not resolved, because a link is what makes it that environment's Python.
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
target=$("$python" -c 'import sys; print(sys.prefix)')/pycuda_on_headers
[ -d "$target/pycuda" ] && exit 0
command -v g++ >/dev/null || { echo "there is no g++ to build PyCUDA with"; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
pip() { "$python" -m pip "$1" -q --disable-pip-version-check "${@:2}"; }

pip download --no-deps --no-binary pycuda -d "$scratch" pycuda==2026.1
pip download --no-deps --only-binary :all: -d "$scratch" nvidia-cuda-runtime nvidia-cuda-profiler-api
for wheel in "$scratch"/nvidia*.whl; do "$python" -m zipfile -e "$wheel" "$scratch/headers"; done
mkdir -p "$scratch/toolkit/lib"
mv "$scratch"/headers/nvidia/*/include "$scratch/toolkit/include"
gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$scratch/toolkit/lib/libcuda.so" "$here/driver.c" -ldl -lpthread

tar -xzf "$scratch"/pycuda-*.tar.gz -C "$scratch"
cd "$scratch"/pycuda-*/
# Random numbers need one library more, and an optimised build only takes longer.
"$python" configure.py --cuda-root="$scratch/toolkit" --no-cuda-enable-curand --cxxflags=-O0 >/dev/null
timeout 1800 "$python" -m pip install -q --disable-pip-version-check --target "$scratch/built" .
mv "$scratch/built" "$target"
echo "built PyCUDA in $target"
