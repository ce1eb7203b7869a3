"""The train stage: plan to trained model and scores. Knows no config composition, no verification and no Hub."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed

from finetune.config.task import ARGUMENTS
from finetune.data import index
from finetune.data.rows import Rows
from finetune.errors import UserError
from finetune.evaluation.evaluate import Evaluation, Spread, alone
from finetune.models import adapter, attention, fused_head, model, modules, quantization, tokenizer
from finetune.models.model import Loaded
from finetune.models.precision import DTYPES
from finetune.plan import identity
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training import answering, checkpoint, generators, guards, ranks, reference, resume, sharding, upstream
from finetune.training.callbacks import Heartbeat, MetricsFile, MovingRanks, Pace, early_stopping
from finetune.training.collate import packed
from finetune.training.resuming import Resuming
from finetune.training.saving import Lineage
from finetune.training.signals import Request
from finetune.training.stopping import StopAsked
from finetune.training.tracking import tracked
from finetune.training.trainer import Parts, add_callbacks, assemble
from finetune.training.trials import Trials

log = logging.getLogger(__name__)

SKIPPED, BASELINE = "skipped.json", "baseline.json"


@dataclass(frozen=True)
class Trained:
    """What the stage hands on."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    baseline: dict[str, float] | None
    """Scores of the untouched model."""
    scores: dict[str, float]
    seconds: float
    spread: Spread
    """How it is asked on: by all ranks, or, where the first one alone has all of it, by that one."""

    @property
    def is_here(self) -> bool:
        """Whether this rank has all of it."""
        return ranks.is_first() or self.spread is not alone


def train(plan: Plan, folder: RunFolder, request: Request | None = None) -> Trained:
    """Train as planned, from the newest checkpoint where there is one.

    Args:
        request: where a signal to stop is noted.
    Raises:
        Stopped: the request was followed; the last step is saved.
    """
    while True:
        try:
            with upstream.strict():
                return _train(plan, folder, request or Request())
        except guards.RollBack as why:
            if ranks.is_first():
                _go_back(folder, why)


def _train(plan: Plan, folder: RunFolder, request: Request) -> Trained:
    seeds = identity.seeds(plan)
    set_seed(seeds["init"])
    words = load_tokenizer(plan)
    rows = {split: load_rows(plan, split) for split in ("train", "validation")}
    evaluation = replace(evaluation_of(plan, words), spread=ranks.spread)

    loaded = load_base(plan)
    plan.config.task.configure(loaded.model, words, plan.facts)
    whole = plan.config.task.around(loaded.model, plan.source, words, plan.max_length)
    if plan.config.task.chunked:
        log.info("%s", fused_head.check(loaded.model, plan.precision.compute))
    rows = reference.compared(plan, folder, rows, evaluation, loaded.model)
    baseline = _baseline(plan, folder, evaluation, whole, words, rows["validation"])

    set_seed(seeds["init"])
    adapted = modules.with_core(whole, _adapted(plan, loaded))
    if rows["train"].is_packed:
        log.info("packing: %s", _isolated(plan, adapted, words))
    with tracked(plan, folder):
        parts = Parts(adapted, words, rows, _reference(plan))
        trainer = assemble(plan, parts, evaluation, str(folder / "checkpoints"))
        # After the trainer is made: TRL casts the adapters of a quantized base to bf16.
        adapter.cast_trainable(adapted, DTYPES[plan.precision.trainable])
        begun = trainer.lineage = lineage(plan, folder)  # type: ignore[attr-defined]
        heartbeat = _watch(trainer, plan, folder, request)
        with heartbeat:
            generators.seed(generators.mixed(seeds["dropout"], ranks.rank()))
            result = trainer.train(resume_from_checkpoint=str(begun.parent) if begun.parent else None)

    trained, spread = _in_one_piece(trainer, plan), alone if sharding.is_sharded(trainer) else ranks.spread
    done = Trained(trained, words, baseline, {}, result.metrics["train_runtime"], spread)
    scores = replace(evaluation, spread=spread)(trained, rows["validation"]) if done.is_here else {}
    return replace(done, scores=scores)


def _watch(trainer: Any, plan: Plan, folder: RunFolder, request: Request) -> Heartbeat:
    """Everything that happens beside the steps, in the order it happens."""
    heartbeat, skipped = Heartbeat(), folder.read(SKIPPED) or []
    add_callbacks(
        trainer,
        [
            Resuming(trainer),
            MetricsFile(folder / "metrics.jsonl"),
            heartbeat,
            *guards.chosen(trainer, plan.config.guards, [step for each in skipped for step in each["steps"]]),
            MovingRanks(),
            *early_stopping(plan),
            Pace(plan),
            StopAsked(trainer, request),
            Trials(trainer, plan),
        ],
    )
    return heartbeat


def _go_back(folder: RunFolder, why: guards.RollBack) -> None:
    """Remember, for good, which steps are left out from now on: those since the last checkpoint."""
    last = next(map(checkpoint.step_of, checkpoint.found(folder / "checkpoints")), 0)
    steps = list(range(last + 1, why.step + 1))
    log.warning("%s; going back to step %d, and leaving out the steps up to %d", why, last, why.step)
    folder.write(SKIPPED, [*(folder.read(SKIPPED) or []), {"steps": steps, "why": str(why)}])


