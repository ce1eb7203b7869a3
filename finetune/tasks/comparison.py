"""What tasks share that compare answers: how rows are read and encoded, batches of several sequences, rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import ARGUMENTS, IGNORED, Brought, Encoder, Facts
from finetune.errors import UserError
from finetune.tasks.language_model import Chat, with_tools

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


PREPARED = "task.overlong or tokenizer.max_length: rows are prepared before the trainer exists"
FOLLOWED = "nothing: a reference that follows the model is kept in no checkpoint, so the run could not be resumed"
BATCHED = "evaluation.batch_size: the reference is asked in batches of that size"
OWNED = {
    **dict.fromkeys(("max_length", "truncation_mode", "max_completion_length", "is_encoder_decoder", "padding_free",
                     "pad_to_multiple_of", "pad_token", "padding_value", "dataset_num_proc", "eos_token",
                     "chat_template_path", "model_init_kwargs", "trust_remote_code"), PREPARED),
    **dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), FOLLOWED),
    "generate_during_eval": "evaluation.generation.rows=N", "precompute_ref_batch_size": BATCHED,
}  # fmt: skip
PRECOMPUTED = "precompute_ref_log_probs"
CHANGE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""How values of `init_lora_weights` begin that take a part of the base into the adapter."""
Row = dict[str, Any]


