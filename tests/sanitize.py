"""The GPU tests under compute-sanitizer: `python tests/sanitize.py memcheck|racecheck [options] [pytest arguments]`.

Deals the tests for CUDA out to several processes, each under the sanitizer, and prints what it found. Tests in processes of
their own, and those against diffrax, whose kernels are XLA's, are left out. Every array gets an allocation of its own, so that
a step beyond its end is seen. Errors that calls of the driver answer with are not looked at: tests provoke them.

They are run without the sanitizer first, which fills the caches: it ends with a segmentation fault of its own where kernels
are built under it, and a run without builds takes a fraction of the time.

Now and then it loses a launch where two threads launch at once, says so, and counts that as an error. Two threads of plain JAX
meet this, too: the tests with threads have a process of their own, and one that met it runs again, up to three times in all.
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
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
CHOSEN = "cuda and not live and not export and not process"
LOST = "Internal Sanitizer Error: Detected a failure to track a kernel launch"
TURNS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=("memcheck", "racecheck"))
    parser.add_argument("--processes", type=int, default=6, help="each takes several GB of the GPU's memory")
    parser.add_argument("--limit", type=float, default=3600, help="seconds of a round, after which the rest is given up")
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
    threads = [name for name in names if "::test_threads[" in name]
    others = [name for name in names if name not in threads]
    shares = [others[number :: options.processes] for number in range(options.processes)] + [threads]
    shares = [share for share in shares if share]
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
    passed = unclean = 0
    for turn in range(TURNS):
        again = []
        for share, clean, lost, count in _run(options.tool, shares, pytest, folder / str(turn), environment, options.limit):
            if lost and turn + 1 < TURNS:
                again.append(share)
            else:
                passed, unclean = passed + count, unclean + (not clean)
        shares = again
        if not shares:
            break
        print(f"{len(shares)} once more: {LOST}", flush=True)
    print(f"{options.tool}: {passed} of {len(names)} tests passed, {unclean} processes not clean; {folder}")
    return unclean


def _run(
    tool: str, shares: list[list[str]], pytest: list[str], folder: Path, environment: dict[str, str], limit: float
) -> Iterator[tuple[list[str], bool, bool, int]]:
    """Of each share: its tests, whether it was clean, whether a lost launch is all that was found, how many tests passed."""
    folder.mkdir()
    running = []
    for number, share in enumerate(shares):
        sanitizer = ["compute-sanitizer", "--tool", tool, "--report-api-errors", "no"]
        sanitizer += ["--log-file", str(folder / f"{number}.log")]
        command = [*sanitizer, *pytest, "-vv", "--durations=8", "-o", "faulthandler_timeout=100", *share]
        with (folder / f"{number}.txt").open("w") as output:
            running.append(
                subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
            )
    for number, (share, code) in enumerate(zip(shares, _wait(running, limit), strict=True)):
        log, output = ((folder / f"{number}.{kind}").read_text() for kind in ("log", "txt"))
        summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", log)
        last = (output.strip().splitlines() or ["no output"])[-1]
        print(f"process {number}: code {code}; {last}; {' '.join(summary) or 'no summary'}", flush=True)
        findings = sum(int(count) for count in re.findall(r"SUMMARY: (\d+) (?:error|hazard)", " ".join(summary)))
        clean = code == 0 and bool(summary) and findings == 0
        if not clean:
            print(log[:1000], *[line for line in output.splitlines() if " FAILED " in line], sep="\n")
        lost = code == 0 and 0 < findings == log.count(LOST)
        yield share, clean, lost, len(re.findall(r" PASSED ", output))


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
