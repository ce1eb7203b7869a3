"""Disk: what a checkpoint of a tiny run weighs, and how many there are."""

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.estimate.disk import SMALL, disk
from finetune.estimate.setup import Setup

CONFIG = LlamaConfig(
    hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, vocab_size=999
)
SETUP = Setup(rows=1, length=8)


def model(device="meta", lora=False):
    with torch.device(device):
        bare = LlamaForCausalLM(CONFIG)
    return get_peft_model(bare, LoraConfig(r=8, target_modules="all-linear")) if lora else bare


def test_a_checkpoint_weighs_what_torch_and_safetensors_write(tmp_path):
    real = model("cpu")
    optimizer = torch.optim.AdamW(real.parameters())
    for parameter in real.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    written = sum(file.stat().st_size for file in tmp_path.iterdir())

    predicted = disk(model(), SETUP, 1, None, str(tmp_path)).checkpoint - SMALL

    assert abs(predicted - written) < 0.02 * written


def test_one_more_than_the_limit_is_there_while_it_is_written(tmp_path):
    assert disk(model(), SETUP, 10, 2, str(tmp_path)).kept == 3
    assert disk(model(), SETUP, 2, 5, str(tmp_path)).kept == 2
    assert disk(model(), SETUP, 10, None, str(tmp_path)).kept == 10
    assert disk(model(), SETUP, 0, 2, str(tmp_path)).total == disk(model(), SETUP, 0, 2, str(tmp_path)).model


def test_an_adapter_is_saved_alone(tmp_path):
    whole, adapter = (disk(model(lora=lora), SETUP, 3, 1, str(tmp_path)) for lora in (False, True))

    assert adapter.model - SMALL < 0.1 * (whole.model - SMALL)


def test_free_space_is_that_of_a_folder_that_is_not_there_yet(tmp_path):
    found = disk(model(), SETUP, 1, 1, str(tmp_path / "not" / "yet"))

    assert found.free > 0
    assert found.fits == (found.total <= found.free)
