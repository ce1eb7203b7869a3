"""The command line: words in, errors out as exit codes. Nothing heavy is imported before it is needed.

finetune VERB [recipe=NAME] [key=value …]
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune import training_verbs, verbs
from finetune.config.written import printable
from finetune.errors import DONE, OUR_FAULT, USER, FinetuneError, Stopped

Verb = Callable[[argparse.Namespace], None]
OVERRIDES = "Hydra overrides: recipe=NAME or recipe=./mine.yaml, group=option, key=value"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit with its code: 0 done, 1 our fault, 2 the input, 3 the machine, 75 stopped and resumable."""
    sys.exit(_guarded(*_parsed(_parser(), arguments)))


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> tuple[Verb, argparse.Namespace]:
    """The verb and its options; overrides may stand on either side of a flag."""
    options, rest = parser.parse_known_args(arguments)
    if strays := [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(strays)}")
    if rest:
        options.overrides += rest
    return options.verb, options


def _guarded(verb: Verb, options: argparse.Namespace) -> int:
    """A user's error is one message and no traceback."""
    # bitsandbytes speaks of a missing optional kernel at import, whether or not anything is quantized.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    # TRL tells the Hub which trainer was built, unless it is asked not to.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        _take_in(getattr(options, "config_dir", None))
        verb(options)
    except (FinetuneError, Stopped) as error:
        print(f"finetune: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("finetune: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception:
        import traceback

        traceback.print_exc()
        print("finetune: this is a fault of finetune; the lines above say where", file=sys.stderr)
        return OUR_FAULT
    return DONE


def _take_in(folder: Path | None) -> None:
    """The user's own groups."""
    if folder:
        from finetune.config.recipes import add_folder

        add_folder(folder)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="finetune", description="Fine-tune Hugging Face models from short YAML recipes.")
    added = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    _add_training(added)
    plan = _config_verb(added, "plan", "check everything and say what a run would do, without training", verbs.plan)
    plan.add_argument("--output", type=Path, metavar="DIR", help="for plan.json and plan.md (default: runs/NAME/plan)")
    rehearse = _config_verb(added, "rehearse", "run a whole recipe shrunk, on the processor", verbs.rehearse)
    rehearse.add_argument("--model-type", help="what the model is, such as llama, where that cannot be found out")
    rehearse.add_argument("--keep", type=Path, metavar="DIR", help="keep everything in this new folder")
    show = _config_verb(added, "show", "print the resolved config, or explain the keys named", verbs.show)
    show.add_argument("--origin", action="store_true", help="say behind each value where it is from")
    diff = _verb(added, "diff", "say how two recipes or two runs differ", verbs.diff)
    diff.add_argument("left", metavar="A", help="a recipe, or the folder of a run")
    diff.add_argument("right", metavar="B", help="another one")
    data = _config_verb(added, "data", "show rows as they would be trained", verbs.data)
    data.add_argument("--rows", type=int, default=3, help="how many (default 3)")
    data.add_argument("--split", default="train", help="of which split (default train)")
    data.add_argument("--row", type=int, help="this one only")
    data.add_argument("--worst", action="store_true", help="the longest, and those with the least that is trained")
    data.add_argument("--source", help="only rows of this source of a mixture")
    data.add_argument("--html", type=Path, metavar="FILE", help="write them as a page as well")
    evaluate = _run_verb(added, "evaluate", "score the model of a run", verbs.evaluate)
    evaluate.add_argument("--split", default="validation", help="validation or test (default validation)")
    predict = _run_verb(added, "predict", "answer prompts or label texts with the model of a run", verbs.predict)
    predict.add_argument("text", nargs="*", help="what to answer; without any, lines are read from the terminal")
    predict.add_argument("--input", type=Path, help="a .jsonl, .csv or text file to answer instead")
    predict.add_argument("--output", type=Path, help="write JSON lines here instead of printing them")
    predict.add_argument("--max-new-tokens", type=int, help="for models that write (default 256)")
    publish = _run_verb(added, "publish", "upload the model of a run to the Hub", verbs.publish)
    publish.add_argument("--repo-id", help="default: publish.repo_id of the run")
    publish.add_argument("--public", action="store_true", help="private unless this is given")
    publish.add_argument("--dry-run", action="store_true", help="list the files and stop")
    recipes = _verb(added, "recipes", "list, show and copy recipes", verbs.recipes)
    recipes.add_argument("action", nargs="?", choices=["list", "show", "copy"], default="list")
    recipes.add_argument("name", nargs="?", help="of the recipe to show or copy")
    recipes.add_argument("target", nargs="?", type=Path, default=Path(), help="where to copy to (default: here)")
    store = _verb(added, "store", "list and clean what was prepared", verbs.store)
    store.add_argument("action", nargs="?", choices=["list", "clean"], default="list")
    store.add_argument("--keep", default="0", help="clean until this much is left: 500MB, 20GB (default 0)")
    schema = _verb(added, "schema", "print the JSON Schema of recipes or of a group, for editors", verbs.schema)
    schema.add_argument("name", nargs="?", help="recipe or a group (default recipe)")
    schema.add_argument("--output", type=Path, metavar="DIR", help="write NAME.json there; without a name, all")
    _verb(added, "doctor", "say what this machine can do", verbs.doctor)
    parser.add_argument("--version", action="version", version=_version())
    return parser


