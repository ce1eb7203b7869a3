"""Memory: against torch's own count, against published figures, and each part's rule."""

import math
import subprocess
import sys

import pytest
import torch
from counting import counted
from nf4 import packed
from peft import LoraConfig, get_peft_model
from shapes import adapted, skeleton
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from finetune.estimate import activations, memory, weights
from finetune.estimate.loss import FOLDED
from finetune.estimate.memory import estimate
from finetune.estimate.setup import Setup, Shards

GIB = 2**30
NF4 = {"method": "bitsandbytes_4bit", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}


def llama(dtype=torch.float32, lora=False, vocabulary=4096, layers=3, **more):
    config = LlamaConfig(
        hidden_size=256, intermediate_size=768, num_hidden_layers=layers, num_attention_heads=4, vocab_size=vocabulary,
        **more,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    if not lora:
        return model
    return get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"), autocast_adapter_dtype=False)


@pytest.mark.parametrize(
    ("compute", "checkpointing", "vocabulary"), [("fp32", False, 512), ("bf16", True, 512), ("bf16", False, 32000)]
)
def test_full_training_is_within_five_percent_of_the_count_of_torch(compute, checkpointing, vocabulary):
    setup = Setup(rows=4, length=256, compute=compute, checkpointing=checkpointing, device="cpu")

    predicted = estimate(llama(vocabulary=vocabulary), setup).peak
    count = counted(llama(vocabulary=vocabulary), 4, 256, compute, checkpointing)

    assert predicted == pytest.approx(count, rel=0.05)


def test_lora_is_within_ten_percent_of_the_count_of_torch():
    setup = Setup(rows=4, length=256, compute="bf16", frozen="bf16", device="cpu")

    def model():
        adapted = llama(torch.bfloat16, lora=True, layers=2)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return adapted

    count = counted(model(), 4, 256, "bf16")

    assert estimate(model(), setup).peak == pytest.approx(count, rel=0.1)


def test_qlora_is_within_ten_percent_of_the_count_of_torch():
    setup = Setup(
        rows=4, length=256, compute="bf16", frozen="bf16", quantization=NF4, checkpointing=True, device="cpu"
    )

    predicted = estimate(adapted(llama(torch.bfloat16, layers=2), dropout=0.05), setup).peak
    count = counted(adapted(packed(llama(torch.bfloat16, layers=2)), dropout=0.05), 4, 256, "bf16", checkpointing=True)

    assert predicted == pytest.approx(count, rel=0.1)


def test_gradients_of_accumulated_batches_are_there_in_the_second_forward_pass():
    once, twice = (estimate(llama(), Setup(rows=4, length=256, accumulation=count, device="cpu")) for count in (1, 2))

    assert twice.peak - once.peak == once.moments["step of the optimizer"]["gradients"]
    assert twice.peak == pytest.approx(counted(llama(), 4, 256, accumulation=2), rel=0.05)


def test_a_few_tokens_of_a_large_vocabulary_peak_where_tied_gradients_meet():
    found = estimate(llama(vocabulary=64000, tie_word_embeddings=True), Setup(rows=1, length=16, device="cpu"))

    assert found.moment == "end of the backward pass"
    count = counted(llama(vocabulary=64000, tie_word_embeddings=True), 1, 16)
    assert found.peak == pytest.approx(count, rel=0.05)


def test_a_published_qlora_is_met():
    """7.4 GiB for Llama-3.1-8B, 2 rows of 2,048 tokens: the table of github.com/pytorch/torchtune's README.

    Four of its 32 layers are counted here; the rest is alike.
    """
    common = {"rows": 2, "length": 2048, "trainable": "bf16", "beside_quantized": "bf16", "checkpointing": True,
              "loss": "chunked", "attention": "packed", "quantization": NF4}  # fmt: skip
    four, eight = (
        estimate(adapted(skeleton("meta-llama/Llama-3.1-8B", dtype=torch.bfloat16, layers=count)), Setup(**common))
        for count in (2, 4)
    )
    whole = four.peak + (eight.peak - four.peak) * 15

    assert whole / GIB == pytest.approx(7.4, rel=0.15)


def test_four_bits_take_what_bitsandbytes_allocates():
    import bitsandbytes

    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(1024, 512), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    parts = (packed, state.absmax, state.state2.absmax)

    bits = weights.stored_bits(NF4)
    assert sum(part.nbytes for part in parts) == pytest.approx(1024 * 512 * bits / 8, rel=1e-3)
    assert weights.stored_bits({**NF4, "bnb_4bit_use_double_quant": False}) == 4.5


def test_the_head_and_the_embeddings_stay_out_of_quantization_and_in_fp32():
    found = {weight.name: weight for weight in weights.of(llama(torch.bfloat16, lora=True), Setup(
        rows=1, length=8, compute="bf16", quantization=NF4))}  # fmt: skip

    plain = [name for name, weight in found.items() if weight.bits is None and not weight.trained]
    assert all(any(word in name for word in ("lm_head", "embed_tokens", "norm")) for name in plain)
    assert {found[name].dtype for name in plain} == {torch.float32}
    assert sum(weight.bits is not None for weight in found.values()) == 3 * 7


@pytest.mark.parametrize(
    ("optim", "bytes_each"),
    [("adamw_torch_fused", 8), ("adamw_torch", 8), ("sgd", 0), ("lion_32bit", 4), ("paged_adamw_32bit", 8),
     ("adamw_8bit", 2 + 8 / 256), ("paged_lion_8bit", 1 + 4 / 256), ("adamw_torch_4bit", 1 + 8 / 256),
     ("ademamix", 12), ("schedule_free_sgd", 4), ("stable_adamw", 8), ("rmsprop", 4), ("adagrad", 4)],
)  # fmt: skip
def test_what_an_optimizer_keeps(optim, bytes_each):
    weight = weights.Weight("w", (512, 512), torch.float32, True, embeds=False)

    assert weights.state_bytes(optim)(weight) == pytest.approx(512 * 512 * bytes_each)


def test_adamw_keeps_what_the_table_says():
    parameter = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(value.nbytes for value in optimizer.state[parameter].values() if value.dim())

    assert kept == weights.state_bytes("adamw_torch")(weights.Weight("w", (64, 64), torch.float32, True, False))


def test_adafactor_keeps_a_row_and_a_column():
    from transformers.optimization import Adafactor

    parameter = torch.nn.Parameter(torch.ones(64, 32))
    optimizer = Adafactor([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(value.nbytes for value in optimizer.state[parameter].values() if torch.is_tensor(value) and value.dim())

    assert kept == weights.state_bytes("adafactor")(weights.Weight("w", (64, 32), torch.float32, True, False))


def test_every_optimizer_of_transformers_is_known_or_said_to_be_unknown():
    from transformers.training_args import OptimizerNames

    unknown = {name.value for name in OptimizerNames if weights.state_bytes(name.value) is None}

    assert all(name.startswith(("galore", "apollo", "lomo", "adalomo", "grokadamw")) for name in unknown)
    found = estimate(llama(), Setup(rows=1, length=8, optim="galore_adamw"))
    assert any("galore_adamw" in note and "more will be needed" in note for note in found.notes)


def test_eager_attention_writes_scores_down():
    plain, eager = (
        estimate(llama(), Setup(rows=1, length=1024, attention=name)).parts["activations"]
        for name in ("sdpa", "eager")
    )

    # One fp32 tensor of heads x length x length a layer, less what sdpa keeps in its place.
    assert eager - plain > 0.5 * 3 * 4 * 1024 * 1024 * 4


def test_the_chunked_loss_has_no_logits_of_every_token():
    whole, chunked = (
        estimate(llama(vocabulary=64000), Setup(rows=8, length=512, loss=loss)) for loss in ("logits", "chunked")
    )

    assert whole.parts["logits"] == 8 * 512 * 64000 * 12
    assert chunked.parts["logits"] < whole.parts["logits"] / 3


def test_shards_divide_what_they_shard():
    one, four = (
        estimate(llama(), Setup(rows=1, length=8, shards=shards)) for shards in (Shards(), Shards(optimizer=4))
    )

    assert four.parts["optimizer"] == one.parts["optimizer"] // 4
    assert four.parts["weights"] == one.parts["weights"]


def test_a_classifier_and_a_mixture_of_experts_are_counted():
    with torch.device("meta"):
        bert = BertForSequenceClassification(BertConfig(num_hidden_layers=2))
        mixture = MixtralForCausalLM(
            MixtralConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                          num_key_value_heads=2, vocab_size=512, num_local_experts=4)
        )  # fmt: skip
    for model in (bert, mixture):
        found = estimate(model, Setup(rows=4, length=64, compute="bf16"))
        assert found.notes == ()
        assert found.parts["activations"] > 0


def test_an_architecture_that_cannot_be_traced_says_so():
    model = llama()
    model.forward = lambda input_ids=None, **_: bool(input_ids.sum())

    found = estimate(model, Setup(rows=2, length=64))

    assert any("formula" in note for note in found.notes)
    assert found.parts["activations"] > 0


def test_an_estimate_leaves_the_skeleton_as_it_was():
    model = llama().eval()
    before = model.config._attn_implementation

    estimate(model, Setup(rows=2, length=16, attention="eager"))

    assert not model.training
    assert model.config._attn_implementation == before
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_what_autograd_keeps_grows_with_the_rows():
    two, four = (memory.activations(llama(), Setup(rows=rows, length=64))[0] for rows in (2, 4))

    assert two.scaled(2).whole() == pytest.approx(four.whole(), rel=0.01)
    assert math.isclose(two.scaled(2).logits, four.logits)


def test_an_input_of_another_kind_is_named():
    model = llama()
    model.main_input_name = "tables"

    with pytest.raises(activations.Untraceable, match="tables"):
        activations.inputs(model, 1, 8, masked=False)


def test_tiles_of_logits_take_what_torch_folds_them_by_where_there_is_no_kernel():
    """The forward and the backward pass of TRL's head in a process of its own, whose largest size is read.

    ``VmHWM`` is of this program alone; ``ru_maxrss`` is inherited from whoever started it (getrusage(2), execve).
    """
    code = """
import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction as Head
tokens, vocabulary = 1024, 32768
hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
Head.apply(hidden[:8], weight[:64], None, torch.zeros(8, dtype=torch.long), 1.0, 64, None, 1.0, ("log_probs",))
def size(of): return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(of))
before, tile = size("VmRSS"), tokens * vocabulary * 4
found = Head.apply(hidden, weight, None, torch.zeros(tokens, dtype=torch.long), 1.0, vocabulary, None, 1.0,
                   ("log_probs", "entropy", "is_top1"))
forward = size("VmHWM") - before
found[0].sum().backward()
print(forward / tile, (size("VmHWM") - before) / tile)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    forward, backward = map(float, said.split())
    assert forward == pytest.approx(FOLDED["forward"], abs=1)
    assert backward == pytest.approx(FOLDED["backward"], abs=1)
