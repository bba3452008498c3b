#!/usr/bin/env bash
# Runs the image i2i-jetson with what a Jetson's cameras need; all arguments go to i2i-stream.
#
#   runtime/jetson/run.sh --engine day2night --input csi://0 --output mjpeg://@0.0.0.0:8080
#
# IMAGE=NAME takes another image. DRY_RUN=1 prints the command.
set -euo pipefail

# Without NVIDIA's runtime the libraries of the board are silently absent. The volume keeps plans that were built.
command=(docker run --rm --init --runtime=nvidia --network host -v i2i-cache:/home/i2i/.cache)
if [ -S /tmp/argus_socket ]; then
  command+=(-v /tmp/argus_socket:/tmp/argus_socket)
elif [[ " $* " == *" csi://"* ]]; then
  echo "run.sh: the camera daemon does not run: sudo systemctl restart nvargus-daemon" >&2
  exit 1
fi
for group in video render; do
  number=$(getent group "$group" | cut -d: -f3 || true)
  [ -z "$number" ] || command+=(--group-add "$number")
done
for device in /dev/video*; do
  [ ! -c "$device" ] || command+=(--device "$device")
done
command+=("${IMAGE:-i2i-jetson}" "$@")
if [ -n "${DRY_RUN:-}" ]; then
  echo "${command[@]}"
else
  exec "${command[@]}"
fi
