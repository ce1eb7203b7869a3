"""TRL's fused head gives what a model's own head gives, is refused where it does not, and never holds all logits."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from finetune.config.task import ARGUMENTS
from finetune.errors import UserError
from finetune.models.fused_head import check, fused
from finetune.tasks.kto import KTO
from finetune.tasks.sft import SFT

VOCABULARY = 70_000
"""Above two slices of the fused head, so that what it holds is less than all logits."""
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "vocab_size": 128, "pad_token_id": 0}  # fmt: skip
ADAPTERS = {
    "none": None,
    "lora": LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


def sharp(model):
    """With logits that are far apart, as a trained model has them: scales and caps show."""
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0, 3)
    return model.eval()


def llama(vocabulary=128):
    torch.manual_seed(0)
    return sharp(LlamaForCausalLM(LlamaConfig(**{**SMALL, "vocab_size": vocabulary})))


def rows(vocabulary, length=48):
    drawn = torch.randint(1, vocabulary, (4, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": drawn, "attention_mask": torch.ones_like(drawn)}


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SMALL)),
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=128)),
        Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=5.0)),
        CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25)),
        GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_the_fused_head_gives_the_log_probabilities_of_the_model_s_own(model, compute):
    assert "own log-probabilities" in check(sharp(model), compute)
    assert "forward" not in vars(model)


def test_a_head_that_trl_does_not_know_is_refused_before_anything_is_trained():
    config = BertConfig(**{name: value for name, value in SMALL.items() if "key" not in name}, is_decoder=True)
    with pytest.raises(UserError, match=r"BertLMHeadModel: TRL's loss.* would train another model"):
        check(sharp(BertLMHeadModel(config)), "fp32")


def test_what_was_done_to_the_forward_pass_before_is_there_again():
    model = llama()
    before = model.forward = model.forward
    with fused(model):
        assert model.forward is not before
    assert model.forward is before


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_rows_are_scored_as_by_all_logits(adapter):
    model, batch = llama(), rows(128)
    model = get_peft_model(model, adapter).eval() if adapter else model
    batch["labels"] = batch["input_ids"].masked_fill(torch.arange(48) < 20, -100)
    task = SFT()
    with torch.no_grad():
        found, whole = task.forward(model, batch, {}), model(**batch)
    assert found.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    hits, _ = task.outcomes(found.logits, batch)
    likeliest = whole.logits[:, -48:-1].argmax(-1)[:, 19:]
    assert hits.tolist() == (likeliest == batch["labels"][:, 20:]).long().flatten().tolist()


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that is made."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(made) if torch.is_tensor(leaf)]
        self.found = max([self.found, *sizes])
        return made


def wanted(batch):
    """The same rows as KTO scores them."""
    said = (torch.arange(48) >= 20).long().expand(4, 48)
    return {**batch, "completion_mask": said, "label": torch.tensor([True, False] * 2), "answers": torch.tensor(1),
            "ref_logps": torch.zeros(4)}  # fmt: skip


@pytest.mark.parametrize("task", [SFT(), KTO()], ids=lambda task: task.name)
def test_scoring_never_writes_the_logits_of_all_tokens_down(task):
    model, batch = llama(VOCABULARY), rows(VOCABULARY)
    scored = {**batch, "labels": batch["input_ids"]} if isinstance(task, SFT) else wanted(batch)
    with torch.no_grad(), Largest() as largest:
        task.forward(model, scored, {ARGUMENTS: {"output_dir": "x"}})
    assert largest.found < 4 * 48 * VOCABULARY * 0.6
