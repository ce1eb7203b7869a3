"""The conversion of a GGUF file, on a tiny one written here: content, cache, races, and what a user is told."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.errors import MissingExtra, UserError
from finetune.models.gguf import _publish, converted

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
HIDDEN, INNER, LAYERS = 8, 16, 1
HEADS, KV_HEADS, HEAD = 2, 1, 4
LAYER_SHAPES = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (KV_HEADS * HEAD, HIDDEN),
    "attn_v": (KV_HEADS * HEAD, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


def byte_letters() -> list[str]:
    """The 256 letters of GPT-2's byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) for b in printable] + [chr(0x100 + n) for n in range(256 - len(printable))]


def tiny_gguf(path: Path, left_out: str = "") -> dict[str, np.ndarray]:
    """A random tied Llama with a byte-level tokenizer; returns its tensors."""
    tokens = ["<unk>", "<s>", "</s>", *byte_letters(), "he", "hel"]
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in LAYER_SHAPES.items()}
    rng = np.random.default_rng(0)
    shapes.pop(left_out, None)
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *([1] * (len(tokens) - 3))])
    writer.add_token_merges(["h e", "he l"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def halves(weight: np.ndarray) -> np.ndarray:
    """GGUF interleaves the two halves of each head's rotary dimensions; transformers keeps them apart."""
    return weight.reshape(-1, HEAD // 2, 2, HIDDEN).swapaxes(1, 2).reshape(weight.shape)


def complete_folder(folder: Path, mark: str) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text(mark)
    return folder


def test_converts_weights_tokenizer_and_special_tokens(tmp_path):
    tensors = tiny_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf", tmp_path / "cache")

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert model.config.tie_word_embeddings
    assert (model.config.bos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id) == (1, 2, 2)
    attention = model.model.layers[0].self_attn
    for module, expected in (
        (model.get_input_embeddings(), tensors["token_embd"]),
        (attention.q_proj, halves(tensors["blk.0.attn_q"])),
        (attention.k_proj, halves(tensors["blk.0.attn_k"])),
        (attention.v_proj, tensors["blk.0.attn_v"]),
    ):
        assert torch.equal(module.weight, torch.tensor(expected).to(torch.bfloat16))

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("hello")["input_ids"]) == ["hel", "l", "o"]
    assert tokenizer.decode(tokenizer("naïve 東京\n")["input_ids"]) == "naïve 東京\n"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.chat_template == TEMPLATE


def test_converts_once_and_says_so(tmp_path, caplog):
    tiny_gguf(tmp_path / "tiny.gguf")
    with caplog.at_level(logging.INFO, logger="finetune.models.gguf"):
        first = converted(tmp_path / "tiny.gguf", tmp_path / "cache")
        inode = (first / "model.safetensors").stat().st_ino
        second = converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert second == first
    assert (second / "model.safetensors").stat().st_ino == inode
    said = [record.getMessage() for record in caplog.records if record.name == "finetune.models.gguf"]
    assert said == [f"converting tiny.gguf to bf16 safetensors in {first} (once)"]
    assert list((tmp_path / "cache").iterdir()) == [first]


def test_another_content_is_another_folder(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.gguf").write_bytes(content)
    # sha256 of b"one" and of b"two"
    one = tmp_path / "same-7692c3ad3540"
    two = tmp_path / "same-3fc4ccfe7458"
    complete_folder(one, "1")
    complete_folder(two, "2")
    assert converted(tmp_path / "a" / "same.gguf", tmp_path) == one
    assert converted(tmp_path / "b" / "same.gguf", tmp_path) == two


def test_a_folder_that_lost_its_weights_is_made_again(tmp_path):
    tiny_gguf(tmp_path / "tiny.gguf")
    folder = converted(tmp_path / "tiny.gguf", tmp_path / "cache")
    (folder / "model.safetensors").unlink()
    assert converted(tmp_path / "tiny.gguf", tmp_path / "cache") == folder
    assert (folder / "model.safetensors").is_file()


def test_the_slower_of_two_processes_keeps_the_first_folder(tmp_path):
    target = complete_folder(tmp_path / "target", "first")
    _publish(complete_folder(tmp_path / "staging", "second"), target)
    assert (target / "config.json").read_text() == "first"


def test_publishes_over_an_incomplete_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text("old")
    _publish(complete_folder(tmp_path / "staging", "new"), tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "new"


def test_missing_weights_are_refused(tmp_path):
    tiny_gguf(tmp_path / "part.gguf", left_out="blk.0.ffn_up")
    with pytest.raises(UserError, match=r"are missing \(1\), such as model\.layers\.0\.mlp\.up_proj\.weight"):
        converted(tmp_path / "part.gguf", tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "fake.gguf").write_bytes(b"not a GGUF file" * 10)
    with pytest.raises(UserError, match=r"fake\.gguf: cannot be converted"):
        converted(tmp_path / "fake.gguf", tmp_path / "cache")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "any.gguf").write_bytes(b"")
    with pytest.raises(MissingExtra, match=r'pip install "finetune-recipes\[gguf\]"') as raised:
        converted(tmp_path / "any.gguf", tmp_path / "cache")
    assert raised.value.exit_code == 3
