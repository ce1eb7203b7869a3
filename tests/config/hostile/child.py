"""Feed the corpus to the command line in this one process, under an audit hook, and print what became of each case.

    python child.py FOLDER

FOLDER is empty. Prints one JSON object a case: its kind and name, the exit code, seconds of processor time, what was
run or read that must not be, and whether a secret or a control character was repeated.
"""

import contextlib
import io
import json
import os
import sys
import sysconfig
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus import Case, cases

from finetune import cli
from finetune.config import recipes
from finetune.config.cache import cache_folder

BASE = ("model.path=some/model", "dataset.path=some/data")
INNOCENT = (
    (),
    ("recipe=quickstart",),
    ("adapter=qlora", "name=${seed}", "evaluation=generation"),
    ("seed=x", "trainer.a=1"),
)
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "subprocess.Popen", "socket.",
    "pty.", "ctypes.", "pickle.", "webbrowser.", "urllib.", "http.", "shutil.", "os.remove", "os.rename", "os.mkdir",
    "os.symlink",
)  # fmt: skip
COMPILERS = ("typing.py", "dataclasses.py", "importlib", "pydantic", "functools.py")
"""Where the standard library and pydantic evaluate the types that our own source writes."""


class Watch:
    """What happens while a case is read."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = [str(root.resolve()) for root in roots]
        self.is_on, self.seen = False, []

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.is_on:
            return
        self.is_on = False
        if event.startswith(FORBIDDEN) or (event in ("exec", "compile") and not self._is_a_type()):
            self.seen.append(event)
        elif event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | os.PathLike):
            self._opened(event, os.fsdecode(arguments[0]))
        self.is_on = True

    def _opened(self, event: str, path: str) -> None:
        with contextlib.suppress(ValueError):
            real = os.path.realpath(path)
            if not any(real == root or real.startswith(root + os.sep) for root in self.roots):
                self.seen.append(f"{event} {path}")

    @staticmethod
    def _is_a_type() -> bool:
        return any(part in frame.filename for frame in traceback.extract_stack(limit=40) for part in COMPILERS)


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    (folder / "outside").mkdir()
    (folder / "outside/other.yaml").write_text("seed: 7\n")
    library = [Path(path) for path in {*sysconfig.get_paths().values(), *sys.path} if path]
    package = Path(cli.__file__).parent
    watch = Watch([folder / "work", recipes.CONF, recipes.RECIPES, package, cache_folder(), *library])
    (folder / "work").mkdir()
    os.chdir(folder / "work")
    for words in INNOCENT:
        spoken(words)
    sys.addaudithook(watch)
    for case in cases():
        print(json.dumps(outcome(case, watch)))


def outcome(case: Case, watch: Watch) -> dict:
    lay(case)
    watch.seen = []
    watch.is_on = True
    start = time.process_time()
    code, said = spoken(case.words)
    seconds = time.process_time() - start
    watch.is_on = False
    clear(case)
    repeated = [secret for secret in case.secrets if secret in said]
    raw = sorted({letter for letter in said if not letter.isprintable() and letter != "\n"})
    return {
        "kind": case.kind, "name": case.name, "code": code, "seconds": seconds, "seen": watch.seen,
        "repeated": bool(repeated), "raw": raw, "said": said[:2000],
    }  # fmt: skip


def lay(case: Case) -> None:
    for name, text in case.files.items():
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    for name, target in case.links.items():
        Path(name).symlink_to(target)


def clear(case: Case) -> None:
    for name in (*case.files, *case.links):
        Path(name).unlink()


def spoken(words: tuple[str, ...]) -> tuple[int | None, str]:
    """The exit code of `finetune show`, and all it said."""
    said = io.StringIO()
    keys = {word.partition("=")[0] for word in words}
    base = [word for word in BASE if word.partition("=")[0] not in keys]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main(["show", *base, *words])
        except SystemExit as end:
            return end.code, said.getvalue()
    return None, said.getvalue()


if __name__ == "__main__":
    main()
