"""Where recipes live: listed, found, copied, and nothing outside of them reached by name."""

import pytest

from finetune.config import recipes
from finetune.config.check import load_config
from finetune.errors import UserError


class TestNames:
    def test_each_is_found_by_its_name(self):
        for name in recipes.names():
            assert recipes.find(name).is_file()

    def test_each_says_what_it_does(self):
        for name in recipes.names():
            assert len(recipes.first_comment(recipes.find(name))) > 20

    def test_each_says_its_own_command(self):
        for name in recipes.names():
            assert f"finetune train recipe={name}\n" in recipes.find(name).read_text()

    @pytest.mark.parametrize("name", recipes.names())
    def test_each_composes(self, name):
        config = load_config([f"recipe={name}"])[0]
        assert config.name == name.rpartition("/")[2]

    def test_each_is_short(self):
        for name in recipes.names():
            assert len(recipes.find(name).read_text().splitlines()) <= 15


class TestFind:
    def test_a_misspelt_name(self):
        with pytest.raises(UserError, match=r"no such recipe. Did you mean quickstart\?"):
            recipes.find("quikstart")

    def test_a_name_like_nothing(self):
        with pytest.raises(UserError, match=r"`finetune recipes` lists them"):
            recipes.find("zzzzzz")

    @pytest.mark.parametrize("name", ["gone.yaml", "./gone.yaml", "far/gone.yml"])
    def test_a_path_to_nothing(self, name, here):
        with pytest.raises(UserError, match="there is no such file below"):
            recipes.find(name)

    def test_a_shipped_name_with_an_ending(self, here):
        with pytest.raises(UserError, match=r"Did you mean quickstart\?"):
            recipes.find("quickstart.yaml")

    def test_a_file_of_one_s_own_without_its_ending(self, here):
        (here / "mine.yaml").write_text("seed: 1")
        with pytest.raises(UserError, match=r"A file is written with its ending: mine.yaml"):
            recipes.find("mine")

    def test_a_file_of_one_s_own_below_home(self, here, monkeypatch):
        monkeypatch.setenv("HOME", str(here))
        (here / "mine.yml").write_text("seed: 1")
        assert recipes.find("~/mine.yml") == here / "mine.yml"

    @pytest.mark.parametrize(
        "name",
        ["../../etc/passwd", "/etc/passwd", "../recipes/quickstart", "sft/../quickstart", "../conf/config", "."],
    )
    def test_a_name_does_not_lead_out_of_the_recipes(self, name):
        with pytest.raises(UserError, match="no such recipe"):
            recipes.find(name)


class TestLocate:
    def test_data_that_ships(self):
        assert (recipes.locate("recipes://data/wordnet") / "category_train.jsonl").is_file()

    @pytest.mark.parametrize("path", ["../..", "../conf", "/etc", "data/../../conf", "data/nothing"])
    def test_nothing_outside_and_nothing_absent(self, path):
        with pytest.raises(UserError, match="there is nothing of that name"):
            recipes.locate(f"recipes://{path}")


class TestCopy:
    def test_into_a_folder(self, here):
        copied = recipes.copy("quickstart", here)
        assert copied == here / "quickstart.yaml"
        assert copied.read_text() == recipes.find("quickstart").read_text()

    def test_under_a_new_name(self, here):
        assert recipes.copy("quickstart", here / "mine.yaml").name == "mine.yaml"

    def test_into_a_folder_that_is_made(self, here):
        assert recipes.copy("quickstart", here / "far/away") == here / "far/away/quickstart.yaml"

    @pytest.mark.parametrize("target", [".", "quickstart.yaml"])
    def test_never_over_a_file(self, here, target):
        (here / "quickstart.yaml").write_text("mine")
        with pytest.raises(UserError, match="exists already; name another file"):
            recipes.copy("quickstart", here / target)
        assert (here / "quickstart.yaml").read_text() == "mine"

    def test_where_nothing_can_be_written(self, here):
        (here / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            recipes.copy("quickstart", here / "file/mine.yaml")

    @pytest.mark.parametrize("name", recipes.names())
    def test_a_copy_means_the_same(self, name, here):
        copied = recipes.copy(name, here)
        assert load_config([f"recipe={copied}"])[0] == load_config([f"recipe={name}"])[0]
