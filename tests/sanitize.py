"""The GPU tests under compute-sanitizer: `python tests/sanitize.py memcheck|racecheck [processes] [pytest arguments]`.

Deals the tests for CUDA out to several processes, each under the sanitizer, and prints what it found. Tests in processes of
their own, and those against diffrax, whose kernels are XLA's, are left out. Every array gets an allocation of its own, so that
a step beyond its end is seen.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
CHOSEN = "cuda and not live and not export and not process"


def main() -> int:
    tool, processes, *arguments = sys.argv[1:] if len(sys.argv) > 2 else [*sys.argv[1:], "8"]
    pytest = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    arguments = arguments or [str(TESTS)]
    listed = subprocess.run([*pytest, "--collect-only", "-k", CHOSEN, *arguments], capture_output=True, text=True, check=True)
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_ALLOCATOR": "platform", "PYTHONUNBUFFERED": "1"}
    folder = Path(tempfile.mkdtemp(prefix="sanitize_"))
    running = []
    for number in range(int(processes)):
        share = names[number :: int(processes)]
        if share:
            output = (folder / f"{number}.txt").open("w")
            command = ["compute-sanitizer", "--tool", tool, "--log-file", str(folder / f"{number}.log"), *pytest, *share]
            running.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment))
    codes = [process.wait() for process in running]
    findings = 0
    for number, code in enumerate(codes):
        log, output = ((folder / f"{number}.{kind}").read_text() for kind in ("log", "txt"))
        last = output.strip().splitlines()[-1]
        summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", log)
        print(f"process {number}: {last}; {' '.join(summary) or 'no summary'}", flush=True)
        clean = summary and all(re.search(r"SUMMARY: 0 (errors|hazards)", line) for line in summary)
        if code or not clean:
            findings += 1
            print(log[:2000], *[line for line in output.splitlines() if line.startswith("FAILED")], sep="\n")
    print(f"{tool}: {len(names)} tests in {len(running)} processes, {findings} of them not clean; {folder}")
    return findings


if __name__ == "__main__":
    sys.exit(main())
