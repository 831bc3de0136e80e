"""Ends `pullback basis` at random moments, and goes on: `python -m tests.cli.kills --count 200`.

Every trial starts a run in a new folder, sends it SIGINT, SIGTERM or SIGKILL at a random moment,
and calls it again. Ctrl-C must give the exit code 130, SIGTERM 143; neither may leave anything
unfinished; and the second run must end with the files of a run that nobody disturbed, bit for bit
but for the seconds that are noted in the summary. Linux only.

Most runs are forks of one process that has imported everything, which takes a second each; one in
`--cold` starts an interpreter of its own, so that signals also come while the program loads.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors import safe_open

ARGS = (
    "basis digits --map decoder --samples 3 --rank 2 --quality draft -t 960 --memory 512KiB --quiet"
).split()  # which has room for one sample, so that each is a unit
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
PROGRAM = "import sys\nsys.path[:0] = {path!r}\nfrom pullback.cli import main\nmain()"


class Run:
    """One call of the command, in a fork of this process or in a fresh interpreter."""

    def __init__(self, folder, cold=False):
        arguments = [*ARGS, "-o", str(folder)]
        self.errors = folder.with_suffix(".err")
        with self.errors.open("wb") as errors:
            if cold:
                program = PROGRAM.format(path=sys.path)
                self.pid = subprocess.Popen(
                    [sys.executable, "-c", program, *arguments], stderr=errors
                ).pid
            else:
                self.pid = os.fork()
                if not self.pid:
                    os.dup2(errors.fileno(), 2)
                    inside(arguments)
        self.code = None

    def ended(self, wait=False):
        """Whether it has ended; its exit code is noted, or minus the signal that killed it."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait_until_it_heeds_signals(self):
        while not self.ended():
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
            # Not SIGHUP, which nohup makes the program ignore.
            if caught >> (signal.SIGTERM - 1) & 1:
                return
            time.sleep(0.001)


def inside(arguments):
    """The command in a forked process, which never returns."""
    from pullback.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    code = 99
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def content(path):
    """What a file of a run holds, without the time that it took."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name).tobytes() for name in sorted(file.keys())}
            return tensors, dict(file.metadata())
    if path.name == "summary.json":
        summary = json.loads(path.read_text())
        for row in summary["timesteps"]:
            del row["seconds"], row["reused"]
        return summary
    return path.read_bytes()


def contents(folder):
    """All files but the receipts, which tell who computed what and when."""
    return {name: content(folder / name) for name in names(folder) if "receipts/" not in name}


def names(folder):
    found = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return [str(path.relative_to(folder)) for path in found]


def trial(folder, truth, sent, moment, cold):
    """One run that is disturbed, and one that goes on from it; what came of it."""
    run = Run(folder, cold)
    run.wait_until_it_heeds_signals()
    time.sleep(moment)
    late = run.ended()
    if not late:
        os.kill(run.pid, sent)
        run.ended(wait=True)
    # One that was done already may end as if nothing had come.
    done = run.code == 0 and (late or contents(folder) == truth)
    assert done or run.code == CODES[sent], (sent, moment, run.code, run.errors.read_text())
    assert "Traceback" not in run.errors.read_text(), run.errors.read_text()
    left = names(folder)
    stray = [path.name for path in folder.rglob(".*")]
    assert sent == signal.SIGKILL or not stray, (sent, moment, stray)
    again = Run(folder)
    again.ended(wait=True)
    assert again.code == 0, again.errors.read_text()
    assert contents(folder) == truth, (sent, moment, left)
    finished = sum(name.startswith("units/unit-") for name in left)
    return "done before" if done else f"exit code {run.code}", finished, bool(stray)


def warm_up():
    """Import before the forks what all of them need, without computing anything."""

    import pullback
    import pullback.cli.execution

    pullback.load("digits")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="trials (default 200)")
    parser.add_argument("--cold", type=int, default=5, help="one in so many in a new interpreter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    warm_up()

    tally = collections.Counter()
    with tempfile.TemporaryDirectory() as root:
        lasts = {}
        for cold in (False, True):
            folder = Path(root) / f"undisturbed{cold:d}"
            run = Run(folder, cold)
            run.wait_until_it_heeds_signals()
            start = time.monotonic()
            run.ended(wait=True)
            assert run.code == 0, run.errors.read_text()
            lasts[cold] = time.monotonic() - start
        truth = contents(folder)
        assert contents(Path(root) / "undisturbed0") == truth
        for number in range(options.count):
            cold = number % options.cold == options.cold - 1
            sent = list(CODES)[number % len(CODES)]
            moment = chance.uniform(0, lasts[cold])
            result, finished, stray = trial(Path(root) / str(number), truth, sent, moment, cold)
            tally[f"{sent.name}: {result}"] += 1
            tally[f"{finished} of 3 units finished"] += 1
            tally["left something unfinished, swept by the next run"] += stray
            if (number + 1) % 20 == 0:
                print(f"{number + 1} trials", file=sys.stderr, flush=True)
    disturbed = sum(times for name, times in tally.items() if "exit code" in name)
    assert 2 * disturbed > options.count, f"only {disturbed} of {options.count} runs were disturbed"
    print(f"{options.count} trials, all went on to the files of an undisturbed run")
    for name, times in sorted(tally.items()):
        print(f"{times:5} {name}")


if __name__ == "__main__":
    main()
