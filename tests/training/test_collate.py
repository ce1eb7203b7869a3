"""Packed batches: the tensors TRL's collator makes, and the loss of each document as if it stood alone."""

import numpy as np
import pytest
import torch
from tiny import llama
from transformers import AutoModelForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finetune.errors import UserError
from finetune.models import attention
from finetune.training import collate

PAD = 1


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float64).eval()


def document(length, seed):
    random = np.random.default_rng(seed)
    ids = random.integers(6, 300, length)
    return {"input_ids": ids, "labels": np.where(random.random(length) < 0.6, ids, -100)}


def packed(*documents):
    row = {name: np.concatenate([one[name] for one in documents]) for name in ("input_ids", "labels")}
    return {**row, "seq_lengths": np.array([len(one["input_ids"]) for one in documents])}


DOCUMENTS = [document(length, seed) for seed, length in enumerate((7, 3, 12, 1, 9, 20))]
ROWS = [packed(*DOCUMENTS[:3]), packed(*DOCUMENTS[3:5]), packed(DOCUMENTS[5])]


def test_a_flat_batch_holds_the_tensors_of_trl():
    theirs = DataCollatorForLanguageModeling(pad_token_id=PAD, padding_free=True)
    expected = theirs([{name: value.tolist() for name, value in row.items()} for row in ROWS])
    found = collate.flat(ROWS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value))
        assert getattr(found[name], "dtype", int) == getattr(value, "dtype", int)


@pytest.mark.parametrize("order", [[0, 1], [1, 0], [0, 0], [0]])
def test_parts_of_one_array_are_joined_as_any_parts_are(order):
    whole = np.arange(8)
    parts = [(whole[:4], whole[4:])[at] for at in order]
    assert collate._end_to_end(parts).tolist() == np.concatenate(parts).tolist()
    assert (collate._end_to_end(parts) is whole) == (order == [0, 1])


def test_a_padded_batch_has_a_line_a_row_and_no_mask():
    found = collate.padded(ROWS, PAD)
    assert found.keys() == {"input_ids", "labels", "position_ids"}
    assert found["input_ids"].shape == (3, 22)
    assert found["input_ids"][1].tolist() == [*ROWS[1]["input_ids"], *[PAD] * 12]
    assert found["position_ids"][1].tolist() == [0, *range(9), *range(12)]
    assert found["labels"][1, :2].tolist() == [-100, -100]
    assert (found["labels"][1, 10:] == -100).all()


def summed(model, batch):
    """The summed loss of every trained token, and how many there are."""
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return loss, int((labels[:, 1:] != -100).sum())


@pytest.mark.parametrize("kind", ["flat", "padded"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_documents_have_the_loss_and_gradients_they_have_alone(model, kind, implementation):
    model.set_attn_implementation(implementation)
    batch = collate.flat(ROWS) if kind == "flat" else collate.padded(ROWS, PAD)
    together, count = summed(model, batch)
    alone = [
        summed(model, {name: torch.from_numpy(value)[None] for name, value in one.items()})
        for one in DOCUMENTS
        if len(one["input_ids"]) > 1
    ]
    assert count == sum(n for _, n in alone)
    expected = sum(loss for loss, _ in alone)
    # Eager attention takes its softmax in fp32, whatever the model's dtype.
    torch.testing.assert_close(together, expected, rtol=1e-9 if implementation == "sdpa" else 1e-6, atol=0)
    parameters = list(model.parameters())
    for found, wanted in zip(torch.autograd.grad(together, parameters), torch.autograd.grad(expected, parameters)):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9 if implementation == "sdpa" else 1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flash_attention_2"])
def test_kernels_of_variable_length_get_boundaries_and_others_a_line_a_row(implementation):
    batch = collate.packed(implementation, PAD)(ROWS)
    assert ("cu_seq_lens_q" in batch) == (implementation == "flash_attention_2")


def collator(used):
    return collate.packed(used, PAD)


@pytest.fixture
def compiled(monkeypatch):
    """As flex_attention is used."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_no_document_moves_a_logit_of_another(implementation, training):
    # flex_attention has no dropout.
    dropout = 0.0 if implementation == "flex_attention" else 0.1
    found = AutoModelForCausalLM.from_pretrained(
        llama(), dtype=torch.float32, attn_implementation=implementation, attention_dropout=dropout
    ).train(training)
    assert attention.leak(found, collator(implementation), "fp32") == 0.0


def with_mask(rows):
    batch = collate.padded(rows, PAD)
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def without_positions(rows):
    return {**collate.padded(rows, PAD), "position_ids": None}


@pytest.mark.parametrize("leaking", [with_mask, without_positions])
def test_a_collator_that_leaks_is_refused_with_an_implementation_that_would_do(leaking):
    found = AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32, attn_implementation="sdpa")
    with pytest.raises(
        UserError, match=r"changing one moves a logit of another by .* model\.attn_implementation=eager"
    ):
        attention.check_isolated(found, lambda used: leaking if used == "sdpa" else collator(used), "fp32")
    assert found.config._attn_implementation == "sdpa"


def test_where_every_implementation_leaks_packing_is_to_be_left_out(monkeypatch):
    monkeypatch.setattr(attention, "IMPLEMENTATIONS", ("sdpa", "eager"))
    found = AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32)
    with pytest.raises(UserError, match="Write packing=none"):
        attention.check_isolated(found, lambda _: with_mask, "fp32")


def test_a_model_that_does_not_look_at_its_input_proves_nothing():
    found = AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32)
    found.lm_head.weight.data.zero_()
    with pytest.raises(UserError, match="do not depend on its input"):
        attention.check_isolated(found, collator, "fp32")
