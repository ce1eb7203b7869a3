"""Any architecture of transformers, made small by rules over names: it still builds, computes and learns."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from finetune.rehearse.architecture import shrink

DECODERS = (
    "apertus", "bloom", "cohere2", "deepseek_v3", "falcon", "falcon_h1", "gemma", "gemma2", "gemma3_text",
    "gemma3n_text", "gemma4_text", "glm4", "gpt2", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "jamba",
    "lfm2", "llama", "llama4_text", "mamba2", "minimax", "mistral", "mixtral", "nemotron_h", "olmo2", "olmoe", "opt",
    "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
ENCODERS = (
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "fnet", "mpnet",
    "modernbert", "roberta", "roformer", "xlm-roberta", "xlnet",
)  # fmt: skip
BOTH = ("bart", "blenderbot", "led", "m2m_100", "marian", "mbart", "mvp", "pegasus")
VOCABULARY, WEIGHTS = 400, 2_000_000


def loss_of(auto, config):
    torch.manual_seed(0)
    model = auto.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < WEIGHTS
    ids = torch.randint(5, 300, (2, 24))
    labels = torch.tensor([0, 1]) if auto is AutoModelForSequenceClassification else ids
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_made_small_learns_to_speak(model_type):
    assert 0 < loss_of(AutoModelForCausalLM, shrink(AutoConfig.for_model(model_type), VOCABULARY)) < 20


@pytest.mark.parametrize("model_type", ENCODERS)
def test_an_encoder_made_small_learns_to_tell_apart(model_type):
    assert 0 < loss_of(AutoModelForSequenceClassification, shrink(AutoConfig.for_model(model_type), VOCABULARY)) < 20


@pytest.mark.parametrize("model_type", BOTH)
def test_an_encoder_with_a_decoder_made_small_learns_to_answer(model_type):
    assert 0 < loss_of(AutoModelForSeq2SeqLM, shrink(AutoConfig.for_model(model_type), VOCABULARY)) < 20


@pytest.mark.parametrize("model_type", ["clip", "vit", "whisper", "llava", "wav2vec2", "qwen2_vl"])
def test_models_of_pictures_and_sound_made_small_can_be_built(model_type):
    with torch.device("meta"):
        whole = AutoModel.from_config(AutoConfig.for_model(model_type))
        small = AutoModel.from_config(shrink(AutoConfig.for_model(model_type), None))
    assert weights(small) < weights(whole) / 4


def weights(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_widths_keep_their_proportions():
    small = shrink(AutoConfig.for_model("llama", num_key_value_heads=8, intermediate_size=11008), VOCABULARY)
    assert (small.num_attention_heads, small.num_key_value_heads, small.head_dim) == (4, 1, 16)
    assert (small.hidden_size, small.intermediate_size) == (64, 176)
    assert (small.num_hidden_layers, small.vocab_size) == (2, VOCABULARY)


def test_one_layer_of_each_kind_is_kept():
    small = shrink(AutoConfig.for_model("qwen3_next"))
    assert small.layer_types == ["linear_attention", "full_attention"]


def test_what_single_layers_have_of_their_own_follows_them():
    whole = AutoConfig.for_model("gemma4_text")
    small = shrink(whole)
    assert small.layer_types == ["sliding_attention", "full_attention"]
    assert [whole.per_layer_config[layer].head_dim for layer in (0, 5)] == [256, 512]
    assert [small.per_layer_config[layer].head_dim for layer in (0, 1)] == [16, 32]


def test_experts_stay_experts():
    small = shrink(AutoConfig.for_model("deepseek_v3"))
    assert (small.n_routed_experts, small.num_experts_per_tok, small.n_group, small.topk_group) == (4, 2, 2, 2)
    assert small.first_k_dense_replace == 1  # a dense layer and one of experts


def test_without_a_new_vocabulary_the_old_one_stays():
    assert shrink(AutoConfig.for_model("qwen3")).vocab_size == AutoConfig.for_model("qwen3").vocab_size


def test_a_model_that_is_small_already_stays_as_it_is():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    small = AutoConfig.for_model("bert", vocab_size=100, **sizes)
    assert shrink(small, VOCABULARY).to_dict() == small.to_dict()
