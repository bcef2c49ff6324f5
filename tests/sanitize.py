"""The GPU tests under compute-sanitizer: `python tests/sanitize.py memcheck|racecheck [options] [pytest arguments]`.

Deals the tests for CUDA out to several processes, each under the sanitizer, and prints what it found. Tests in processes of
their own, and those against diffrax, whose kernels are XLA's, are left out. Every array gets an allocation of its own, so that
a step beyond its end is seen. Errors that calls of the driver answer with are not looked at: tests provoke them.

They are run without the sanitizer first, which fills the caches: it ends with a segmentation fault of its own where kernels
are built under it, and a run without builds takes a fraction of the time.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parent
CHOSEN = "cuda and not live and not export and not process"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=("memcheck", "racecheck"))
    parser.add_argument("--processes", type=int, default=6, help="each takes several GB of the GPU's memory")
    parser.add_argument("--limit", type=float, default=3600, help="seconds, after which the tests that are left are given up")
    options, arguments = parser.parse_known_args()
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer is not on the PATH: it comes with the CUDA toolkit, in its bin folder")
        return 1
    plain = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    pytest = [*plain, "-p", "no:xdist"]
    arguments = arguments or [str(TESTS)]
    listed = subprocess.run([*pytest, "--collect-only", "-k", CHOSEN, *arguments], capture_output=True, text=True)
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    if not names:
        print(listed.stdout, listed.stderr, "no test was found", sep="\n")
        return 1
    names.sort(key=lambda name: "threads" in name)  # where one of many threads waits for good, little is lost
    folder = Path(tempfile.mkdtemp(prefix="sanitize_"))
    caches = {
        "JAX_CUBIE_TEST_CACHE": str(folder / "images"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment = {**os.environ, **caches, "PYTHONUNBUFFERED": "1"}
    if subprocess.run([*plain, "-n", str(min(os.cpu_count() or 1, 14)), *names], env=environment).returncode:
        print("a test fails without the sanitizer")
        return 1
    environment["XLA_PYTHON_CLIENT_ALLOCATOR"] = "platform"
    running = []
    for number in range(options.processes):
        share = names[number :: options.processes]
        if share:
            log = str(folder / f"{number}.log")
            sanitizer = ["compute-sanitizer", "--tool", options.tool, "--report-api-errors", "no", "--log-file", log]
            command = [*sanitizer, *pytest, "-vv", "--durations=8", *share]
            output = (folder / f"{number}.txt").open("w")
            running.append(
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
            )
    codes = _wait(running, options.limit)
    unclean = passed = 0
    for number, code in enumerate(codes):
        log, output = ((folder / f"{number}.{kind}").read_text() for kind in ("log", "txt"))
        passed += len(re.findall(r" PASSED ", output))
        summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", log)
        last = (output.strip().splitlines() or ["no output"])[-1]
        print(f"process {number}: code {code}; {last}; {' '.join(summary) or 'no summary'}", flush=True)
        if code or not (summary and all(re.search(r"SUMMARY: 0 (errors|hazards)", line) for line in summary)):
            unclean += 1
            print(log[:1000], *[line for line in output.splitlines() if " FAILED " in line], sep="\n")
    print(f"{options.tool}: {passed} of {len(names)} tests passed, {unclean} of {len(running)} processes not clean; {folder}")
    return unclean


def _wait(running: list[subprocess.Popen], limit: float) -> list[int]:
    """The codes that the processes end with. After `limit` seconds pytest is interrupted, which makes it report."""
    end = time.monotonic() + limit
    while any(process.poll() is None for process in running) and time.monotonic() < end:
        time.sleep(0.5)
    for process in running:
        if process.poll() is None:
            subprocess.run(["pkill", "-INT", "-s", str(process.pid), "-f", f"^{re.escape(sys.executable)}"])
    codes = []
    for process in running:
        try:
            codes.append(process.wait(timeout=30))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(process.wait())
    return codes


if __name__ == "__main__":
    sys.exit(main())
