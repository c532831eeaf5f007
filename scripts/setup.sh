#!/usr/bin/env bash
# Makes the environment of spil_d2 from the package index alone. Run it again at any time: when
# nothing has changed it ends at once, after an interruption it goes on.
#
#   bash scripts/setup.sh            from any folder
#
# Variables:
#   PYTHON      interpreter, 3.11 to 3.13     (default: the first of python3.11, 3.12, 3.13, python3)
#   VENV        the environment               (default: .venv in the project)
#   WHEELS      a folder of wheels to install from instead of the index (machines without a network)
#   KEEP_TORCH  1: keep the torch and torchvision that VENV has (your own CUDA build); remembered
#   NO_UV       1: install with pip, not with uv
set -euo pipefail

caller="$PWD"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$2/$1" ;; esac; }
say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

venv="$(absolute "${VENV:-.venv}" "$root")"
wheels="${WHEELS:+$(absolute "$WHEELS" "$caller")}"
python="$venv/bin/python"
stamp="$venv/.spil_d2_setup"
ours="0.6+sal.0.7.2"

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

hash_of_inputs() {
  { cat requirements/* scripts/setup.sh scripts/repack_detectron2.py setup.py pyproject.toml
    echo "$root"; } | sha256sum | cut -d ' ' -f 1
}

make_venv() {
  local base="${PYTHON:-}" candidate
  for candidate in python3.11 python3.12 python3.13 python3; do
    [ -n "$base" ] && break
    if supported "$candidate"; then base="$candidate"; fi
  done
  [ -n "$base" ] || fail "no Python 3.11 to 3.13 found; install one or name it: make setup PYTHON=/path/to/python3.11"
  supported "$base" || fail "PYTHON=$base is not a Python 3.11 to 3.13 that runs"
  say "making $venv with $("$base" --version)"
  "$base" -m venv "$venv" || fail "could not make the environment (on Debian and Ubuntu: apt install python3-venv)"
}

# Sets the array `install`, the command that installs packages, and `check`.
choose_installer() {
  local uv=""
  if [ "${NO_UV:-0}" != 1 ]; then
    uv="$(command -v uv || true)"
    [ -x "$venv/bin/uv" ] && uv="$venv/bin/uv"
    if [ -z "$uv" ] && [ -z "$wheels" ]; then
      say "fetching uv, a fast installer"
      if "$python" -m pip install --quiet --disable-pip-version-check uv; then uv="$venv/bin/uv"; fi
    fi
  fi
  if [ -n "$uv" ]; then
    say "installing with uv: up to 3 minutes and 5 GB, most of it torch"
    # Without compiled bytecode every one of the worker processes would compile torch for itself.
    install=("$uv" pip install --quiet --compile-bytecode --python "$python")
    check=("$uv" pip check --quiet --python "$python")
  else
    say "installing with pip (uv is not available or not wanted): up to 6 minutes and 5 GB, most of it torch"
    install=("$python" -m pip install --quiet --disable-pip-version-check)
    check=("$python" -m pip --disable-pip-version-check check)
  fi
  if [ -n "$wheels" ]; then install+=(--no-index --find-links "$wheels"); fi
}

version_of() {
  "$python" -c 'import sys, importlib.metadata as m
try: print(m.version(sys.argv[1]))
except m.PackageNotFoundError: pass' "$1"
}

# Prints the detectron2 wheel to install; nothing if the environment has an official build.
detectron2_wheel() {
  local present
  present="$(version_of detectron2)"
  if [ -n "$present" ] && [ "$present" != "$ours" ]; then
    say "keeping detectron2 $present, which is there already" >&2
  elif [ -n "$wheels" ] && [ -f "$wheels/detectron2-$ours-py3-none-any.whl" ]; then
    echo "$wheels/detectron2-$ours-py3-none-any.whl"
  else
    "$python" scripts/repack_detectron2.py --out build/wheels | tail -n 1
  fi
}

install_everything() {
  local wheel
  cp requirements/*.in requirements/constraints.txt "$lists"
  if [ "${KEEP_TORCH:-0}" = 1 ]; then
    [ -n "$(version_of torch)" ] && [ -n "$(version_of torchvision)" ] ||
      fail "KEEP_TORCH=1, but $venv has no torch and torchvision: install them there first"
    say "keeping torch $(version_of torch) and torchvision $(version_of torchvision)"
    local file
    for file in "$lists"/*; do
      grep -vE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)([=<>~ ]|$)' "$file" > "$file.kept"
      mv "$file.kept" "$file"
    done
    printf '%s==%s\n' torch "$(version_of torch)" torchvision "$(version_of torchvision)" >> "$lists/constraints.txt"
  fi
  wheel="$(detectron2_wheel)"
  # $wheel is empty where detectron2 is kept.
  "${install[@]}" -c "$lists/constraints.txt" -r "$lists/requirements.in" -r "$lists/dev.in" ${wheel:+"$wheel"} ||
    fail "the installation failed; the message above names the package. INSTALL.md has a section on it"
  "${install[@]}" --no-deps --no-build-isolation -e . || fail "could not install spil_d2 itself"
  "${check[@]}" || fail "packages do not fit together (above); remove $venv and run this again"
}

# The stamp: the hash of what was installed from, and whether torch was the user's own.
key="$(hash_of_inputs)"
known="$(sed -n 1p "$stamp" 2>/dev/null || true)"
KEEP_TORCH="${KEEP_TORCH:-$(sed -n 2p "$stamp" 2>/dev/null || true)}"
if [ -x "$python" ] && [ "$known" = "$key" ]; then
  exit 0
fi
seconds=$SECONDS
if [ ! -x "$python" ]; then make_venv; fi
supported "$python" || fail "$venv has $("$python" --version 2>&1), 3.11 to 3.13 is needed; remove it or set VENV"
lists="$(mktemp -d)"
trap 'rm -rf "$lists"' EXIT
choose_installer
install_everything
say "trying it out (the first time matplotlib lists the fonts: up to half a minute)"
"$python" scripts/smoke_check.py
printf '%s\n' "$key" "${KEEP_TORCH:-0}" > "$stamp"
say "ready after $((SECONDS - seconds)) s: $python"
