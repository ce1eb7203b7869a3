"""Proof that what was saved is what was trained: a fresh process loads it and compares.

Run as `python -m finetune.artifacts.verify RUN`. Compared are logits on probe rows, the token ids of the tokenizer,
what its template makes of rows, the labels, and the scores on validation rows; an adapter must also differ from its
base.
"""

import gc
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from finetune.artifacts.save import load, load_tokenizer
from finetune.data import rendering
from finetune.data.rows import Rows
from finetune.data.store import processing_hash
from finetune.errors import FinetuneError
from finetune.models import adapter, modules
from finetune.models.precision import autocast
from finetune.plan import environment, frozen
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training.train import Trained, evaluation_of, load_rows, scored_rows

PROBE_ROWS, PROBE_TOKENS, KEPT_POSITIONS = 4, 128, 8
SCORED_ROWS, CLOSE = 256, 0.005
# Largest difference of a logit, as a share of the largest logit. A reloaded model repeats the same operations; what is
# left is the order of sums, in the dtype of the products.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
PROBE_TEXT = "The quick brown fox — déjà vu, 3.14 €."


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    name: str
    passed: bool
    detail: str


class VerificationError(FinetuneError):
    """The saved model is not the trained one."""


def record(trained: Trained, plan: Plan, folder: RunFolder) -> None:
    """Keep what the fresh process will compare with."""
    batch = _probe(plan, trained.tokenizer)
    logits = _logits(plan, trained.model, batch)
    save_file({**batch, "logits": logits}, folder / "probe.safetensors")
    evaluation = evaluation_of(plan, trained.tokenizer)
    scores = evaluation(trained.model, _scored(plan, folder))
    facts = {"tokenizer": _tokenizer_facts(trained.tokenizer), "generation": _generation(trained.model)}
    folder.write("probe.json", {"scores": scores, **facts})


def run(folder: RunFolder) -> list[Finding]:
    """Verify in a fresh process.

    Raises:
        VerificationError: a comparison failed; the findings are in verification.json.
    """
    (folder / "verification.json").unlink(missing_ok=True)
    _make_room()
    command = [sys.executable, "-m", __name__, str(folder.path)]
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment.alone())
    found = folder.read("verification.json")
    if found is None:
        raise VerificationError(f"the saved model could not be loaded in a fresh process:\n{outcome.stderr[-2000:]}")
    findings = [Finding(**item) for item in found]
    if failed := [finding for finding in findings if not finding.passed]:
        reasons = "; ".join(f"{finding.name}: {finding.detail}" for finding in failed)
        raise VerificationError(f"the saved model is not the trained one. {reasons}")
    return findings


