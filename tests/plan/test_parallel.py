"""The group `parallel`: what is refused before data is touched, what the trainer is given, what the memory is."""

import importlib.util

import pytest
import tiny_media
from tiny_runs import chat, config, masked, own_caches, prefer, translate

from finetune.config.places import OWNED
from finetune.errors import ConfigError, MissingExtra, UserError
from finetune.estimate.setup import Shards
from finetune.plan import parallel
from finetune.plan.planned import planned

TWO = ("launch=torchrun", "launch.nproc_per_node=2")
JOB = ("launch=slurm", "launch.gpus_per_node=2", "plan.device=a100_80gb")
"""Two GPUs that need not be here."""


@pytest.fixture(autouse=True)
def deepspeed(monkeypatch):
    """As if it were installed, for what is only looked up."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name if name == "deepspeed" else found(name, *a))


def check(*words: str, recipe=chat) -> str:
    return parallel.check(config(recipe(*words)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "one process"),
        (TWO, "ddp: each of 2 processes holds the whole model"),
        (("parallel=ddp", *TWO), "ddp: each of 2 processes holds the whole model"),
        (("parallel=fsdp2", *JOB), "fsdp2: each of 2 processes holds 1/2 of weights, gradients, optimizer"),
        (("parallel=zero2", *JOB), "zero2: each of 2 processes holds 1/2 of gradients, optimizer; DeepSpeed takes"),
        (("parallel=zero3_offload", *JOB), "zero3: each of 2 processes holds 1/2 of weights, gradients, optimizer;"),
    ],
)
def test_the_check_says_who_holds_what(words, said):
    assert check(*words).startswith(said)


@pytest.mark.parametrize(
    ("words", "refused", "instead"),
    [
        (("parallel=ddp",), "is for several processes, and this run has one", "launch=torchrun"),
        (("parallel=fsdp2", *TWO), "needs GPUs: on processors accelerate", "parallel=ddp"),
        (("parallel=zero2", *TWO), "needs GPUs", "parallel=ddp"),
        (("parallel=fsdp2", "adapter=dora", *JOB), "saved completely", "adapter=lora"),
        (("parallel=fsdp2", "adapter=prefix", *JOB), "saved completely", "parallel=ddp"),
        (("parallel=zero3", "adapter=lora", *JOB), "adapters with empty weights", "parallel=fsdp2"),
        (("parallel=zero3_offload", "adapter=qlora", *JOB), "adapters with empty weights", "parallel=zero2"),
        (("parallel=fsdp2", "adapter=qlora", *JOB), "stored as uint8 and computes in float32",
         "quantization.bnb_4bit_quant_storage=float32"),
        (("parallel=fsdp2", "adapter=lora", "quantization=bnb_8bit", *JOB), "cannot be shared out", "bnb_4bit"),
        (("parallel=fsdp2", "precision.trainable=bf16", *JOB), "trained weights in fp32", "precision.trainable=fp32"),
        (("parallel=fsdp2", "trainer.optim=adafactor", *JOB), "states of trainer.optim=adafactor",
         "trainer.optim=adamw_torch"),
        (("parallel=zero2", "guards.non_finite=skip", *JOB), "before a step can be left", "guards.non_finite=stop"),
        (("parallel=zero2", "guards.spike=rollback", *JOB), "before a step can be left", "guards.spike=stop"),
    ],
)  # fmt: skip
def test_what_would_train_something_else_is_refused_with_what_to_write(words, refused, instead):
    with pytest.raises(UserError) as refusal:
        check(*words)
    assert refused in str(refusal.value)
    assert instead in str(refusal.value).partition("Write ")[2]


def test_a_second_model_beside_the_trained_one_is_refused():
    def compared(*words):
        return prefer("preference", *words)

    with pytest.raises(UserError, match=r"holds a second model.*Write adapter=lora, or trainer\.precompute_ref_log"):
        check("parallel=fsdp2", *JOB, recipe=compared)
    assert check("parallel=fsdp2", "trainer.precompute_ref_log_probs=true", *JOB, recipe=compared)
    assert check("parallel=fsdp2", "adapter=lora", *JOB, recipe=compared)


def test_a_trainer_with_loops_of_its_own_is_refused():
    texts = config([word.replace("task=sft", "task=sentence_embedding") for word in chat("parallel=fsdp2", *JOB)])
    with pytest.raises(UserError, match=r"task=sentence_embedding is trained by whole copies\. Write parallel=ddp"):
        parallel.check(texts)


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (masked, "its layers share cls.predictions.bias"),
        (translate, "its layers share model.shared.weight"),
        (tiny_media.classify_sounds, "it names no input embeddings"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(recipe, why):
    with own_caches(), pytest.raises(UserError, match=rf"by layers: {why}\. Write parallel=zero2"):
        planned(config(recipe("parallel=fsdp2", *JOB)))


def test_a_four_bit_base_stored_as_it_computes_is_shared_out():
    assert check("parallel=fsdp2", "adapter=qlora", "quantization.bnb_4bit_quant_storage=float32", *JOB)
    stored = "quantization.bnb_4bit_quant_storage=bfloat16"
    assert check("parallel=fsdp2", "adapter=qlora", "precision.compute=bf16", stored, *JOB)


def test_deepspeed_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingExtra, match=r"finetune-recipes\[deepspeed\]"):
        check("parallel=zero2", *JOB)


@pytest.mark.parametrize(
    ("option", "instead"), [("tp", "parallel=fsdp2"), ("cp", "trainer.activation_checkpointing=true")]
)
def test_what_is_not_wired_names_what_serves_for_it(option, instead):
    with pytest.raises(ConfigError, match=f"(?s){option} is not an option of parallel.*{instead}"):
        config(chat(f"parallel={option}"))


@pytest.mark.parametrize(
    "key", ["fsdp=true", "fsdp_config={version: 2}", "deepspeed=ds.json", "parallelism_config={}"]
)
def test_the_libraries_own_switches_are_refused_beside_the_group(key):
    with pytest.raises(ConfigError) as refusal:
        config(chat(f"trainer.{key}"))
    assert OWNED["trainer"][key.partition("=")[0]] in str(refusal.value)
    assert "parallel=" in str(refusal.value)


def arguments(method: str) -> dict:
    return parallel.arguments(config(chat(f"parallel={method}", *JOB)))


def test_the_trainer_is_given_the_switches_of_each_method():
    auto = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        "auto",
    )
    assert arguments("none") == arguments("ddp") == {}
    assert arguments("fsdp2") == {"fsdp": True, "fsdp_config": {"version": 2, "cpu_offload": False}}
    assert arguments("fsdp2_offload") == {
        "fsdp": True, "fsdp_config": {"version": 2, "cpu_offload": True}, "ddp_backend": "cuda:nccl,cpu:gloo",
    }  # fmt: skip
    two, three, offloaded = (arguments(name)["deepspeed"] for name in ("zero2", "zero3", "zero3_offload"))
    assert (two["zero_optimization"]["stage"], three["zero_optimization"]["stage"]) == (2, 3)
    assert all(each.items() >= auto.items() for each in (two, three, offloaded))
    assert offloaded["zero_optimization"].items() >= {
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "cpu", "pin_memory": True},
    }.items()  # fmt: skip
    assert offloaded["zero_force_ds_cpu_optimizer"] is False


def test_the_memory_of_a_device_is_divided_by_the_ranks():
    def of(method: str) -> Shards:
        return parallel.shards(config(chat(f"parallel={method}", *JOB)), 2)

    assert of("ddp") == Shards()
    assert of("fsdp2") == Shards(optimizer=2, gradients=2, weights=2)
    assert of("zero2") == Shards(optimizer=2, gradients=2, kept=True)
    assert of("zero3") == Shards(optimizer=2, gradients=2, weights=2, kept=True)


def test_a_plan_in_shares_reaches_the_trainers_arguments_and_the_estimate():
    with own_caches():
        whole, shared = (
            planned(config(chat(f"parallel={name}", *JOB, "precision.compute=bf16")))[0]
            for name in ("ddp", "fsdp2_offload")
        )
    assert shared.arguments["fsdp"] is True
    assert "fsdp" not in whole.arguments
    last = "step of the optimizer"
    for part in ("weights", "gradients", "optimizer"):
        assert shared.costs.moments[last][part] == whole.costs.moments[last][part] // 2
    together = shared.costs.moments["model in one piece"]["weights"]
    assert together == whole.costs.moments[last]["weights"] * 3 // 2
    assert any("parallel.offload" in note for note in shared.costs.notes)
