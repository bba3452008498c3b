#!/usr/bin/env bash
# The README's commands on a minimal Debian: python3, python3-venv, make and ca-certificates, nothing else.
#
#     tests/machines/bare.sh bookworm demo           make demo on Debian 12 (Python 3.11)
#     tests/machines/bare.sh trixie demo test        make demo and make test on Debian 13 (Python 3.13)
#     tests/machines/bare.sh bookworm -- COMMAND     any command in the fresh checkout
#
# Needs root, debootstrap and, once per suite, minutes. The commands run as an ordinary user without sudo, in a clean copy
# of HEAD. Debian's mirror, pip's configuration and the certificates are those of this machine. The root file systems stay
# in I2I_MACHINES (default: /var/tmp/i2i-machines). The last line of each target is its row for machines.jsonl: seconds,
# processor time, size of its environment, and the load average of the machine while it ran (below 1 if it is quiet).
set -euo pipefail

suite=${1:?which suite: bookworm or trixie}
shift
here=$(cd "$(dirname "$0")/../.." && pwd)
machines=${I2I_MACHINES:-/var/tmp/i2i-machines}
arch=${ARCH:-$(dpkg --print-architecture)} # another one needs an emulator: arm64.sh
pristine=$machines/$suite-$arch
packages=python3,python3-venv,make,ca-certificates

[ "$(id -u)" -eq 0 ] || { echo "bare.sh needs root, for chroot: run it with sudo."; exit 2; }
command -v debootstrap >/dev/null || { echo "debootstrap is not installed: sudo apt install debootstrap."; exit 2; }

# The mirror of this machine's own release; debootstrap takes every suite from it.
# shellcheck disable=SC1091,SC2016
mirror_of_this_machine() {
  . /etc/os-release
  apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' | awk -v r="$VERSION_CODENAME" '$1 == r && $2 == "main" { print $3; exit }'
}

if [ ! -e "$pristine/usr/bin/python3" ]; then
  echo "making a minimal $suite for $arch in $pristine"
  rm -rf "$pristine"
  mkdir -p "$machines"
  debootstrap --arch="$arch" --variant=minbase --include="$packages" "$suite" "$pristine" "$(mirror_of_this_machine)" >"$pristine.log" 2>&1 \
    || { tail -n 5 "$pristine.log"; rm -rf "$pristine"; exit 1; }
fi

root=$(mktemp -d "$pristine.XXXXXX")
mounted=()
leave() {
  for place in "${mounted[@]}"; do umount "$place"; done
  rm -rf --one-file-system "$root"
}
trap leave EXIT
trap 'exit 130' INT TERM
cp -a "$pristine/." "$root"

attach() { # WHAT WHERE [OPTIONS]
  mkdir -p "$root$2"
  mount "${@:3}" "$1" "$root$2"
  mounted=("$root$2" "${mounted[@]}")
}
attach proc /proc -t proc
attach tmpfs /dev/shm -t tmpfs
attach /sys /sys --bind -o ro

# pip as this machine has it: its settings in one file, and the folders and files that they name.
cp /etc/resolv.conf "$root/etc/resolv.conf"
echo "127.0.0.1 localhost" >"$root/etc/hosts" # every system and container has it; debootstrap leaves it out
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
python3 -m pip config list | python3 -c '
import ast, sys
seen = {}
for line in sys.stdin:
    name, _, value = line.strip().partition("=")
    seen.setdefault(name.split(".", 1)[1], ast.literal_eval(value))
print("[global]")
for name, value in seen.items():
    print(f"{name} = " + "\n    ".join(value.split()))
' >"$root/etc/pip.conf"
while read -r path; do
  [ -e "$path" ] && [ ! -e "$root$path" ] || continue
  if [ -d "$path" ]; then
    attach "$path" "$path" --bind -o ro
  else
    mkdir -p "$root$(dirname "$path")"
    cp "$path" "$root$path"
  fi
done < <(grep -oE '(file://)?/[^ ]+' "$root/etc/pip.conf" | grep -v '^//' | sed 's|^file://||; s|/simple$||' | sort -u)

chroot "$root" useradd --create-home user
project=/home/user/i2i-stream
mkdir -p "$root$project"
commit=$(git -C "$here" rev-parse --short HEAD)
git -C "$here" archive "$commit" | tar -x -C "$root$project"
chroot "$root" chown -R user: "$project"

# shellcheck disable=SC2016
inside() {
  chroot --userspec=user:user "$root" env -i HOME=/home/user PATH=/usr/bin:/bin LANG=C.UTF-8 TERM=dumb \
    sh -c 'cd "$0" && exec "$@"' "$project" "$@"
}

if [ "${1:-}" = "--" ]; then
  inside "${@:2}"
  exit
fi
exec 3>&1
TIMEFORMAT="%U %S"
for target in "$@"; do
  began=$(date +%s)
  cpu=$({ time inside make "$target" >&3 2>&3; } 2>&1) # `time` prints user and system seconds
  seconds=$(($(date +%s) - began))
  case $target in demo) environment=.venv-demo ;; *) environment=.venv ;; esac
  printf '{"suite": "%s", "target": "%s", "seconds": %d, "cpu_seconds": %d, "environment_mb": %d, "python": "%s", "load": %s, "commit": "%s"}\n' \
    "$suite-$arch" "$target" "$seconds" "$(awk '{ print int($1 + $2) }' <<<"$cpu")" "$(du -sm "$root$project/$environment" | cut -f1)" \
    "$(inside python3 -c 'import platform; print(platform.python_version())')" \
    "$(cut -d' ' -f1 /proc/loadavg)" "$commit"
done