def lineage(plan: Plan, folder: RunFolder) -> Lineage:
    """Where this run comes from, the same on every rank; see `resume.parent`."""
    found, error = ranks.attempt(lambda: resume.parent(plan, folder) if ranks.is_first() else None)
    if error:
        raise UserError(error)
    parent, began = ranks.of_first(found), folder.read("run.json")
    if parent:
        log.info("going on from %s", parent)
    return Lineage(began["id"], began["identity"], parent)


def load_rows(plan: Plan, split: str) -> Rows:
    """The prepared rows of a split, memory-mapped."""
    return index.load(Path(plan.rows), split)


def scored_rows(plan: Plan, folder: RunFolder, split: str) -> Rows:
    """The rows of a split, ready to be scored by any process; the base is loaded where it has not been asked yet."""
    rows = load_rows(plan, split)
    found = reference.carried(plan, folder, rows, split)
    if found is not None:
        return found
    words, base = load_tokenizer(plan), load_base(plan).model
    plan.config.task.configure(base, words, plan.facts)
    return reference.compared(plan, folder, {split: rows}, evaluation_of(plan, words), base)[split]


def load_tokenizer(plan: Plan) -> PreTrainedTokenizerBase:
    """The tokenizer the rows were made with."""
    trust, kind = plan.config.model.trust_remote_code, plan.config.task.processing_class
    return tokenizer.load(plan.config.tokenizer, plan.source, trust, kind)


def evaluation_of(plan: Plan, words: PreTrainedTokenizerBase) -> Evaluation:
    """How this run scores a model."""
    config, size = plan.config, plan.evaluation_batch_size
    wanted = config.evaluation.metrics
    names = config.task.metrics(plan.facts) if wanted is None else wanted
    facts = {**plan.facts, ARGUMENTS: plan.arguments}
    return Evaluation(
        config.task, facts, config.task.scoring_collator(words), plan.precision.compute, size, tuple(names)
    )


def load_base(plan: Plan) -> Loaded:
    """The untouched model, in the dtype of the plan: trained weights as planned, frozen ones as they are stored."""
    config = plan.config
    architecture = model.config(config.model, plan.source, config.task, plan.facts)
    heads = partial(model.heads, architecture, config.task, config.model)
    quantizer = quantization.config(config.quantization, plan.precision, heads)
    whole = config.adapter["method"] == adapter.FULL
    dtype = plan.precision.trainable if whole else plan.precision.frozen
    return model.load(config.model, plan.source, architecture, config.task, dtype, quantizer)


def _reference(plan: Plan) -> Any | None:
    """A second copy of the base, which stays what it is, where training compares with one."""
    if not reference.is_held(plan):
        return None
    log.info("the untouched model is kept beside the one that is trained")
    return load_base(plan).model.eval().requires_grad_(False)


def _baseline(
    plan: Plan, folder: RunFolder, evaluation: Evaluation, base: Any, words: PreTrainedTokenizerBase, rows: Rows
) -> dict[str, float] | None:
    """Scores of the untouched model; a run that goes on has them already."""
    if not plan.config.evaluation.baseline:
        return None
    asked = {"rows": plan.rows, "metrics": list(evaluation.names), "answers": answering.key(plan, folder)}
    kept = folder.read(BASELINE) or {}
    if {name: kept.get(name) for name in asked} == asked:
        scores: dict[str, float] = kept["scores"]
        return scores
    questions, answer = answering.questions_of(folder), answering.of(plan, words, ranks.spread)
    log.info("scoring the untouched model on %d rows", len(rows))
    scores = {**evaluation(base, rows), **answer.scores(answer(base, questions))}
    if ranks.is_first():
        folder.write(BASELINE, {**asked, "scores": scores})
    return scores


def _adapted(plan: Plan, loaded: Loaded) -> Any:
    """The model with its adapter."""
    base = loaded.model
    if plan.config.quantization["method"] != quantization.NONE:
        base = adapter.prepare_quantized(base, checkpointing=bool(plan.arguments.get("activation_checkpointing")))
    return adapter.apply(base, plan.config.adapter, plan.config.task.peft_type, loaded.fresh)


def _in_one_piece(trainer: Any, plan: Plan) -> Any:
    """The trained model; where ranks hold shares of it, the first one is given a whole one."""
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if not sharding.is_sharded(trainer):
        return trained
    log.info("putting the model together from %d shares", ranks.world_size())
    weights = sharding.weights(trainer)
    sharding.release(trainer)
    if not ranks.is_first():
        return trained
    loaded = load_base(plan)
    plan.config.task.configure(loaded.model, load_tokenizer(plan), plan.facts)
    whole = _adapted(plan, loaded)
    adapter.cast_trainable(whole, DTYPES[plan.precision.trainable])
    sharding.fill_trained(whole, weights)
    return whole


def _isolated(plan: Plan, adapted: Any, words: PreTrainedTokenizerBase) -> str:
    """Proof that documents of a packed row do not see each other, as they are trained."""
    adapted.train()
    return attention.check_isolated(adapted, lambda used: packed(used, words.pad_token_id), plan.precision.compute)
