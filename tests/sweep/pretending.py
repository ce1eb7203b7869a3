"""Trials that train nothing: real processes with the files, signals and exit codes of a run, in milliseconds.

python pretending.py SWEEP                works on a sweep, as `finetune sweep resume SWEEP` does
python pretending.py trial COMMAND …      is a trial: what the command names is done, in pretence
"""

import json
import signal
import sys
import time
from dataclasses import replace
from math import exp, log10
from pathlib import Path

import yaml

from finetune.errors import Stopped
from finetune.plan.run_folder import RunFolder
from finetune.sweep.processes import Local

STEPS, EVERY, PAUSE = 40, 4, 0.004


class Pretending(Local):
    """Starts trials of this file."""

    def start(self, starts):
        pretence = [sys.executable, __file__, "trial"]
        return super().start([replace(each, command=[*pretence, *each.command]) for each in starts])


def value_of(rate: float, step: int) -> float:
    """A landscape that is known: the best learning rate is 1e-3."""
    return exp(-((log10(rate) + 3) ** 2)) * (1 - exp(-6 * step / STEPS))


def planned(folder, words):
    """In place of planning, which loads the libraries."""
    found = {
        file.stem: {"steps": STEPS, "evaluations": STEPS // EVERY, "score": ["accuracy", True], "duration": None}
        for file in (folder / "points").glob("*.yaml")
    }
    folder.write("planned.json", {"accelerators": 0, "points": found})
    return found


def train(folder: RunFolder, rate: float) -> None:
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    done = max((json.loads(line)["step"] for line in lines), default=0)
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append("SIGTERM"))
    folder.reached("training")
    for step in range(done + EVERY, STEPS + 1, EVERY):
        time.sleep(PAUSE * EVERY)
        if rate > 1:
            raise RuntimeError("CUDA out of memory")
        with metrics.open("a") as stream:
            stream.write(json.dumps({"step": step, "eval_accuracy": value_of(rate, step)}) + "\n")
        if asked:
            raise Stopped("stopped by SIGTERM after step, which is saved")


def finish(folder: RunFolder, rate: float) -> None:
    folder.write("plan.json", {"model": {"trainable": 100}})
    folder.write("evaluation.json", {"scores": {"accuracy": value_of(rate, STEPS)}, "training_seconds": 1.0})
    folder.reached("verified")


def trial(command: list[str]) -> int:
    words = dict(word.partition("=")[::2] for word in command if "=" in word)
    folder, config = RunFolder(Path(words["run_folder"].strip('"'))), yaml.safe_load(Path(words["recipe"]).read_text())
    with folder.locked():
        with (folder / "starts").open("a") as stream:
            stream.write("start\n")
        try:
            rate = config["trainer"]["learning_rate"]
            train(folder, rate)
            finish(folder, rate)
        except Stopped as error:
            folder.failed(error)
            print(f"finetune: {error}", flush=True)
            return 75
        except RuntimeError as error:
            folder.failed(error)
            print(f"finetune: {error}", flush=True)
            return 3
    return 0


def main() -> None:
    if sys.argv[1] == "trial":
        sys.exit(trial(sys.argv[2:]))
    from finetune.sweep import going_on, sweep
    from finetune.sweep.folder import find

    sweep.POLL = 0.02
    folder = find(sys.argv[1])
    with folder.locked():
        sweep.run(going_on.resumed(folder, []), launcher=Pretending())


if __name__ == "__main__":
    main()
