#!/usr/bin/env bash
# Installs i2i-stream on a Jetson with JetPack 6 or 7. A second run changes nothing.
#
#   runtime/jetson/install.sh              environment in the project's .venv, then i2i-doctor
#   runtime/jetson/install.sh --dry-run    prints what it would do
#   sudo runtime/jetson/install.sh --service NAME --input csi://0 --engine day2night.plan
#                [--output mjpeg://@:8080] [--size 1280x720] [--metrics :9100]
#                                          environment in /opt/i2i and the service i2i-stream@NAME
#
# I2I_ROOT names a folder that stands for the root of the board; the tests use it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
root=${I2I_ROOT:-}
dry_run='' service='' input='' engine='' output='mjpeg://@:8080' size=1280x720 metrics=:9100 changes=0
packages=(
  python3-venv python3-gi gir1.2-gst-plugins-base-1.0 v4l-utils python3-libnvinfer
  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
)

fail() { echo "install.sh: $1" >&2; exit "${2:-1}"; }

# Every change goes through here, so that --dry-run shows exactly what would be done.
change() {
  changes=$((changes + 1))
  printf '+ %s\n' "$*"
  [ -n "$dry_run" ] || "$@"
}

change_as_root() {
  if [ "$(id -u)" -eq 0 ]; then change "$@"; else change sudo "$@"; fi
}

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry_run=1; shift; continue ;;
      --service | --input | --engine | --output | --size | --metrics)
        [ $# -ge 2 ] || fail "$1 needs a value" 2
        declare -g "${1#--}=$2"; shift 2 ;;
      -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail "unknown option $1: see install.sh --help" 2 ;;
    esac
  done
  if [ -n "$service" ]; then
    [[ $service =~ ^[a-z0-9][a-z0-9-]*$ ]] || fail "--service $service: use small letters, digits and hyphens" 2
    [ -n "$input" ] && [ -n "$engine" ] || fail "--service needs --input and --engine" 2
    for value in "$input" "$engine" "$output" "$size" "$metrics"; do
      [[ $value != *[[:space:]\"\'\\]* ]] || fail "$value: a setting of a service has no spaces, quotes or backslashes" 2
    done
    [ "$(id -u)" -eq 0 ] || [ -n "$dry_run" ] || fail "--service needs root: run it with sudo"
  fi
}

# Sets `jetpack` to 6 or 7.
find_jetpack() {
  local release="$root/etc/nv_tegra_release" major
  [ -r "$release" ] || fail "this is not a Jetson (it has no /etc/nv_tegra_release): use pip install . on other machines"
  major=$(sed -n '1s/^# R\([0-9]*\) .*/\1/p' "$release")
  case $major in
    36) jetpack=6 ;;
    38 | 39) jetpack=7 ;;
    3[0-5]) fail "Jetson Linux R$major (JetPack 5 or older) has a Python that is too old: flash JetPack 6 or 7 with NVIDIA SDK Manager" ;;
    *) fail "Jetson Linux R${major:-unknown} is not known to this script: JetPack 6 (R36) and 7 (R38, R39) are" ;;
  esac
  echo "JetPack $jetpack (Jetson Linux R$major)"
}

install_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  change_as_root apt-get update
  change_as_root apt-get install -y --no-install-recommends "${missing[@]}"
}

# What an environment is made from; it is made again only if this changes.
digest_of_project() {
  (
    cd "$project"
    find pyproject.toml "$here/constraints-jp$jetpack.txt" trainer/i2i_trainer runtime/i2i_runtime \
      kernels/i2i_kernels export/i2i_export -type f ! -path '*__pycache__*' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64
  )
}

