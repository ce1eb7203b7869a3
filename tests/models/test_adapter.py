"""Adapters: every method by its own name, fresh heads trained and saved, targets that exist."""

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file
from tiny_runs import bert, chat, classify, config, llama, own_caches, worked
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune.artifacts import verify
from finetune.errors import FinetuneError, UserError
from finetune.models import adapter
from finetune.models.model import fresh_modules
from finetune.plan import frozen
from finetune.plan.planned import planned

METHODS = {
    "lora": {"r": 4, "target_modules": "all-linear"},
    "lora dora": {"r": 4, "target_modules": "all-linear", "use_dora": True},
    "lora rslora": {"r": 4, "target_modules": "all-linear", "use_rslora": True},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "ia3": {},
    "adalora": {"total_step": 10, "target_modules": ["q_proj", "v_proj", "query", "value"]},
}


def bases():
    yield "CAUSAL_LM", AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.bfloat16), ()
    head = AutoModelForSequenceClassification.from_pretrained(bert(), num_labels=3, dtype=torch.bfloat16)
    yield "SEQ_CLS", head, ("classifier",)


def given(method: str, model) -> dict:
    options = dict(METHODS[method])
    if isinstance(options.get("target_modules"), list):
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        options["target_modules"] = [name for name in options["target_modules"] if name in names]
    return {"method": method.split()[0], **options}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_a_small_share_in_fp32_over_a_frozen_base(method):
    for peft_type, model, fresh in bases():
        adapted = adapter.apply(model, given(method, model), peft_type, fresh)
        adapter.cast_trainable(adapted, torch.float32)
        trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        share = sum(p.numel() for p in trained.values()) / sum(p.numel() for p in adapted.parameters())
        assert 0 < share < 0.6
        assert {p.dtype for p in trained.values()} == {torch.float32}
        frozen_dtypes = {p.dtype for p in adapted.parameters() if not p.requires_grad}
        assert frozen_dtypes == {torch.bfloat16}
        assert all(any(head in name for name in trained) for head in fresh)


def test_full_is_the_model_itself():
    for peft_type, model, fresh in bases():
        assert adapter.apply(model, {"method": "full"}, peft_type, fresh) is model
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("targets", [["query", "q_porj"], ["absent"]])
def test_a_target_that_names_nothing_is_an_error_with_what_exists(targets):
    _, (peft_type, model, fresh) = bases()
    with pytest.raises(UserError, match=rf"{targets[-1]} names no module.*Modules: .*\bquery\b.*\bvalue\b"):
        adapter.apply(model, {"method": "lora", "target_modules": targets}, peft_type, fresh)


def test_a_pattern_that_matches_nothing_is_an_error():
    _, (peft_type, model, fresh) = bases()
    with pytest.raises(UserError, match="adapter=lora"):
        adapter.apply(model, {"method": "lora", "target_modules": ".*absent"}, peft_type, fresh)


def test_a_layer_that_does_not_exist_is_an_error():
    _, (peft_type, model, fresh) = bases()
    options = {"target_modules": ["query"], "layers_to_transform": [7], "layers_pattern": "layer"}
    with pytest.raises(UserError, match="adapter=lora"):
        adapter.apply(model, {"method": "lora", **options}, peft_type, fresh)


def test_a_target_may_be_a_path_or_a_part_of_one():
    _, (peft_type, model, fresh) = bases()
    target = "encoder.layer.1.attention.self.query"
    adapted = adapter.apply(model, {"method": "lora", "target_modules": [target]}, peft_type, fresh)
    assert [name for name, _ in adapted.named_modules() if name.endswith("lora_A.default")] == [
        f"base_model.model.bert.{target}.lora_A.default"
    ]


def test_a_wrong_target_is_found_by_the_plan():
    with own_caches(), pytest.raises(UserError, match="names no module of BertForSequenceClassification"):
        planned(config(classify("adapter=lora", "adapter.target_modules=[query,absent]")))


@pytest.mark.parametrize(
    ("keys", "fresh"),
    [
        (["classifier.weight", "classifier.bias"], ("classifier",)),
        (["classifier.dense.weight", "classifier.out_proj.bias"], ("classifier",)),
        (["bert.pooler.dense.weight", "classifier.bias"], ("bert.pooler.dense", "classifier")),
    ],
)
def test_modules_that_no_checkpoint_filled(keys, fresh):
    assert fresh_modules(AutoModelForSequenceClassification.from_pretrained(bert()), keys) == fresh


OVERRIDES = {
    "lora": ["adapter=lora"],
    "dora": ["adapter=dora"],
    "rslora": ["adapter=rslora"],
    "prefix": ["adapter=prefix"],
    "prompt": ["adapter=prompt"],
    "ia3": ["adapter.method=ia3"],
    "adalora": ["adapter.method=adalora", "adapter.total_step=10", "adapter.tinit=2", "adapter.tfinal=2"],
}


@pytest.mark.parametrize("recipe", [classify, chat])
@pytest.mark.parametrize("method", OVERRIDES)
def test_a_trained_adapter_is_saved_whole_and_loads_as_it_was(method, recipe, tmp_path):
    quick = ["trainer.max_steps=10", "trainer.save_strategy='no'", "evaluation.baseline=false"]
    folder = worked(recipe(*OVERRIDES[method], *quick), tmp_path)
    assert {finding.name: finding.passed for finding in verify.compare(folder)}.items() >= {
        ("logits", True), ("adapter", True), ("scores", True),
    }  # fmt: skip
    saved = load_file(folder.model / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} <= {torch.float32, torch.int64}
    assert any("classifier" in name for name in saved) == (recipe is classify)
    planned = frozen.read(folder).model.trainable
    assert planned == pytest.approx(trainable(folder), rel=0.01)


def trainable(folder) -> int:
    """Trained weights, counted on the model itself."""
    from finetune.training import train

    plan = frozen.read(folder)
    adapted = train._adapted(plan, train.load_base(plan))
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_ranks_move_while_adalora_is_trained(tmp_path):
    folder = worked(
        chat(*OVERRIDES["adalora"], "trainer.max_steps=10", "adapter.init_r=4", "adapter.target_r=1"), tmp_path
    )
    pattern = PeftConfig.from_pretrained(folder.model).rank_pattern
    kept = [sum(ranks) for ranks in pattern.values()]
    assert sum(kept) == len(kept), "the ranks that are left are those asked for"
    assert len(set(kept)) > 1, "and they went where they are needed"


def test_checkpointing_that_a_prefix_would_not_survive_is_refused():
    with own_caches(), pytest.raises(UserError, match=r"layers that are computed again get none"):
        planned(config(chat("adapter=prefix", "trainer.activation_checkpointing=true")))


def test_an_adapter_saved_without_numbers_is_found_when_it_is_written(tmp_path):
    """As ZeRO-3 leaves its weights to whoever saves them: names, and nothing in them."""
    base = AutoModelForCausalLM.from_pretrained(llama())
    model = adapter.apply(base, given("lora", base), "CAUSAL_LM", ())
    whole = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    adapter.save(model, str(tmp_path / "whole"), state_dict=whole)
    for name, kept in (("empty", {name: torch.empty(0) for name in whole}), ("none", {})):
        with pytest.raises(FinetuneError, match=r"weights without a number|has no weight"):
            adapter.save(model, str(tmp_path / name), state_dict=kept)
    with pytest.raises(FinetuneError, match="was not written"):
        adapter.check_saved(tmp_path)
