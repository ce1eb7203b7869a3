"""Mutated overrides and recipes, drawn from a seed: accepted or refused, never a fault."""

import random
from contextlib import suppress

import pytest

from finetune.config import recipes
from finetune.config.check import load_config
from finetune.errors import UserError

WORDS = (
    "seed=1", "trainer.learning_rate=1e-4", "adapter=lora", "~trainer.warmup_steps", "+name=x", "name=${seed}",
    "++dataset.columns={prompt: a, completion: b}", "dataset.data_files=[a,b]", "tracking.report_to=[wandb]",
    "evaluation.generation.answer_pattern='#### (.+)'", "model.config.a.b.c=1", "recipe=quickstart", "~adapter",
)  # fmt: skip
PIECES = (
    *"=.,:{}[]()'\"\\~+@$/ \t\n#&*|%-", "${", "}", "???", "null", "true", "{a:1}", "[1,2]", "choice(1,2)", "..", "\0",
    "1e999", "010", "12:30", "hydra", "defaults:\n  - ", "&a ", "*a", "!!str ", "<<: *a\n", "---\n", "- ", "? ", "|\n",
    "override /adapter: lora", "\ud800", "\u202e", "0x_", "_target_",
)  # fmt: skip
FILES = [recipes.find(name).read_text() for name in recipes.names()]


def mutated(text, draw):
    for _ in range(draw.choice([1, 1, 2, 4])):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.randrange(8))
        middle = draw.choice(["", draw.choice(PIECES), text[start:end] * 2])
        text = text[:start] + middle + text[end:]
    return text


@pytest.mark.parametrize("seed", range(40))
def test_an_override(seed, here):
    draw = random.Random(seed)
    words = [mutated(draw.choice(WORDS), draw) for _ in range(draw.choice([1, 2]))]
    accepted_or_refused(words)


@pytest.mark.parametrize("seed", range(40))
def test_a_recipe(seed, here):
    draw = random.Random(seed)
    text = mutated(draw.choice(FILES), draw)
    (here / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    accepted_or_refused(["recipe=./mine.yaml"])


def accepted_or_refused(words):
    with suppress(UserError):
        load_config(["model.path=m", "dataset.path=d", *words])
