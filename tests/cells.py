"""The runs that are tortured: what must be exact, what may change at a resume, what must not be found."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_runs
from crash import (
    SMALL,
    Fail,
    Kill,
    both_ended,
    differences,
    ended,
    once,
    outcome,
    output,
    planned_for_ranks,
    started_ranks,
    trained,
)  # fmt: skip
from safetensors.torch import load_file

from finetune.plan.run_folder import RunFolder
from finetune.training import peers

DROPOUT = "model.config={hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}"
FULL = tiny_runs.classify(*SMALL, DROPOUT, "trainer.save_steps=2")
LORA = ("adapter=lora", "adapter.lora_dropout=0.1")
PACKED = ("packing=best_fit", "tokenizer.max_length=48", "trainer.per_device_train_batch_size=1",
          "model.config={attention_dropout: 0.1}")  # fmt: skip
KEPT_DROPOUT = "trainer.disable_dropout=false"
KILLED: dict[str, Sequence[str]] = {
    "full": FULL,
    "lora": tiny_runs.classify(*SMALL, *LORA, "trainer.save_steps=2"),
    "chat": tiny_runs.chat(*SMALL, *LORA, "trainer.save_steps=2"),
    "masked lm": tiny_runs.masked(*SMALL, DROPOUT, "trainer.save_steps=2"),
    "packed": tiny_runs.chat(*SMALL, *PACKED, "trainer.save_steps=2"),
    "chat full": tiny_runs.chat(*SMALL, "trainer.save_steps=2", "model.config={attention_dropout: 0.1}"),
    "preference": tiny_runs.prefer("preference", *SMALL, *LORA, KEPT_DROPOUT, "trainer.save_steps=2"),
    "translation": tiny_runs.translate(*SMALL, *LORA, "model.config={dropout: 0.1}", "trainer.save_steps=2"),
    "kto full": tiny_runs.prefer("kto", *SMALL, "trainer.save_steps=2"),
}
TWO = tiny_runs.classify(
    *SMALL, DROPOUT, "global_batch_size=8", "trainer.per_device_train_batch_size=2", "trainer.max_steps=60"
)
EVALUATED = ("trainer.eval_strategy=steps", "trainer.eval_steps=2", "trainer.save_steps=2")
BEST = (*EVALUATED, "trainer.load_best_model_at_end=true", "trainer.metric_for_best_model=eval_loss")
EPOCHS = ("trainer.max_steps=-1", "trainer.num_train_epochs=2", "trainer.save_strategy=epoch", "~trainer.save_steps")
TIED = ("model.config={attention_dropout: 0.1, tie_word_embeddings: true}",)
MATRIX: dict[str, tuple[Sequence[str], int]] = {
    f"{base} {name}": ([*recipe, *more], step)
    for base, recipe in {
        "classify": tiny_runs.classify(*SMALL, DROPOUT),
        "classify lora": tiny_runs.classify(*SMALL, *LORA),
        "masked lm": tiny_runs.masked(*SMALL, DROPOUT),
        "chat": tiny_runs.chat(*SMALL, "model.config={attention_dropout: 0.1}"),
        "chat lora": tiny_runs.chat(*SMALL, *LORA),
        "chat tied": tiny_runs.chat(*SMALL, *TIED),
        "chat packed": tiny_runs.chat(*SMALL, "packing=best_fit", "tokenizer.max_length=24", *TIED),
        "preference": tiny_runs.prefer("preference", *SMALL),
        "preference lora": tiny_runs.prefer("preference", *SMALL, *LORA, KEPT_DROPOUT),
        "precomputed": tiny_runs.prefer("preference", *SMALL, "trainer.precompute_ref_log_probs=true"),
        "orpo": tiny_runs.prefer("orpo", *SMALL),
        "kto": tiny_runs.prefer("kto", *SMALL, "trainer.train_sampling_strategy=random"),
        "translation": tiny_runs.translate(*SMALL, "model.config={dropout: 0.1}"),
        "translation lora": tiny_runs.translate(*SMALL, *LORA),
        "reward": tiny_runs.prefer("reward", *SMALL, *LORA, KEPT_DROPOUT),
    }.items()
    for name, more, step in (
        ("mid-epoch", (), 8),
        ("accumulated", ("global_batch_size=8", "trainer.max_steps=13"), 10),
        ("at the end of an epoch", ("trainer.save_steps=6", "trainer.per_device_train_batch_size=8"), 7),
        ("after a whole run", ("trainer.logging_steps=5",), 12),
        ("workers", ("trainer.dataloader_num_workers=2",), 7),
        ("best model", BEST, 9),
        ("by length", ("trainer.train_sampling_strategy=group_by_length",), 10),
        ("epochs", EPOCHS, 17),
    )
}

MATRIX |= {
    f"packed lora {name}": ([*tiny_runs.chat(*SMALL, *PACKED, *LORA), *more], step)
    for name, more, step in (
        ("mid-epoch", (), 8),
        ("workers", ("global_batch_size=2", "trainer.dataloader_num_workers=2"), 7),
        ("streamed", ("dataset.streaming=true", "dataset.limit=40"), 10),
    )
}


def straight(name: str, recipe: Sequence[str], base: Path) -> tuple[dict, float]:
    """The outcome of a run that was left alone, and its seconds; made once below a folder."""
    folder = base / f"straight-{name}"
    if not (folder / "seconds").is_file():
        started = time.monotonic()
        end = once(lambda: trained(recipe, folder), folder)
        assert end.code == 0, end.output
        (folder / "seconds").write_text(str(time.monotonic() - started))
    return outcome(folder), float((folder / "seconds").read_text())


def straight_two(base: Path, recipe: Sequence[str] = TWO) -> dict:
    folder = planned_for_ranks(recipe, base / "straight-two")
    ends = both_ended(started_ranks(folder), folder)
    assert [end.code for end in ends] == [0, 0], ends[0].output
    return outcome(folder.path)


def wait_for_steps(folder: RunFolder, log: Path, seconds: float) -> None:
    """Until steps are taken, and a while longer."""
    for _ in range(3000):
        if log.is_file() and "step " in log.read_text(errors="replace"):
            break
        time.sleep(0.01)
    time.sleep(seconds)


def is_exact(name: str, base: Path) -> bool:
    """Killed at a step and resumed, equal to the run that was not."""
    recipe, step = MATRIX[name]
    whole, _ = straight(name.replace(" ", "-"), recipe, base)
    folder = base / name.replace(" ", "-")
    killed = once(lambda: trained(recipe, folder, [Kill(step)]), folder)
    resumed = once(lambda: trained(recipe, folder), folder)
    assert killed.code == -9, killed.output
    assert resumed.code == 0, resumed.output
    wrong = differences(whole, outcome(folder))
    if wrong:
        print(name, wrong)
    return not wrong


REFUSED = {
    "trainer.learning_rate": "trainer.learning_rate=0.02", "trainer.weight_decay": "trainer.weight_decay=0.1",
    "trainer.optim": "trainer.optim=sgd", "trainer.adam_beta1": "trainer.adam_beta1=0.8",
    "trainer.adam_beta2": "trainer.adam_beta2=0.9", "trainer.adam_epsilon": "trainer.adam_epsilon=1e-6",
    "trainer.max_grad_norm": "trainer.max_grad_norm=0.5",
    "trainer.lr_scheduler_type": "trainer.lr_scheduler_type=linear",
    "warmup_steps": "trainer.warmup_steps=5", "total_steps": "trainer.max_steps=20",
    "global_batch_size": "global_batch_size=8", "seeds.init": "seeds.init=7", "seeds.data": "seeds.data=7",
    "seeds.dropout": "seeds.dropout=7", "adapter.r": "adapter.r=4", "adapter.lora_alpha": "adapter.lora_alpha=7",
    "adapter.lora_dropout": "adapter.lora_dropout=0.2", "adapter.use_rslora": "adapter.use_rslora=true",
    "trainer.label_smoothing_factor": "trainer.label_smoothing_factor=0.1",
    "trainer.train_sampling_strategy": "trainer.train_sampling_strategy=sequential",
    "trainer.dataloader_drop_last": "trainer.dataloader_drop_last=true", "data.rows.train": "dataset.limit=20",
    "tokenizer.max_length": "tokenizer.max_length=16",
    "model.config.hidden_dropout_prob": "model.config.hidden_dropout_prob=0.3",
    "model.attn_implementation": "model.attn_implementation=eager", "precision.trainable": "precision.trainable=bf16",
    "task.overlong": "task.overlong=error", "trainer.neftune_noise_alpha": "trainer.neftune_noise_alpha=5.0",
}  # fmt: skip
ACCEPTED = {
    "trainer.logging_steps": "trainer.logging_steps=3", "trainer.save_steps": "trainer.save_steps=5",
    "trainer.save_total_limit": "trainer.save_total_limit=3", "trainer.eval_strategy": "trainer.eval_strategy=epoch",
    "trainer.dataloader_num_workers": "trainer.dataloader_num_workers=1",
    "trainer.per_device_eval_batch_size": "trainer.per_device_eval_batch_size=2",
    "trainer.run_name": "trainer.run_name=other", "evaluation.metrics": "evaluation.metrics=[accuracy]",
    "guards.spike": "guards.spike=off",
}  # fmt: skip


def mutations(base: Path) -> tuple[int, int, str]:
    """Each refused in lines that name field, old, new and the override; or accepted, and said."""
    recipe, folder = tiny_runs.classify(*SMALL, *LORA), base / "identity"
    killed = once(lambda: trained(recipe, folder, [Kill(7)]), folder)
    assert killed.code == -9, killed.output
    wrong = []
    for field, override in REFUSED.items():
        end = once(lambda override=override: trained([*recipe, override], folder), folder)
        named = f"  {field}: " in end.output and "→" in end.output and "checkpoint.accept=[" in end.output
        wrong += [] if end.code == 2 and named else [(field, end.code, end.output[-300:])]
    for field, override in ACCEPTED.items():
        end = once(lambda override=override: trained([*recipe, override], folder, [Kill(7)]), folder)
        wrong += [] if end.code == -9 and f"began: {field}: " in end.output else [(field, end.code, end.output[-300:])]
    accepted = ("trainer.learning_rate=0.02", "checkpoint.accept=[trainer.learning_rate]")
    end = once(lambda: trained([*recipe, *accepted], folder), folder)
    rates = [json.loads(line).get("learning_rate") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wrong += [] if end.code == 0 and max(filter(None, rates[3:])) > 0.008 else [("accepted", end.code, rates)]
    count = len(REFUSED) + len(ACCEPTED) + 1
    return count, count - len(wrong), str(wrong or "")


def lost_rank(base: Path) -> tuple[int, int, str]:
    """Killed, failing, or with a full disk, on either rank."""
    wrong, cases = [], 0
    faults = {"gone without a word": Kill(8), "a fault of the test": Fail(8), "No space left": Fail(6, "save")}
    for cause, fault in faults.items():
        for rank in (0, 1):
            folder = planned_for_ranks(TWO, base / f"lost{cases}")
            pids = started_ranks(folder, {rank: [fault]})
            first = ended(pids[rank], output(folder, rank), 60)
            started = time.monotonic()
            other = ended(pids[1 - rank], output(folder, 1 - rank), 60)
            seconds = time.monotonic() - started
            named = cause in other.output and f"rank {rank}" in other.output
            cases += 1
            good = first.code and other.code and seconds < 10 and named
            wrong += [] if good else [(cause, rank, first.code, other.code, round(seconds), other.output[-300:])]
    wrong += [("stood still", rank) for rank in (0, 1) if not is_missed(rank, base / f"still{rank}")]
    return cases + 2, cases + 2 - len(wrong), str(wrong or "")


def is_missed(rank: int, path: Path) -> bool:
    """Whether a rank that stands still ends the other within the patience and five seconds, by its name."""
    folder, patience = planned_for_ranks(TWO, path), 5.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers.watched.__wrapped__, "__defaults__", (patience,))
        pids = started_ranks(folder, {rank: [Kill(8, signal.SIGSTOP)]})
    os.waitpid(pids[rank], os.WUNTRACED)
    started = time.monotonic()
    other = ended(pids[1 - rank], output(folder, 1 - rank), 60)
    seconds = time.monotonic() - started
    os.kill(pids[rank], signal.SIGKILL)
    ended(pids[rank], output(folder, rank))
    return (
        other.code == 3 and seconds < patience + 5 and f"rank {rank}" in other.output and "stood still" in other.output
    )


def all_finite(folder: Path) -> bool:
    """Nothing that is no number in anything kept."""
    files = [*(folder / "checkpoints").rglob("*.safetensors"), *(folder / "model").rglob("*.safetensors")]
    tensors = (value for file in files for value in load_file(file).values() if value.is_floating_point())
    return all(bool(value.isfinite().all()) for value in tensors)


NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY",
         "AWS_SESSION_TOKEN", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "COMET_API_KEY", "DATABASE_URL")  # fmt: skip
CANARIES = {name: f"canary{number}x" for number, name in enumerate(NAMES)}


def canaries(base: Path) -> tuple[int, int, str]:
    """In no file of a run that is stopped, resumed and fails, nor in what it printed."""
    home, folder = base / "home", base / "secrets"
    home.mkdir()
    (home / ".netrc").write_text("machine huggingface.co login me password canarynetrc\n")
    os.environ.update(CANARIES, HOME=str(home))
    recipe, written = KILLED["lora"], base / "written.yaml"
    written.write_text("# @package _global_\ntrainer: {hub_token: hf_canaryconfig}\n")
    outputs = [
        once(lambda: trained(recipe, folder, [Kill(7, 15)]), folder).output,
        once(lambda: trained([*recipe, "trainer.hub_token=hf_canarycommandline"], folder), folder).output,
        once(lambda: trained([f"recipe={written}", *recipe], folder), folder).output,
        once(lambda: trained(recipe, folder, [Fail(9)]), folder).output,
        once(lambda: trained(recipe, folder), folder).output,
    ]
    kept = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    every = [*CANARIES.values(), "canarynetrc", "canarycommandline", "canaryconfig"]
    leaked = [
        each for each in every if any(each.encode() in content for content in [*kept, *map(str.encode, outputs)])
    ]
    return len(every), len(every) - len(leaked), str(leaked or "")
