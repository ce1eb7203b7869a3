"""YAML files are read within limits, and every key knows its line and column."""

import pytest

from finetune.config import reading
from finetune.errors import UserError


@pytest.fixture
def read(here):
    def read(text):
        (here / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return reading.read(here / "a.yaml", "a.yaml")

    return read


@pytest.fixture
def refused(read):
    def refused(text):
        with pytest.raises(UserError) as caught:
            read(text)
        return str(caught.value)

    return refused


class TestPlaces:
    def test_a_key_has_its_line_and_column(self, read):
        places = read("seed: 1\ntrainer:\n  max_steps: 3\nmodel: {path: a}\n").places
        assert places["trainer.max_steps"] == "a.yaml:3:3"
        assert places["model.path"] == "a.yaml:4:9"

    def test_an_item_of_a_list_has_too(self, read):
        assert read("defaults:\n  - a\n  - override /b: c\n").items["defaults"] == ["a.yaml:2:5", "a.yaml:3:5"]


class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-4", 1e-4), ("1.0E+3", 1000.0), (".5", 0.5), ("-.inf", float("-inf")), ("1_000", 1000), ("0x1f", 31),
            ("2024-01-01", "2024-01-01"), ("1.2.3", "1.2.3"), ("=", "="), ("'12:30'", "12:30"), ("yes", True),
            ("~", None), ("[1, {a: 2}]", [1, {"a": 2}]), ("1e", "1e"), ("e5", "e5"), ("0x_", "0x_"),
        ],
    )  # fmt: skip
    def test_they_are_what_hydra_reads_too(self, read, text, value):
        assert read(f"a: {text}").values == {"a": value}

    @pytest.mark.parametrize(
        "text", ["1.5", "1e4", "1E-4", "-3", "+2", ".5e+3", "12e03", "1_0.5", ".inf", "0", "08", "a"]
    )
    def test_a_number_is_the_same_in_a_file_of_hydra(self, read, here, text):
        from omegaconf import OmegaConf

        read(f"a: {text}")
        assert read(f"a: {text}").values == OmegaConf.to_container(OmegaConf.load(here / "a.yaml"))

    def test_an_alias_is_what_it_names(self, read):
        assert read("a: &x {b: 1}\nc: *x").values["c"] == {"b": 1}

    def test_a_key_is_the_word_that_was_written(self, read):
        assert list(read("NO: 1\n1: 2\non: 3\n1.5: 4").values) == ["NO", 1, "on", "1.5"]

    def test_an_empty_file_says_nothing(self, read):
        assert read("# nothing").values == {}


class TestProblems:
    def test_every_key_that_stands_twice_is_reported(self, read):
        found = read("a: 1\nb: {c: 1, c: 2}\na: 2\n").problems
        assert [(each.key, each.where) for each in found] == [("b.c", "a.yaml:2:11"), ("a", "a.yaml:3:1")]
        assert "the first is at a.yaml:1:1" in found[1].what

    @pytest.mark.parametrize(("text", "meant"), [("010", 8), ("12:30", 750), ("-1:30", -90), ("00", 0)])
    def test_a_number_that_means_another(self, read, text, meant):
        (found,) = read(f"a: {text}").problems
        assert found.what == f"wrote {text}, which YAML reads as {meant}."
        assert f'"{text}" in quotes' in found.hint

    @pytest.mark.parametrize("text", ["? [a]\n: 1", "a: &x {b: 1}\nc: {<<: *x}"])
    def test_a_key_that_is_no_word(self, read, text):
        assert len(read(text).problems) == 1


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("a: " + "[" * 51, "nested more than 50 deep"),
            ("a: [" + "1," * 100_001 + "]", "more than 100,000 values"),
            ("a: &a x\nb: [" + "*a," * 101 + "]", "more than 100 aliases"),
            ("a: &a [*a]", "stands inside of what it names"),
            ("a: !!str 1", "no tag is read"),
            ("a: " + "x" * 2**20, "larger than 1 MiB"),
        ],
    )
    def test_what_exceeds_one_is_refused(self, refused, text, reason):
        assert reason in refused(text)

    def test_what_reaches_one_is_read(self, read):
        read("a: " + "[" * 49 + "]" * 49)
        read("a: &a x\nb: [" + "*a," * 100 + "]")
        read("a: [" + "1," * 99_997 + "]")

    def test_aliases_count_as_what_they_name(self, refused):
        nested = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 6)
        )
        assert "its aliases written out" in refused(nested)

    def test_a_refusal_says_where(self, refused):
        assert refused("seed: 1\nname: !x y").startswith("a.yaml:2:7 is refused")


def test_a_folder_is_no_file(here):
    with pytest.raises(UserError, match="cannot be read"):
        reading.read(here, "here")
