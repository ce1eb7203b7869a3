"""The command line: verbs, exit codes, one message for a mistake, and nothing heavy where nothing heavy is needed."""

import os
import subprocess
import sys

import pytest

from finetune import cli

HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "accelerate")
PATHS = ("model.path=some/model", "dataset.path=some/data")


@pytest.fixture
def finetune(here, capsys, monkeypatch):
    """Run the command line in this process: its exit code, what it printed, what it complained of."""

    def finetune(*words):
        monkeypatch.setattr(sys, "argv", ["finetune", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return finetune


def script(code, folder):
    """Run Python in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


class TestMistakes:
    @pytest.mark.parametrize("verb", ["train", "plan", "show", "data"])
    @pytest.mark.parametrize(
        "words",
        [
            ("adapter=lroa",),
            ("trainer.learnig_rate=1",),
            ("recipe=quikstart",),
            ("recipe=./gone.yaml",),
            ("recipe=../../etc/passwd",),
            ("name={",),
            ("seed=1,2",),
            ("foo",),
            ("name=${oc.env:HOME}",),
            ("seed=x", "adapter.r=3"),
        ],
    )
    def test_one_message_code_2_and_nothing_on_disk(self, finetune, here, verb, words):
        code, out, err = finetune(verb, *PATHS, *words)
        assert (code, out) == (2, "")
        assert err.startswith("finetune: ")
        assert "Traceback" not in err
        assert list(here.iterdir()) == []

    def test_in_a_process_of_its_own(self, here):
        command = [sys.executable, "-m", "finetune", "show", "adapter=lroa"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True)
        assert done.returncode == 2
        assert "Did you mean adapter=lora?" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""

    def test_a_misspelt_verb(self, finetune):
        code, _, err = finetune("trian", "recipe=quickstart")
        assert code == 2
        assert "Did you mean train?" in err

    @pytest.mark.parametrize(
        "words", [(), ("--nothing",), ("show", "--nothing"), ("data", "--rows", "x"), ("evaluate",)]
    )
    def test_words_that_make_no_sense(self, finetune, words):
        code, _, err = finetune(*words)
        assert code == 2
        assert err.startswith("finetune: ")
        assert "Traceback" not in err

    @pytest.mark.parametrize("verb", ["evaluate", "predict", "publish"])
    def test_a_folder_that_is_no_run(self, finetune, verb):
        code, _, err = finetune(verb, "nowhere")
        assert code == 2
        assert "nowhere is not the folder of a run" in err

    def test_a_fault_of_ours_shows_where_and_is_code_1(self, finetune, monkeypatch):
        monkeypatch.setattr("finetune.config.check.load_config", lambda words: 1 / 0)
        code, _, err = finetune("show", "recipe=quickstart")
        assert code == 1
        assert "ZeroDivisionError" in err
        assert "this is a fault of finetune" in err

    def test_an_interruption_is_no_fault(self, finetune, monkeypatch):
        def stop(words):
            raise KeyboardInterrupt

        monkeypatch.setattr("finetune.config.check.load_config", stop)
        code, _, err = finetune("show", "recipe=quickstart")
        assert (code, err) == (130, "finetune: interrupted\n")


class TestShow:
    def test_what_is_printed_is_a_recipe(self, finetune, here):
        code, out, _ = finetune("show", "recipe=quickstart", "seed=5")
        assert code == 0
        (here / "mine.yaml").write_text(out)
        assert finetune("show", "recipe=./mine.yaml") == (0, out, "")

    def test_overrides_may_stand_on_either_side_of_a_flag(self, finetune):
        code, _, err = finetune("data", "recipe=quickstart", "--rows", "1", "seed=x")
        assert code == 2
        assert "seed (command line)" in err

    @pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
    def test_a_reader_that_leaves_early_is_no_fault(self, here):
        command = f"{sys.executable} -m finetune show recipe=quickstart | head -1"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=here, capture_output=True, text=True)
        assert "Traceback" not in done.stderr


class TestRecipes:
    def test_they_are_listed_with_what_they_do(self, finetune):
        from finetune.config import recipes

        code, out, _ = finetune("recipes")
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == recipes.names()

    def test_one_is_shown(self, finetune):
        code, out, _ = finetune("recipes", "show", "quickstart")
        assert code == 0
        assert out.startswith("# @package _global_")

    def test_one_is_copied_and_runs_from_there(self, finetune, here):
        assert finetune("recipes", "copy", "quickstart", "mine.yaml")[0] == 0
        assert finetune("show", "recipe=./mine.yaml")[0] == 0

    def test_a_copy_over_a_file_is_refused(self, finetune, here):
        (here / "quickstart.yaml").write_text("mine")
        code, _, err = finetune("recipes", "copy", "quickstart")
        assert code == 2
        assert "exists already" in err

    def test_the_name_is_needed(self, finetune):
        assert finetune("recipes", "show")[0] == 2


class TestImports:
    @pytest.mark.parametrize(
        "words",
        [["--help"], ["show", "recipe=quickstart"], ["show", "adapter=lroa"], ["recipes"], ["train", "seed=x"]],
    )
    def test_no_heavy_library_is_loaded(self, here, words):
        code = f"""
import sys
from finetune.cli import main
try:
    main({words!r})
except SystemExit:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
        done = script(code, here)
        assert done.stderr.splitlines()[-1] == "[]", done.stderr

    def test_help_does_not_even_load_hydra(self, here):
        code = (
            "import sys, finetune.cli; print([name for name in ('hydra', 'pydantic', 'yaml') if name in sys.modules])"
        )
        assert script(code, here).stdout.strip() == "[]"
