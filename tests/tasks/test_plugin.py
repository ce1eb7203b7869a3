"""A task of somebody else's package, installed beside ours, is what ours are: listed, explained, planned, trained."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from tiny_runs import bert, finetune, own_caches, root
from tiny_runs import config as checked

from finetune.config import compose
from finetune.config.installed import tasks
from finetune.data.prepare import prepare

PACKAGE = Path(__file__).parents[1] / "plugin"
STARS = {"stone": 1, "oak": 3, "cat": 5}


def install(folder):
    """What `pip install --target` leaves behind, without a download of the build backend."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copy(PACKAGE / "text_rating.py", folder)
    beside = folder / f"text_rating-{project['version']}.dist-info"
    beside.mkdir()
    (beside / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    for group, points in project["entry-points"].items():
        lines = [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
        (beside / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that holds the package; in this process and in those it starts, the package is installed."""
    folder = tmp_path_factory.mktemp("site")
    install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        look_again()
        yield folder
    look_again()
    ConfigStore.instance().repo["task"].pop("text_rating.yaml", None)
    sys.modules.pop("text_rating", None)


def look_again():
    """What a new process does: other tests have looked already at what is installed."""
    tasks.cache_clear()
    compose._store_methods.cache_clear()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Texts whose word decides the stars."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text(ratings(48))
    return file


def ratings(count, stars=STARS):
    picked = [list(stars)[at % len(stars)] for at in range(count)]
    made = [
        {"text": f"the {word} {'the ' * (at % 4)}".strip(), "stars": stars[word]} for at, word in enumerate(picked)
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


def recipe(rows, *more):
    trainer = ["per_device_train_batch_size=8", "learning_rate=1e-2", "max_steps=60"]
    return [
        f"recipe={PACKAGE / 'ratings.yaml'}", f"model.path={bert()}", f"dataset.path={rows}",
        f"output_dir={root() / 'runs'}", "precision=fp32", *(f"trainer.{setting}" for setting in trainer), *more,
    ]  # fmt: skip


def said(folder, *words):
    """What the command says in a process that knows of the package by PYTHONPATH alone."""
    command = [sys.executable, "-m", "finetune", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(folder)})
    return done.returncode, done.stdout + done.stderr


def test_it_is_listed_beside_ours(installed):
    code, text = said(installed, "show", "task=text_ratings")
    assert code == 2
    assert "Did you mean task=text_rating?" in text
    code, text = said(installed, "show", "task.name", f"recipe={PACKAGE / 'ratings.yaml'}", "dataset.path=anywhere")
    assert code == 0, text
    assert 'task.name: "text_rating"' in text


def test_its_options_are_explained_and_checked(installed, rows, capsys):
    assert finetune("show", "task.most", *recipe(rows, "task.most=10")) == 0
    shown = capsys.readouterr().out
    assert "task.most: 10" in shown
    assert "How many stars the best text has; the worst has one." in shown
    assert finetune("show", *recipe(rows, "task.mst=10")) == 2
    assert "Did you mean task.most?" in capsys.readouterr().err
    assert finetune("show", *recipe(rows, "task.most=many")) == 2
    capsys.readouterr()
    assert finetune("schema") == 0
    assert "the worst has one" in str(json.loads(capsys.readouterr().out)["definitions"]["task.text_rating"])


def test_it_is_planned(installed, rows, capsys, tmp_path):
    assert finetune("plan", *recipe(rows), "--output", str(tmp_path / "plan")) == 0
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())


def test_it_is_rehearsed_on_rows_of_its_own(installed, capsys):
    assert finetune("rehearse", *recipe("somebody/ratings"), "--model-type", "bert") == 0
    shown = capsys.readouterr().out
    assert "verified in" in shown
    assert "made up" in shown


def test_it_is_trained_verified_and_asked(installed, rows, capsys):
    with own_caches():
        assert finetune("train", *recipe(rows, "name=rated")) == 0
    (folder,) = (root() / "runs" / "rated").iterdir()
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["score"] == ["spearman", True]
    assert found["scores"]["mae"] < found["baseline"]["mae"]
    capsys.readouterr()
    assert finetune("predict", str(folder), "the cat", "the stone") == 0
    best, worst = map(json.loads, capsys.readouterr().out.splitlines())
    assert best["stars"] > worst["stars"] + 2


@pytest.mark.parametrize(
    ("most", "stars", "message"),
    [
        (5, {"cat": 1, "oak": 6}, "6 stars, where there are 1 to 5. See task.most"),
        (5, {"cat": 0, "oak": 5}, "row 6: 0 stars"),
        (5, {"cat": "many", "oak": 5}, "label 'many' is not a number"),
        (1, STARS, "of fewer than two stars there is nothing to learn"),
    ],
)  # fmt: skip
def test_what_it_refuses_is_located(installed, tmp_path, capsys, most, stars, message):
    (tmp_path / "rows.jsonl").write_text(ratings(12, stars))
    assert finetune("plan", *recipe(tmp_path / "rows.jsonl", f"task.most={most}")) == 2
    assert message in capsys.readouterr().err


def test_rows_are_made_again_when_its_code_changes(installed, rows):
    with own_caches():
        before = prepare(checked(recipe(rows))).folder
        assert prepare(checked(recipe(rows))).folder == before
        code = installed / "text_rating.py"
        kept = code.read_text()
        code.write_text(kept.replace("(stars - 1) / (self.most - 1)", "stars / self.most"))
        try:
            assert prepare(checked(recipe(rows))).folder != before
        finally:
            code.write_text(kept)
