"""The cheapest changes that make a run fit a device, each as overrides to type, with the memory it then needs.

Knows estimates and what a change costs; knows nothing of how a recipe is composed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from finetune.estimate import memory
from finetune.estimate.activations import Kept
from finetune.estimate.memory import Estimate
from finetune.estimate.setup import Setup
from finetune.estimate.static import Static, static_of

MOST_TOGETHER = 4
"""More changes than these at once are another run."""
ROWS, SCORED, LENGTH, CHECKPOINTING, LOSS, OPTIMIZER, PRECISION, ADAPTER = (
    "rows", "scored", "length", "checkpointing", "loss", "optimizer", "precision", "adapter",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Overrides that make it fit."""

    overrides: tuple[str, ...]
    cost: str
    """What is paid, in words."""
    estimate: Estimate


@dataclass(frozen=True)
class Situation:
    """A run that does not fit, and what could be typed."""

    setup: Setup
    adapter: str
    """The method: full, lora, …"""
    build: Callable[[str], Any]
    """The skeleton with the adapter of that option of the group `adapter`: full, lora, qlora."""
    global_batch: int
    """Rows an optimizer step, over all devices, which stay as they are."""
    chunked_by: str | None = None
    """The override that makes the loss a chunked one, where the task has one."""
    bitsandbytes: bool = True
    """Whether it is installed, and the device one that it serves."""


@dataclass(frozen=True)
class Candidate:
    """One change."""

    kind: str
    """At most one of a kind is taken."""
    override: str
    why: str
    price: float
    """For the order alone: the share by which a step gets slower, and 1 or more where the result is another."""
    setup: dict[str, Any] = field(default_factory=dict)
    """Fields of `Setup` that change."""
    adapter: str | None = None


def changes(situation: Situation, budget: int, count: int = 3) -> list[Change]:
    """The first `count` that fit, alone or together, the cheapest first.

    Args:
        budget: bytes the device has.
    """
    estimates = _Estimates(situation, budget)
    found: list[Change] = []
    taken: list[set[str]] = []
    for together in _by_price(list(_candidates(situation))):
        # A smaller batch than one that is enough is no news.
        names = {each.kind if each.kind in (ROWS, SCORED) else each.override for each in together}
        if any(names >= fewer for fewer in taken):
            continue
        estimate = estimates(together)
        if estimate and estimate.needed <= budget:
            taken.append(names)
            found.append(_change(together, situation, estimate))
        if len(found) == count:
            break
    return found


