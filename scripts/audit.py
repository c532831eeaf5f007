"""Look up known vulnerabilities of all that is installed in the environment, with pip-audit.

    .venv/bin/python scripts/audit.py

Exit codes:
    0  every package was looked up, and no vulnerability is known
    1  vulnerabilities are known; they are listed, with the versions that mend them
    3  not done: no service of vulnerabilities could be asked, or it does not know some packages.
       This is no success

pip-audit ends with success where a service answers "not found" for everything. Therefore a version
with known vulnerabilities is looked up first: a service that finds none there is not believed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

CLEAN, VULNERABLE, NOT_DONE = 0, 1, 3
SERVICES = ("pypi", "osv")
KNOWN_BAD = "pillow==9.0.0"
# Not from the package index: repacked by this project, and the project itself.
OURS = frozenset({"detectron2", "spil-d2"})
_TOOL = Path(__file__).parents[1] / "build" / "audit"
_SECONDS = 900


def main() -> int:
    """Audit the environment of this interpreter; returns the exit code."""
    if not _install():
        return _not_done("pip-audit could not be installed: no package index is reached")
    service = next((one for one in SERVICES if finds_known(one)), None)
    if service is None:
        return _not_done(
            f"neither of {', '.join(SERVICES)} tells a vulnerability of {KNOWN_BAD}, which has "
            "some: run this where https://pypi.org/pypi/NAME/VERSION/json or https://api.osv.dev "
            "can be reached"
        )
    report = ask(service, "--path", sysconfig.get_paths()["purelib"])
    return _not_done(f"{service} has failed") if report is None else judge(report)


def judge(report: list[dict]) -> int:
    """Print what a report says; returns the exit code.

    Args:
        report: "dependencies" of pip-audit's JSON.
    """
    skipped = [one for one in report if "skip_reason" in one and one["name"] not in OURS]
    bad = [(one, found) for one in report for found in one.get("vulns", [])]
    for one, found in bad:
        mended = ", ".join(found["fix_versions"]) or "no version yet"
        names = " ".join([found["id"], *found.get("aliases", [])])
        print(f"audit: {one['name']} {one['version']}: {names}, mended in {mended}")
    for one in skipped:
        print(f"audit: {one['name']} was not looked up: {one['skip_reason']}")
    if bad:
        return VULNERABLE
    if skipped or not report:
        return _not_done(f"{len(skipped)} of {len(report)} packages were not looked up")
    print(f"audit: no vulnerability is known in {len(report)} packages")
    return CLEAN


def finds_known(service: str) -> bool:
    """Whether a service tells a vulnerability where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(KNOWN_BAD + "\n")
        report = ask(service, "--requirement", str(file), "--no-deps", "--disable-pip")
    return report is not None and any(one.get("vulns") for one in report)


def ask(service: str, *what: str) -> list[dict] | None:
    """What pip-audit reports; None where it fails."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, *what]
    command += ["--format", "json", "--progress-spinner", "off"]
    environment = {**os.environ, "PYTHONPATH": str(_TOOL)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS
        )
        return json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None


def _install() -> bool:
    """Have pip-audit beside the environment, which is to be looked at as it is."""
    if (_TOOL / "pip_audit").is_dir():
        return True
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*command, "--target", str(_TOOL), "pip-audit"]).returncode == 0


def _not_done(reason: str) -> int:
    print(f"audit: NOT DONE: {reason}", file=sys.stderr)
    return NOT_DONE


if __name__ == "__main__":
    sys.exit(main())
