"""Known holes in what is pinned, as pip-audit finds them in PyPI's advisories.

Where the service cannot be asked, or knows none of the packages (a mirror without advisories), the check goes on and
says so; with --required that is a failure too.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def reported(pins: Path) -> tuple[list[dict], str]:
    """pip-audit's report, package by package, and why it has none."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except ValueError:
        return [], (done.stderr.strip().splitlines() or ["nothing"])[-1]


def main() -> int:
    """1 for a hole, or for a package among others that was not audited; with --required also if none was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail where the service cannot be asked")
    arguments = parser.parse_args()
    packages, why = reported(ROOT / "constraints.txt")
    unknown = [package for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print(f"NOT AUDITED: {why or f'the advisory service knows none of the {len(packages)} packages'}")
        return 1 if arguments.required else 0
    for package in unknown:
        print(f"{package['name']}: {package['skip_reason']}")
    holes = [(package, hole) for package in packages for hole in package.get("vulns", ())]
    for package, hole in holes:
        fixed = ", ".join(hole["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {hole['id']}, mended in {fixed}")
    print(f"audited {len(packages) - len(unknown)} packages, {len(unknown)} were not found: {len(holes)} known holes")
    return 1 if holes or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
