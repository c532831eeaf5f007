#!/usr/bin/env bash
# Renews requirements/constraints.txt: one lock for Python 3.11 to 3.13. Keeps the present versions
# where they still fit; `--upgrade` and other options go to `uv pip compile`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin="${VENV:-.venv}/bin"
"$bin/python" scripts/repack_detectron2.py --out build/wheels
echo detectron2 | "$bin/uv" pip compile --quiet --universal --python-version 3.11 --no-annotate \
  --custom-compile-command "bash scripts/lock.sh" --find-links build/wheels \
  --output-file requirements/constraints.txt "$@" \
  requirements/requirements.in requirements/dev.in -
