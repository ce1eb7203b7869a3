"""Real architectures' shapes: facts of their published configs, nothing downloaded.

Each value is from the config.json at https://huggingface.co/NAME/blob/main/config.json, or where that is gated from a
mirror of it under the same model name.
"""

from __future__ import annotations

import torch
import transformers
from peft import LoraConfig, get_peft_model

CAUSAL, CLASSES, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM"


def _decoder(hidden, inner, layers, heads, kv, vocab, tied, **more):
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "vocab_size": vocab, "tie_word_embeddings": tied, **more,
    }  # fmt: skip


SHAPES = {
    "HuggingFaceTB/SmolLM2-135M": (CAUSAL, "LlamaConfig", _decoder(576, 1536, 30, 9, 3, 49152, True)),
    "meta-llama/Llama-3.2-1B": (CAUSAL, "LlamaConfig", _decoder(2048, 8192, 16, 32, 8, 128256, True)),
    "meta-llama/Llama-3.2-3B": (CAUSAL, "LlamaConfig", _decoder(3072, 8192, 28, 24, 8, 128256, True, head_dim=128)),
    "meta-llama/Llama-3.1-8B": (CAUSAL, "LlamaConfig", _decoder(4096, 14336, 32, 32, 8, 128256, False)),
    "mistralai/Mistral-7B-v0.3": (
        CAUSAL, "MistralConfig", _decoder(4096, 14336, 32, 32, 8, 32768, False, sliding_window=None)
    ),
    "Qwen/Qwen3-8B": (CAUSAL, "Qwen3Config", _decoder(4096, 12288, 36, 32, 8, 151936, False, head_dim=128)),
    "google/gemma-2-2b": (CAUSAL, "Gemma2Config", _decoder(2304, 9216, 26, 8, 4, 256000, True, head_dim=256)),
    "google-bert/bert-base-uncased": (CLASSES, "BertConfig", {}),
    "FacebookAI/roberta-large": (
        CLASSES, "RobertaConfig",
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
         "vocab_size": 50265, "max_position_embeddings": 514},
    ),
    "google-t5/t5-base": (
        SEQ2SEQ, "T5Config", {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "vocab_size": 32128}
    ),
}  # fmt: skip


def skeleton(name, *, dtype=torch.float32, layers=None):
    """A model of that shape on the meta device."""
    auto, config_class, values = SHAPES[name]
    config = getattr(transformers, config_class)(**values)
    if layers:
        config.num_hidden_layers = layers
        if hasattr(config, "num_decoder_layers"):
            config.num_decoder_layers = layers
        if hasattr(config, "layer_types"):
            config.layer_types = config.layer_types[:layers]
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(config, dtype=dtype)


def adapted(model, trainable=torch.float32, dropout=0.0):
    """LoRA on every linear layer, trained in a dtype of its own."""
    config = LoraConfig(r=16, target_modules="all-linear", lora_dropout=dropout)
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trainable)
    return model