@dataclass(kw_only=True)
class Comparison(Chat):
    """Answers to a prompt, the better before the worse. A row is both, each with the prompt before it."""

    roles: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected", "system", "tools")
    owned: ClassVar[dict[str, str]] = OWNED
    loss: ClassVar[str]
    """The class in `trl_loss` that computes the trainer's loss."""
    lists: ClassVar[tuple[str, ...]] = ("seq_lengths",)

    overlong: Literal["drop", "truncate_prompt", "truncate_end", "error"] = "drop"
    """What becomes of a row with a sequence of more than `tokenizer.max_length` tokens, prompt and answer together."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Layout and columns, detected from the names of the columns."""
        from finetune.data import preferences

        return preferences.describe(train.column_names, columns, self.roles, train[0])

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """The tokens that end a turn: the template's, and those that the model stops at."""
        from finetune.data.templates import terminators

        if facts["layout"] == "text":
            return facts
        return {**facts, "stops": sorted({*terminators(tokenizer), *brought.stops})}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """The sequences of a row end to end, labels where its answers are, and what else the task reads of it."""
        from finetune.data import preferences
        from finetune.data.columns import check
        from finetune.data.labels import Labeler, Policy

        check(facts["columns"], rows.column_names)
        policy = Policy(stops=tuple(facts.get("stops", ())))
        labeler = None if facts["layout"] == "text" else Labeler(tokenizer, policy)

        def read(row: Row, index: int) -> tuple[tuple[Any, ...], Row]:
            return self.answers(row, facts), self.beside(row, facts, index)

        def tokenize(items: Sequence[tuple[tuple[Any, ...], Row]], cut: int | None) -> list[Row]:
            limit = preferences.Limit(cut, self.overlong == "truncate_prompt") if cut else None
            found = preferences.label_answers([answers for answers, _ in items], tokenizer, labeler)
            joined = (preferences.joined(answers, limit) for answers in found)
            return [self.encoded(row, more) for row, (_, more) in zip(joined, items, strict=True)]

        cut = max_length if self.overlong.startswith("truncate") else None
        return Encoder(read, tokenize, self.labels, self.lists, "whole" if cut else self.overlong, cut)

    labels: ClassVar[Literal["ids", "row"]] = "ids"

    def answers(self, row: Row, facts: Facts) -> tuple[Any, ...]:
        """The answers of a raw row."""
        from finetune.data.preferences import pair

        return pair(row, facts)

    def beside(self, row: Row, facts: Facts, index: int) -> Row:
        """What a raw row says beside its answers."""
        return {}

    def encoded(self, row: Row, beside: Row) -> Row:
        """A row as it is kept."""
        return {**row, **beside}

    def sequences(self, row: Row, facts: Facts) -> list[tuple[str, int]]:
        """The better before the worse."""
        return list(zip(("chosen", "rejected"), row["seq_lengths"], strict=True))

    def check(self, notes: dict[str, int], trainer: dict[str, Any], adapter: dict[str, Any]) -> str:
        """What the answers are compared with: an adapter that is switched off must be the model as it was."""
        if not self.compares:
            return "answers are compared with each other alone"
        if trainer.get(PRECOMPUTED):
            return "the untouched model is asked about all rows before the first step"
        if adapter["method"] == "full":
            return "a second copy of the model is the reference"
        init = adapter.get("init_lora_weights")
        if isinstance(init, str) and init.startswith(CHANGE_BASE):
            way = "" if PRECOMPUTED in self.owned else f", or write trainer.{PRECOMPUTED}=true"
            raise UserError(
                f"adapter.init_lora_weights={init} changes the base, and the model without its adapter would be no "
                f"reference. Leave it out{way}"
            )
        return "the model without its adapter is the reference"

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Row]], Row]:
        """As the trainer takes them: the chosen answers of all rows, then the rejected ones."""
        return lambda rows: pairs(rows, tokenizer.pad_token_id)

    def forward(self, model: Any, batch: Row, facts: Facts) -> Any:
        """The trainer's own loss, and a reward for each sequence; without arguments, what the model says itself."""
        if ARGUMENTS not in facts:
            return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return self._loss(facts)(model, batch)

    def reference(self, model: Any, batch: Row, facts: Facts) -> torch.Tensor:
        """The log-probability of each answer."""
        found: torch.Tensor = self._loss(facts).reference(model, batch)
        return found

    def _loss(self, facts: Facts) -> Any:
        from finetune.tasks import trl_loss

        return trl_loss.of(self.loss, self.trainer_class, self.arguments_class, facts[ARGUMENTS])

    def weight(self, batch: Row) -> int:
        """Pairs."""
        return len(batch["input_ids"]) // 2

    def outcomes(self, logits: torch.Tensor, batch: Row) -> tuple[Any, Any]:
        """The rewards of the chosen answers, and of the rejected ones."""
        return logits.chunk(2)  # type: ignore[return-value]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Of the rewards."""
        return ("reward_accuracy", "reward_margin")

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """As they are: the loss is none of tokens, and gives no perplexity."""
        return scores

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Share of pairs that are ordered rightly."""
        return self.metrics(facts)[0], True

    def question(self, row: Row, facts: Facts) -> tuple[Any, str]:
        """The prompt, and the answer that is chosen."""
        chat = self.answers(row, facts)[0]
        if isinstance(chat, str):
            raise UserError("plain text asks nothing that could be answered: write evaluation.generation.rows=0")
        asked, said = chat.messages[: chat.trained[0]], chat.messages[chat.trained[-1]]
        return with_tools(asked, chat.tools), str(said.get("content", ""))

    def rendered(self, row: Row, facts: Facts, tokenizer: PreTrainedTokenizerBase) -> Row | None:
        """The chosen conversation and its text; plain text is not rendered."""
        from finetune.data.templates import render

        chat = self.answers(row, facts)[0]
        if isinstance(chat, str):
            return None
        return {"messages": chat.messages, "tools": chat.tools, "text": render(tokenizer, chat)}

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[Row]:
        """Answers. An input is a prompt, a list of messages, or a row with a prompt."""
        named = options.get("columns", {})
        columns = {role: column for role, column in named.items() if role in ("prompt", "tools")}
        if options.get("facts", {}).get("layout") == "text":
            columns = {"text": "prompt"}
        return super().predict(model, tokenizer, inputs, {**options, "columns": columns})

    def example(self, columns: dict[str, str]) -> list[Row]:
        """Questions with two answers; as messages, so that the prompt may be left out."""
        names = {role: columns.get(role, role) for role in ("prompt", "chosen", "rejected")}
        texts = (("What is it?", "It is a cat.", "No idea."), ("Who sings?", "Ann sings.", "Nobody sings here."))
        return [dict(zip(names.values(), row, strict=True)) for row in texts]


def sequences(row: Row, name: str) -> list[Any]:
    """A column of the tokens of a row, a list for each of its sequences."""
    import numpy as np

    return np.split(row[name], np.cumsum(row["seq_lengths"])[:-1])


def pairs(rows: Sequence[Row], pad: int) -> Row:
    """Rows of two sequences as TRL batches them: (2 × rows, tokens), the first of all rows before the second."""
    import torch

    order = [(side, row) for side in range(2) for row in rows]
    kept = [name for name in ("input_ids", "labels") if name in rows[0]]
    flat: dict[str, list[Any]] = {name: [sequences(row, name)[side] for side, row in order] for name in kept}
    batch = padded(flat, pad)
    if "reference" in rows[0]:
        said = torch.tensor([row["reference"].tolist() for row in rows])
        batch |= {"ref_chosen_logps": said[:, 0], "ref_rejected_logps": said[:, 1]}
    return batch


def padded(columns: dict[str, list[Any]], pad: int) -> dict[str, torch.Tensor]:
    """Sequences as one batch, padded on the right; labels become the mask of what is answered."""
    import numpy as np
    import torch

    shape = len(columns["input_ids"]), max(map(len, columns["input_ids"]))
    ids, here, said = np.full(shape, pad, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for at, sequence in enumerate(columns["input_ids"]):
        ids[at, : len(sequence)], here[at, : len(sequence)] = sequence, 1
    for at, labels in enumerate(columns.get("labels", ())):
        said[at, : len(labels)] = np.asarray(labels) != IGNORED
    batch = {"input_ids": ids, "attention_mask": here} | ({"completion_mask": said} if "labels" in columns else {})
    return {name: torch.from_numpy(values) for name, values in batch.items()}