def _add_training(added: "argparse._SubParsersAction[_Parser]") -> None:
    """The verbs that train, and those that look after what trains elsewhere."""
    train = _config_verb(added, "train", "train, evaluate and verify a model", training_verbs.train)
    train.add_argument("-m", "--multirun", action="store_true", help="every point of a grid: key=a,b group=c,d")
    _of_a_job(train)
    train.add_argument(
        "--dry-run", action="store_true", help="print the script or manifest of a job and submit nothing"
    )
    resume = _run_verb(added, "resume", "go on with a run that was stopped", training_verbs.resume)
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="what is to be different from now on")
    resume.add_argument("--back-to", type=int, metavar="STEP", help="an earlier checkpoint; later ones are set aside")
    _of_a_job(resume)
    _config_verb(added, "sweep", "train many points of a recipe, or go on: sweep resume FOLDER", training_verbs.sweep)
    jobs = _verb(added, "jobs", "list, cancel and follow runs that are jobs of a cluster", training_verbs.jobs)
    jobs.add_argument("action", nargs="?", choices=["list", "cancel", "follow"], default="list")
    jobs.add_argument(
        "name", nargs="?", help="the folder that holds the runs (default runs), a run, or a job's number"
    )


class _Parser(argparse.ArgumentParser):
    """Errors in our words, with the nearest verb."""

    def error(self, message: str) -> None:  # type: ignore[override]
        from finetune.config.suggest import did_you_mean

        written = re.search(r"argument VERB: invalid choice: '([^']*)'", message)
        if written:
            message = (
                f"{written[1]} is not a verb. Verbs: {', '.join(VERBS)}. {did_you_mean(written[1], VERBS)}".rstrip()
            )
        self.exit(USER, f"finetune: {message}\n")


VERBS = (
    "train",
    "resume",
    "sweep",
    "jobs",
    "plan",
    "rehearse",
    "show",
    "diff",
    "data",
    "evaluate",
    "predict",
    "publish",
    "recipes",
    "store",
    "schema",
    "doctor",
)


def _verb(added: "argparse._SubParsersAction[_Parser]", name: str, text: str, verb: Verb) -> argparse.ArgumentParser:
    parser = added.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(verb=verb)
    return parser


def _config_verb(
    added: "argparse._SubParsersAction[_Parser]", name: str, text: str, verb: Verb
) -> argparse.ArgumentParser:
    parser = _verb(added, name, text, verb)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="a folder of your own groups: DIR/adapter/mine.yaml"
    )
    return parser


def _run_verb(
    added: "argparse._SubParsersAction[_Parser]", name: str, text: str, verb: Verb
) -> argparse.ArgumentParser:
    parser = _verb(added, name, text, verb)
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    return parser


def _of_a_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="wait for the job, and show what it says")


def _version() -> str:
    from finetune import __version__

    return f"finetune {__version__}"
