"""Where values are from, what is known of a key, how two recipes differ, and a user's own groups."""

import pytest
import yaml

from finetune.cli import main
from finetune.config import recipes


@pytest.fixture
def says(capsys):
    """What the command line prints, and on which stream it complains."""

    def says(*words, code=0):
        with pytest.raises(SystemExit) as caught:
            main(words)
        printed = capsys.readouterr()
        assert caught.value.code == code, printed.err
        return printed.out if code == 0 else printed.err

    return says


@pytest.fixture(autouse=True)
def no_folders_left(monkeypatch):
    monkeypatch.setattr(recipes, "own_folders", [])
    recipes.groups.cache_clear()
    yield
    recipes.groups.cache_clear()


class TestOrigin:
    def test_every_value_says_where_it_is_from(self, says):
        lines = says("show", "--origin", "recipe=quickstart", "adapter.r=8").splitlines()
        (rank,) = (line for line in lines if line.startswith("  r: "))
        assert rank.split() == ["r:", "8", "#", "command", "line"]
        assert any(line.startswith("  learning_rate: 0.002") and "recipes/quickstart.yaml:" in line for line in lines)
        assert any(line.startswith("  max_dropped: 0.01") and line.endswith("# default") for line in lines)
        assert any(line.startswith("name: quickstart") and "rule: the recipe's name" in line for line in lines)

    def test_it_is_the_same_config_as_without(self, says):
        words = ["recipe=sft/smollm2_smoltalk_full", "tokenizer.chat_template='{{ a }}\n\n# b'"]
        assert yaml.safe_load(says("show", "--origin", *words)) == yaml.safe_load(says("show", *words))


class TestKey:
    def test_value_origin_what_it_overrode_type_and_help(self, says):
        printed = says("show", "adapter.r", "recipe=quickstart", "adapter.r=8")
        assert printed.startswith("adapter.r: 8\n  set by   command line\n  over     16, conf/adapter/lora.yaml:")
        assert "  over     8, default of peft.tuners.lora.config.LoraConfig" in printed
        assert "  type     integer, 0 or more" in printed
        assert "attention dimension" in printed

    def test_one_that_is_not_set(self, says):
        printed = says("show", "trainer.weight_decay", "recipe=quickstart")
        assert printed.startswith("trainer.weight_decay: 0.0\n  set by   default\n")

    def test_one_of_ours_with_its_choices_and_text(self, says):
        printed = says("show", "task.mask", "dataset.limit", "recipe=sft/smollm2_gsm8k_lora")
        assert "choices  assistant" in printed
        assert "At most this many rows" in printed

    def test_one_that_is_not_there(self, says):
        message = says("show", "trainer.lerning_rate", "recipe=quickstart", code=2)
        assert "there is no such key. Did you mean trainer.learning_rate?" in message

    def test_a_secret_is_not_repeated(self, says, here):
        assert "hf_" not in says("show", "trainer.run_name", "recipe=quickstart", "trainer.run_name=x")


class TestDiff:
    def test_two_recipes(self, says):
        printed = says("diff", "sft/smollm2_gsm8k_lora", "sft/smollm2_gsm8k_qlora")
        assert "quantization.method\n  - 'none'  (conf/quantization/none.yaml:" in printed
        assert "quantization.load_in_4bit\n  - not set\n  + True" in printed
        assert "trainer.learning_rate" not in printed

    def test_one_with_itself(self, says):
        assert says("diff", "quickstart", "quickstart") == ""

    def test_one_that_is_not_there(self, says):
        assert "there is no such recipe" in says("diff", "quickstart", "quickstrt", code=2)


class TestOwnGroups:
    @pytest.fixture
    def own(self, here):
        (here / "own, 'groups/adapter").mkdir(parents=True)
        (here / "own, 'groups/adapter/small.yaml").write_text("defaults: [lora]\nr: 4\n")
        return here / "own, 'groups"

    def test_an_option_of_a_users_folder(self, says, own):
        printed = says("show", "adapter.r", "recipe=quickstart", "adapter=small", "--config-dir", str(own))
        assert printed.startswith("adapter.r: 4\n  set by   own, 'groups/adapter/small.yaml:2")

    def test_what_it_says_is_held_to_the_same(self, says, own):
        (own / "adapter/small.yaml").write_text("defaults: [lora]\nrr: 4\n")
        message = says("show", "recipe=quickstart", "adapter=small", "--config-dir", str(own), code=2)
        assert "adapter.rr (own, 'groups/adapter/small.yaml:2" in message

    def test_a_file_that_is_not_yaml(self, says, own):
        (own / "adapter/small.yaml").write_text("r: [")
        assert "is not valid YAML" in says("show", "recipe=quickstart", "--config-dir", str(own), code=2)

    def test_a_group_that_there_is_not(self, says, own):
        (own / "adapter").rename(own / "adaptr")
        assert "Did you mean adapter?" in says("show", "recipe=quickstart", "--config-dir", str(own), code=2)

    def test_an_option_that_is_shipped(self, says, own):
        (own / "adapter/lora.yaml").write_text("r: 4")
        assert "exists already" in says("show", "recipe=quickstart", "--config-dir", str(own), code=2)

    def test_a_folder_that_is_not_there(self, says, here):
        assert "there is no such folder" in says("show", "--config-dir", "nowhere", code=2)