def _candidates(situation: Situation) -> Iterator[Candidate]:
    """What could be changed, each with its price and the reason of it."""
    setup = situation.setup
    if setup.loss == "logits" and situation.chunked_by:
        yield Candidate(LOSS, situation.chunked_by, "same result, same speed", 0.0, {"loss": "chunked"})
    for rows in _smaller(setup.rows):
        slower = 0.02 * setup.rows / rows
        changed = {"rows": rows, "accumulation": setup.accumulation * setup.rows // rows}
        override = f"trainer.per_device_train_batch_size={rows}"
        yield Candidate(ROWS, override, "same result, slower where a device is not full", slower, changed)
    for rows in _smaller(setup.scored_rows or 1):
        yield Candidate(SCORED, f"evaluation.batch_size={rows}", "same scores", 0.01, {"scored_rows": rows})
    if not setup.checkpointing:
        yield Candidate(CHECKPOINTING, "trainer.activation_checkpointing=true", "same result, a step takes about 30 % "
                        "longer", 0.3, {"checkpointing": True})  # fmt: skip
    pages = situation.bitsandbytes and setup.device != "cpu"
    if pages and setup.optim.startswith(("adamw_torch", "adamw_bnb", "adamw_8bit")):
        yield Candidate(OPTIMIZER, "trainer.optim=paged_adamw_8bit", "8-bit states, within noise in arXiv 2110.02861; "
                        "a step takes about 5 % longer", 0.35, {"optim": "paged_adamw_8bit"})  # fmt: skip
    if setup.trainable == "fp32" and situation.adapter == "full" and setup.compute == "bf16":
        yield Candidate(PRECISION, "precision=bf16_pure", "trained weights in bf16: small updates are lost", 1.5,
                        {"trainable": "bf16"})  # fmt: skip
    yield from _adapters(situation)
    if setup.length > 1 and setup.shapes is None:
        half = setup.length // 2
        override = f"tokenizer.max_length={half // setup.sequences}"
        yield Candidate(LENGTH, override, "longer rows are dropped or cut", 3.0, {"length": half})


def _adapters(situation: Situation) -> Iterator[Candidate]:
    if situation.adapter == "full":
        yield Candidate(ADAPTER, "adapter=lora", "trains a small share of the weights: learns less, forgets less "
                        "(arXiv 2405.09673)", 1.0, {}, "lora")  # fmt: skip
    if situation.bitsandbytes and situation.setup.quantization["method"] == "none":
        nf4 = {"method": "bitsandbytes_4bit", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}
        yield Candidate(ADAPTER, "adapter=qlora", "LoRA over a 4-bit base (arXiv 2305.14314); a step takes up to a "
                        "third longer", 1.2, {"quantization": nf4}, "qlora")  # fmt: skip


def _smaller(rows: int) -> Iterator[int]:
    """Halves that divide it, so that the global batch stays."""
    while rows % 2 == 0:
        rows //= 2
        yield rows
    if rows > 1:
        yield 1


def _by_price(candidates: list[Candidate]) -> list[tuple[Candidate, ...]]:
    """Every set of changes of different kinds, the cheapest first."""
    sets = [
        together
        for count in range(1, MOST_TOGETHER + 1)
        for together in combinations(candidates, count)
        if len({candidate.kind for candidate in together}) == count and not _contradict(together)
    ]
    return sorted(sets, key=lambda together: (sum(candidate.price for candidate in together), len(together)))


def _contradict(together: tuple[Candidate, ...]) -> bool:
    """Trained weights of an adapter are few: their precision saves nothing."""
    kinds = {candidate.kind for candidate in together}
    return {PRECISION, ADAPTER} <= kinds


def _change(together: tuple[Candidate, ...], situation: Situation, estimate: Estimate) -> Change:
    overrides = [candidate.override for candidate in together]
    if any(candidate.kind == ROWS for candidate in together):
        overrides.append(f"global_batch_size={situation.global_batch}")
    return Change(tuple(overrides), "; ".join(candidate.why for candidate in together), estimate)


class _Estimates:
    """Estimates of changed runs. What autograd keeps is counted once for each length, adapter and dtype."""

    def __init__(self, situation: Situation, budget: int) -> None:
        self.situation, self.budget = situation, budget
        self.models: dict[str, Any] = {}
        self.kept: dict[Any, Any] = {}
        self.static: dict[Any, Static] = {}

    def __call__(self, together: tuple[Candidate, ...]) -> Estimate | None:
        """None where the weights and states alone are too much: then nothing has to be counted."""
        changed = {name: value for candidate in together for name, value in candidate.setup.items()}
        setup = replace(self.situation.setup, **changed)
        adapter = next((c.adapter for c in together if c.adapter), self.situation.adapter)
        static = self._static(adapter, setup)
        if static.weights + static.adapter + static.optimizer + static.gradients > self.budget:
            return None
        kept, notes = self._activations(adapter, setup)
        return memory.account(static, kept, setup, notes)

    def _model(self, adapter: str) -> Any:
        if adapter not in self.models:
            self.models[adapter] = self.situation.build(adapter)
        return self.models[adapter]

    def _activations(self, adapter: str, setup: Setup) -> tuple[Kept, tuple[str, ...]]:
        key, rows = (adapter, setup.length, setup.trainable), self.situation.setup.rows
        if key not in self.kept:
            self.kept[key] = memory.activations(self._model(adapter), replace(setup, rows=rows))
        kept, notes = self.kept[key]
        return kept.scaled(setup.rows / rows), notes

    def _static(self, adapter: str, setup: Setup) -> Static:
        key = (adapter, setup.trainable, setup.optim)
        if key not in self.static:
            self.static[key] = static_of(self._model(adapter), setup)
        return self.static[key]
