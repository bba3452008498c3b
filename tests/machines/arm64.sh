#!/usr/bin/env bash
# A selection of the runtime's tests, and five frames through an engine, on an emulated ARM processor (qemu-user).
#
#     tests/machines/arm64.sh                                   the selection, about half an hour with the root made
#     tests/machines/arm64.sh tests/runtime -k "not net"        other tests
#
# Needs root, debootstrap and qemu-user-static; the rest is bare.sh's. Says what works on aarch64 and nothing about speed:
# emulation is some fifty times slower than a board. The last line is its row for machines.jsonl.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binfmt=/proc/sys/fs/binfmt_misc

[ "$(id -u)" -eq 0 ] || { echo "arm64.sh needs root, for chroot: run it with sudo."; exit 2; }
[ -e /usr/bin/qemu-aarch64-static ] || { echo "qemu is not installed: sudo apt install qemu-user-static."; exit 2; }
if [ ! -e "$binfmt/qemu-aarch64" ]; then
  [ -e "$binfmt/register" ] || mount -t binfmt_misc binfmt_misc "$binfmt"
  cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$binfmt/register"
fi

if [ $# -eq 0 ]; then
  set -- tests/runtime/test_opencv.py tests/runtime/test_video_time.py tests/runtime/test_timecode.py \
    tests/runtime/test_stages.py tests/runtime/test_pictures.py tests/runtime/test_pipeline.py
fi
began=$(date +%s)
log=$(mktemp)
# shellcheck disable=SC2016
ARCH=arm64 "$here/bare.sh" bookworm -- sh -ec '
  python3 -m venv .venv
  .venv/bin/python -m pip install -q -e . pytest pytest-timeout hypothesis onnx onnx-ir
  .venv/bin/python -m i2i_runtime.opencv
  .venv/bin/i2i-doctor || true
  .venv/bin/i2i-stream --engine day2night --input test://street --size 128x128 --limit 5 --stall 900 \
    --output five.mp4 --quiet
  .venv/bin/python -c "
import av
with av.open(\"five.mp4\") as clip:
    frames = sum(1 for _ in clip.decode(video=0))
print(\"frames in five.mp4:\", frames)
assert frames == 5"
  OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -p no:cacheprovider -o timeout=1800 -o faulthandler_timeout=2000 "$@"
' sh "$@" 2>&1 | tee "$log"
printf '{"suite": "bookworm-arm64", "tests": "%s", "result": "%s", "seconds": %d, "commit": "%s"}\n' \
  "$*" "$(tail -n 1 "$log")" "$(($(date +%s) - began))" "$(git -C "$here" rev-parse --short HEAD)"
rm "$log"
