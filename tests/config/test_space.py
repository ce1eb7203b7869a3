"""Spaces of sweeps, as the command line and recipes write them."""

import pytest

from finetune.config import space
from finetune.config.space import Choices, Interval, Space
from finetune.errors import ConfigError


def read(**typed):
    return space.read(typed, {}, {}, []).dimensions[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("choice(8,16,32)", Choices("key", "command line", (8, 16, 32))),
        ("lora,dora", Choices("key", "command line", ("lora", "dora"))),
        ("choice('a b',true)", Choices("key", "command line", ("a\\ b", "True"))),
        ("choice([{p:a,q:1}],[{p:b}])", Choices("key", "command line", ("[{p:a,q:1}]", "[{p:b}]"))),
        ("range(0.1,0.45,0.1)", Choices("key", "command line", (0.1, 0.2, 0.3, 0.4))),
        ("range(1,9,2)", Interval("key", "command line", 1, 7, is_whole=True, step=2)),
        ("interval(0,0.3)", Interval("key", "command line", 0, 0.3)),
        ("tag(log,interval(1e-5,1e-3))", Interval("key", "command line", 1e-5, 1e-3, is_log=True)),
        ("tag(log,int(interval(1,64)))", Interval("key", "command line", 1, 64, is_log=True, is_whole=True)),
    ],
)  # fmt: skip
def test_what_is_varied_is_read_in_hydras_grammar(text, found):
    assert read(key=text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("choice()", "empty choice is not legal"),
        ("choice(1,1)", "names 1 twice"),
        ("interval(1,0)", r"1 is not below 0.*\n.*interval\(0,1\)"),
        ("interval(0,inf)", "has no end"),
        ("tag(log,interval(0,1))", "has no logarithm"),
        ("tag(lin,interval(0,1))", "tagged lin"),
        ("range(5,1)", "is empty"),
        ("glob(*)", "names nothing by itself"),
        ("8", "is one value"),
        ("choice(", "cannot be read"),
    ],
)
def test_what_cannot_be_varied_is_one_problem(text, said):
    with pytest.raises(ConfigError, match=said):
        read(key=text)


def test_all_problems_are_told_at_once_with_the_place_they_were_written_in():
    with pytest.raises(ConfigError) as error:
        space.read({"a": "choice()"}, {"b": "interval(1,0)"}, {"sweep.space.b": "mine.yaml:3:5"}, [])
    assert [(problem.key, problem.where) for problem in error.value.problems] == [
        ("b", "mine.yaml:3:5"),
        ("a", "command line"),
    ]


def test_a_recipe_writes_lists_and_nested_keys():
    recipe = {"trainer": {"warmup_steps": [0, 10]}, "adapter.r": "choice(8,16)", "task.mask": ["all", "two words"]}
    found = space.read({}, recipe, {}, [])
    assert [each.values for each in found.dimensions] == [(0, 10), (8, 16), ("all", "two\\ words")]


def test_what_is_typed_wins_over_the_recipe_also_as_one_value():
    recipe = {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    found = space.read({"a": "choice(3,4)"}, recipe, {}, ["b=1"])
    assert {each.key: each.values for each in found.dimensions} == {"a": (3, 4), "c": (1, 2)}


def test_words_that_name_several_values_are_told_from_the_others():
    words = ["recipe=x", "a=1", "b=1,2", "c=choice()", "+d=range(1,3)", "e='a,b'", "f=[1,2]"]
    assert space.split(words) == (
        ["recipe=x", "a=1", "e='a,b'", "f=[1,2]"],
        {"b": "1,2", "c": "choice()", "d": "range(1,3)"},
    )


def test_of_a_small_space_every_point_is_planned_and_of_a_large_one_the_ends():
    choices = Choices("a", "", (1, 2, 3))
    assert len(list(space.representatives(Space((choices, Choices("b", "", ("x", "y")))), 64))) == 6
    large = Space((choices, Interval("b", "", 0.0, 1.0)))
    assert [tuple(point.values()) for point in space.representatives(large, 64)] == [
        (1, 0.0), (2, 0.0), (3, 0.0), (1, 1.0),
    ]  # fmt: skip


def test_every_point_of_a_grid_is_there_once_in_order():
    grid = Space((Choices("a", "", (1, 2)), Interval("b", "", 1, 5, is_whole=True, step=2)))
    assert [tuple(point.values()) for point in space.every(grid)] == [(1, 1), (1, 3), (1, 5), (2, 1), (2, 3), (2, 5)]
    assert grid.size == 6