def _make_room() -> None:
    """Give back what this process no longer needs: the other one loads a second copy beside it."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def compare(folder: RunFolder) -> list[Finding]:
    """Load the artifact and hold it against what was recorded."""
    plan = frozen.read(folder)
    model, recorded = load(plan, folder.model).eval(), folder.read("probe.json")
    tokenizer, rows = load_tokenizer(plan, folder.model), _scored(plan, folder)
    findings = [
        _same_logits(plan, model, folder),
        *_adapter_works(plan, model, folder),
        _same("tokenizer", _tokenizer_facts(tokenizer), recorded["tokenizer"]),
        *([_same("generation", _generation(model), recorded["generation"])] if recorded["generation"] else []),
        *_same_rendering(tokenizer, folder),
        *_same_labels(plan, model),
        same_scores(evaluation_of(plan, tokenizer)(model, rows), recorded["scores"], len(rows)),
    ]
    folder.write("verification.json", [asdict(finding) for finding in findings])
    return findings


def _probe(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    rows = load_rows(plan, "validation")
    shortest = np.argsort(rows.lengths, kind="stable")[:PROBE_ROWS].tolist()
    batch = plan.config.task.scoring_collator(tokenizer)(rows.__getitems__(shortest))
    if "input_ids" not in batch:  # an image or a sound is asked about whole
        return {name: value.contiguous() for name, value in batch.items()}
    return {name: value[:, :PROBE_TOKENS].contiguous() if value.ndim > 1 else value for name, value in batch.items()}


@torch.no_grad()
def _logits(plan: Plan, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    # A decoder makes its inputs from the labels; elsewhere they decide nothing.
    left_out = () if modules.core(model).can_generate() and model.config.is_encoder_decoder else ("labels",)
    given = {name: value.to(model.device) for name, value in batch.items() if name not in left_out}
    with autocast(plan.precision.compute):
        logits = plan.config.task.forward(model, given, plan.facts).logits
    kept = logits[:, -KEPT_POSITIONS:] if logits.ndim > 2 else logits
    return kept.float().cpu().contiguous()


def _same_logits(plan: Plan, model: Any, folder: RunFolder) -> Finding:
    probe = load_file(folder / "probe.safetensors")
    expected = probe.pop("logits")
    difference = (_logits(plan, model, probe) - expected).abs().max().item()
    allowed = TOLERANCE[plan.precision.compute] * expected.abs().max().item()
    return Finding("logits", difference <= allowed, f"largest difference {difference:.2g}, allowed {allowed:.2g}")


def _adapter_works(plan: Plan, model: Any, folder: RunFolder) -> list[Finding]:
    """An adapter whose keys do not match loads without an error and changes nothing."""
    if not adapter.is_adapted(model):
        return []
    probe = load_file(folder / "probe.safetensors")
    expected = probe.pop("logits")
    with adapter.switched_off(model) as base:
        moved = (_logits(plan, base, probe) - expected).abs().max().item()
    return [Finding("adapter", moved > 0, f"moves a logit by {moved:.2g}")]


def _same_rendering(tokenizer: PreTrainedTokenizerBase, folder: RunFolder) -> list[Finding]:
    """Rows as they were rendered for training, byte by byte, by what whoever serves the model will call."""
    rows = folder.read("rendered.json") or []
    if not rows:
        return []
    rendering.at(datetime.fromisoformat(rows[0]["at"]), tokenizer)
    texts = [str(tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)) for row in rows]
    differ = [
        at for at, (row, text) in enumerate(zip(rows, texts, strict=True)) if row["text"].encode() != text.encode()
    ]
    detail = f"{len(rows)} rows are rendered as they were trained"
    return [Finding("template", not differ, f"rows {differ} are rendered otherwise" if differ else detail)]


def _same_labels(plan: Plan, model: Any) -> list[Finding]:
    labels = plan.facts.get("labels")
    return [_same("labels", [model.config.id2label[at] for at in range(len(labels))], labels)] if labels else []


def same_scores(found: dict[str, float], expected: dict[str, float], rows: int) -> Finding:
    """Scores may differ by the rounding of the products.

    That is half a percent of a value; of a score that counts or ranks, also one row of those scored, which a tie
    decides. The loss has no ties.
    """
    far = {
        name: found.get(name)
        for name, value in expected.items()
        if _far(found.get(name), value, CLOSE if "loss" in name else max(CLOSE, 1 / rows))
    }
    detail = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    return Finding("scores", not far, detail if not far else f"{far}, expected {expected}")


def _far(found: float | None, expected: float, allowed: float) -> bool:
    return found is None or abs(found - expected) > 1.0001 * allowed * max(1.0, abs(expected))  # 0.8 - 0.7 > 0.1


def _same(name: str, found: Any, expected: Any) -> Finding:
    return Finding(name, found == expected, "equal" if found == expected else f"{found!r} is not {expected!r}")


def _scored(plan: Plan, folder: RunFolder) -> Rows:
    rows = scored_rows(plan, folder, "validation")
    return rows.select(range(min(SCORED_ROWS, len(rows))))


def _generation(model: Any) -> dict[str, Any] | None:
    """How the model decodes where nobody says otherwise; None where it writes nothing."""
    inner = modules.core(model)
    if not inner.can_generate():
        return None
    values: dict[str, Any] = inner.generation_config.to_dict()
    return {name: value for name, value in values.items() if value is not None and not name.startswith("_")}


def _tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What tells a tokenizer from others, or another processing class."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return {"processor": processing_hash(tokenizer)}
    return {
        "ids": tokenizer(PROBE_TEXT)["input_ids"],
        "chat_template": tokenizer.chat_template,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }


if __name__ == "__main__":
    compare(RunFolder(Path(sys.argv[1])))