# make_environment FOLDER: sees the system's TensorRT; wheels alone, so that no compiler is needed.
make_environment() {
  local venv=$1 digest
  digest=$(digest_of_project)
  [ "$(cat "$venv/i2i-installed" 2>/dev/null)" != "$digest" ] || return 0
  [ -x "$venv/bin/python" ] || change python3 -m venv --system-site-packages "$venv"
  change "$venv/bin/python" -m pip install --disable-pip-version-check -q -c "$here/constraints-jp$jetpack.txt" \
    "${project}[plan,serve]" cuda-bindings
  change "$venv/bin/python" -m i2i_runtime.opencv
  [ -n "$dry_run" ] || printf '%s\n' "$digest" >"$venv/i2i-installed"
}

# join_groups USER: cameras and the encoder belong to video, the GPU to render.
join_groups() {
  local user=$1 group
  for group in video render; do
    getent group "$group" >/dev/null || continue
    id -nG "$user" 2>/dev/null | tr ' ' '\n' | grep -qx "$group" || change_as_root usermod -aG "$group" "$user"
  done
}

# put_file SOURCE TARGET: copies if the content differs.
put_file() {
  cmp -s "$1" "$2" || change install -D -m 0644 "$1" "$2"
}

write_settings() {
  local settings
  settings=$(mktemp)
  printf '%s\n' "ENGINE=$engine" "INPUT=$input" "OUTPUT=$output" "SIZE=$size" "METRICS=$metrics" 'OPTIONS=' >"$settings"
  if [ -e "$root/etc/i2i/$service.env" ] && ! cmp -s "$settings" "$root/etc/i2i/$service.env"; then
    rm -f "$settings"
    fail "/etc/i2i/$service.env exists with other settings: edit it, then sudo systemctl restart i2i-stream@$service"
  fi
  put_file "$settings" "$root/etc/i2i/$service.env"
  rm -f "$settings"
}

# Two services on one camera would end each other in turns.
refuse_second_service() {
  local other
  for other in "$root"/etc/i2i/*.env; do
    [ -e "$other" ] && [ "$other" != "$root/etc/i2i/$service.env" ] || continue
    ! grep -qxF "INPUT=$input" "$other" || fail "$input is used by the service $(basename "$other" .env): give each service its own camera"
    ! grep -qxF "METRICS=$metrics" "$other" || fail "port $metrics is used by the service $(basename "$other" .env): add --metrics :9101"
    ! grep -qxF "OUTPUT=$output" "$other" || fail "$output is used by the service $(basename "$other" .env): add --output mjpeg://@:8081"
  done
}

install_service() {
  [[ $engine != *.plan && $engine != *.onnx ]] || [ -f "$engine" ] || fail "there is no engine $engine: build it with i2i-export, or give the name of one that ships"
  refuse_second_service
  id i2i >/dev/null 2>&1 || change useradd --system --user-group --home-dir /var/lib/i2i --shell /usr/sbin/nologin i2i
  join_groups i2i
  make_environment "$root/opt/i2i/venv"
  if [ -f "$engine" ]; then
    put_file "$engine" "$root/opt/i2i/engines/$(basename "$engine")"
    [ ! -f "$engine.json" ] || put_file "$engine.json" "$root/opt/i2i/engines/$(basename "$engine").json"
    engine="/opt/i2i/engines/$(basename "$engine")"
  fi
  put_file "$here/i2i-stream@.service" "$root/etc/systemd/system/i2i-stream@.service"
  put_file "$here/99-i2i.rules" "$root/etc/udev/rules.d/99-i2i.rules"
  write_settings
  if [ "$changes" -gt 0 ]; then
    change udevadm control --reload
    change systemctl daemon-reload
    change systemctl enable "i2i-stream@$service"
    change systemctl restart "i2i-stream@$service"
  fi
  echo "service i2i-stream@$service; its log: journalctl -fu i2i-stream@$service"
}

read_options "$@"
find_jetpack
install_packages
if [ -n "$service" ]; then
  install_service
else
  make_environment "$project/.venv"
  join_groups "${SUDO_USER:-$(id -un)}"
  [ -n "$dry_run" ] || "$project/.venv/bin/i2i-doctor" || true
fi
if [ "$changes" -eq 0 ]; then echo "nothing to change"; fi
