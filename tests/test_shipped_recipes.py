"""Every shipped recipe: short, described, composed as it is, and rehearsed from end to end without the Hub."""

from pathlib import Path

import pytest
from tiny_runs import own_caches

from finetune.artifacts import verify
from finetune.config import recipes
from finetune.config.check import load_config
from finetune.rehearse.rehearse import Stage, rehearse

IN_A_FRESH_PROCESS = ("quickstart", "sft/smollm2_gsm8k_qlora")


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_composes_and_says_what_it_does(name: str) -> None:
    load_config([f"recipe={name}"])
    text = recipes.find(name).read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    assert f"#   finetune train recipe={name}\n" in text
    assert len(recipes.first_comment(recipes.find(name))) > 30


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_is_rehearsed_from_end_to_end_without_the_hub(name: str, tmp_path: Path) -> None:
    config, _ = load_config([f"recipe={name}"])
    verified = verify.run if name in IN_A_FRESH_PROCESS else all_passed
    with own_caches():
        done = [stage.name for stage in rehearse(config, tmp_path, verified=verified) if isinstance(stage, Stage)]
    assert done == ["planned", "trained", "resumed", "verified"]


def all_passed(folder):
    findings = verify.compare(folder)
    assert all(finding.passed for finding in findings), findings
    return findings
