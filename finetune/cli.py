"""The verbs: words in, outcomes printed, errors as exit codes. Nothing heavy is imported before it is needed.

finetune VERB [recipe=NAME] [key=value …]
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.errors import DONE, OUR_FAULT, USER, FinetuneError, UserError

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
        verb(options)
    except FinetuneError as error:
        print(f"finetune: {error}", file=sys.stderr)
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="finetune", description="Fine-tune Hugging Face models from short YAML recipes.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    train = _config_verb(verbs, "train", "train, evaluate and verify a model", _train)
    train.add_argument("-m", "--multirun", action="store_true", help="kept for sweeps")
    resume = _run_verb(verbs, "resume", "go on with a run that was stopped", _resume)
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="what is to be different from now on")
    resume.add_argument("--back-to", type=int, metavar="STEP", help="an earlier checkpoint; later ones are set aside")
    _config_verb(verbs, "plan", "check everything and say what a run would do, without training", _plan)
    _config_verb(verbs, "show", "print the resolved config", _show)
    data = _config_verb(verbs, "data", "show rows as they would be trained", _data)
    data.add_argument("--rows", type=int, default=3, help="how many (default 3)")
    data.add_argument("--split", default="train", help="of which split (default train)")
    evaluate = _run_verb(verbs, "evaluate", "score the model of a run", _evaluate)
    evaluate.add_argument("--split", default="validation", help="validation or test (default validation)")
    predict = _run_verb(verbs, "predict", "answer prompts or label texts with the model of a run", _predict)
    predict.add_argument("text", nargs="*", help="what to answer; without any, lines are read from the terminal")
    predict.add_argument("--input", type=Path, help="a .jsonl, .csv or text file to answer instead")
    predict.add_argument("--output", type=Path, help="write JSON lines here instead of printing them")
    predict.add_argument("--max-new-tokens", type=int, default=256, help="for models that write (default 256)")
    publish = _run_verb(verbs, "publish", "upload the model of a run to the Hub", _publish)
    publish.add_argument("--repo-id", help="default: publish.repo_id of the run")
    publish.add_argument("--public", action="store_true", help="private unless this is given")
    publish.add_argument("--dry-run", action="store_true", help="list the files and stop")
    recipes = _verb(verbs, "recipes", "list, show and copy recipes", _recipes)
    recipes.add_argument("action", nargs="?", choices=["list", "show", "copy"], default="list")
    recipes.add_argument("name", nargs="?", help="of the recipe to show or copy")
    recipes.add_argument("target", nargs="?", type=Path, default=Path(), help="where to copy to (default: here)")
    _verb(verbs, "doctor", "say what this machine can do", _doctor)
    parser.add_argument("--version", action="version", version=_version())
    return parser


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


VERBS = ("train", "resume", "plan", "show", "data", "evaluate", "predict", "publish", "recipes", "doctor")


def _verb(verbs: "argparse._SubParsersAction[_Parser]", name: str, text: str, verb: Verb) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(verb=verb)
    return parser


def _config_verb(
    verbs: "argparse._SubParsersAction[_Parser]", name: str, text: str, verb: Verb
) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, text, verb)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)
    return parser


def _run_verb(
    verbs: "argparse._SubParsersAction[_Parser]", name: str, text: str, verb: Verb
) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, text, verb)
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    return parser


def _version() -> str:
    from finetune import __version__

    return f"finetune {__version__}"


def _train(options: argparse.Namespace) -> None:
    if options.multirun:
        raise UserError("-m is kept for sweeps, which this version does not run; start one training for each point")
    from finetune.config.check import load_config

    config, _ = load_config(options.overrides)
    from finetune import console
    from finetune.run import run

    with console.session():
        console.conclude(run(config))


def _resume(options: argparse.Namespace) -> None:
    from finetune import console
    from finetune.run import resume

    with console.session():
        console.conclude(resume(options.run, options.back_to, options.overrides))


def _plan(options: argparse.Namespace) -> None:
    from finetune.config.check import load_config

    config, _ = load_config(options.overrides)
    from finetune import console
    from finetune.run import planned

    with console.session():
        console.show_plan(planned(config)[0])


def _show(options: argparse.Namespace) -> None:
    import yaml

    from finetune.config.check import dump, load_config

    config, _ = load_config(options.overrides)
    print(yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True), end="")


def _data(options: argparse.Namespace) -> None:
    from finetune.config.check import load_config

    config, _ = load_config(options.overrides)
    from finetune import console
    from finetune.data.prepare import prepare

    with console.session():
        console.show_rows(prepare(config), options.split, options.rows)


def _evaluate(options: argparse.Namespace) -> None:
    from finetune.plan.run_folder import find

    folder = find(options.run)
    from finetune import console
    from finetune.artifacts.evaluate import evaluate

    with console.session():
        console.show_scores(evaluate(folder, options.split), {})


def _predict(options: argparse.Namespace) -> None:
    from finetune.plan.run_folder import find

    folder = find(options.run)
    from finetune import console

    with console.session():
        console.answer(folder, options)


def _publish(options: argparse.Namespace) -> None:
    from finetune.plan.run_folder import find

    folder = find(options.run)
    from finetune import console

    with console.session():
        console.publish(folder, options)


def _recipes(options: argparse.Namespace) -> None:
    from finetune.config import recipes

    if options.action == "list" and options.name:
        raise UserError(f"finetune recipes list takes no name; finetune recipes show {options.name} prints one")
    if options.action == "list":
        width = max(map(len, recipes.names()))
        for name in recipes.names():
            print(f"{name:<{width}}  {recipes.first_comment(recipes.find(name))}")
        return
    if not options.name:
        raise UserError(f"finetune recipes {options.action} needs the name of a recipe; `finetune recipes` lists them")
    if options.action == "show":
        print(recipes.find(options.name).read_text(encoding="utf-8"), end="")
    else:
        print(recipes.copy(options.name, options.target))


def _doctor(_: argparse.Namespace) -> None:
    from finetune import console
    from finetune.doctor import diagnose

    console.show_diagnosis(diagnose())
