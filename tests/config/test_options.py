"""The libraries' own options: what is known of them, and the cache that keeps it."""

import json

import pytest

from finetune.config import cache, options
from finetune.config.derive import parameters

METHODS = "methods-quantization"


def derived(path):
    return {each.name: each for each in parameters(options.resolve(path))}


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A cache folder of one's own, and nothing remembered in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options.of.cache_clear()
    options.methods.cache_clear()
    yield tmp_path / "finetune/options"
    options.of.cache_clear()
    options.methods.cache_clear()


def stored(folder):
    (file,) = folder.glob(f"{METHODS}-*.json")
    return file


class TestCache:
    def test_what_was_derived_is_kept(self, fresh):
        assert options.methods("quantization") == json.loads(stored(fresh).read_text())

    def test_it_is_read_instead_of_derived(self, fresh):
        options.methods("quantization")
        stored(fresh).write_text('{"mine": "some.Class"}')
        options.methods.cache_clear()
        assert options.methods("quantization") == {"mine": "some.Class"}

    def test_a_deleted_one_is_made_again(self, fresh):
        options.methods("quantization")
        stored(fresh).unlink()
        options.methods.cache_clear()
        assert "gptq" in options.methods("quantization")
        assert stored(fresh).is_file()

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '{"gptq": 3}', '{"gptq": {"a": 1}}', "\0"])
    def test_a_corrupt_one_is_made_again(self, fresh, content):
        options.methods("quantization")
        stored(fresh).write_text(content)
        options.methods.cache_clear()
        assert "gptq" in options.methods("quantization")
        assert "gptq" in json.loads(stored(fresh).read_text())

    def test_a_folder_that_cannot_be_made_costs_time_only(self, fresh, tmp_path):
        (tmp_path / "finetune").write_text("a file where the folder would be")
        assert "gptq" in options.methods("quantization")

    def test_a_folder_that_cannot_be_written_costs_time_only(self, fresh):
        import os

        fresh.mkdir(parents=True)
        fresh.chmod(0o500)
        try:
            assert "gptq" in options.methods("quantization")
            assert list(fresh.iterdir()) == [] or os.geteuid() == 0
        finally:
            fresh.chmod(0o700)

    def test_no_half_written_file_is_left(self, fresh):
        options.methods("quantization")
        assert [file.suffix for file in fresh.iterdir()] == [".json"]

    def test_another_version_of_a_library_is_another_file(self, fresh, monkeypatch):
        options.methods("quantization")
        monkeypatch.setattr(cache, "version", lambda name: "0.0")
        cache.installed.cache_clear()
        options.methods.cache_clear()
        try:
            options.methods("quantization")
        finally:
            cache.installed.cache_clear()
        assert len(list(fresh.glob(f"{METHODS}-*.json"))) == 2


class TestDerived:
    def test_every_option_of_the_arguments_class_is_known(self):
        import dataclasses

        import trl

        names = {field.name for field in dataclasses.fields(trl.SFTConfig) if field.init}
        assert options.of("trl.SFTConfig").keys() == names

    def test_help_is_the_library_s(self):
        assert "learning rate" in options.of("trl.SFTConfig")["learning_rate"].help.lower()

    def test_choices_are_the_library_s(self):
        from finetune.config.theirs import choices_of

        assert "cosine" in choices_of(options.of("transformers.TrainingArguments")["lr_scheduler_type"].schema)

    def test_a_class_with_an_init_of_its_own(self):
        path = options.methods("quantization")["bitsandbytes_4bit"]
        assert "bnb_4bit_quant_type" in options.of(path)

    @pytest.mark.parametrize("group", ["adapter", "quantization"])
    def test_every_method_has_options(self, group):
        for path in set(options.methods(group).values()):
            assert derived(path) or path.endswith("QuarkConfig")  # takes **kwargs alone

    def test_types_are_known_of_a_class_whose_bases_live_elsewhere(self):
        found = derived(options.methods("adapter")["lora"])
        assert found["r"].schema == {"type": "integer"}
        assert found["lora_dropout"].schema == {"type": "number"}
        assert found["inference_mode"].schema == {"type": "boolean"}

    def test_a_default_is_the_type_of_a_parameter_that_has_none(self):
        found = derived(options.methods("quantization")["bitsandbytes_4bit"])
        assert found["load_in_4bit"].schema == {"type": "boolean"}
        assert found["llm_int8_threshold"].schema == {"type": "number"}
        assert found["bnb_4bit_quant_storage"].schema == {}

    def test_the_type_of_nearly_every_option_of_peft_is_known(self):
        found = [option for path in options.methods("adapter").values() for option in derived(path).values()]
        assert sum(not option.schema for option in found) < len(found) / 50
