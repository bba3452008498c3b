#!/usr/bin/env bash
# Installs the real peers that the network tests talk to, where this is a Debian machine and we may install.
# Elsewhere those tests skip and say which program they miss.
set -euo pipefail
packages=(
  ffmpeg nginx libnginx-mod-rtmp chromium xvfb xdotool
  python3-gi gir1.2-gst-rtsp-server-1.0
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "network tests will skip what needs: ${missing[*]}"
  exit 0
fi
echo "installing peers for the network tests: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/tmp/i2i-peers.log 2>&1; then
  tail -n 5 /tmp/i2i-peers.log
  echo "the peers could not be installed; the network tests will skip what they miss"
fi
