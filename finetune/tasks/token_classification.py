"""Token classification: a tag for each word, such as the entity it belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import IGNORED, Brought, Encoder, Facts, Task
from finetune.data import classes, tags
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USUAL = {"tokens": ("tokens", "words"), "tags": ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags", "upos")}
ENTITY = re.compile(r"O|[BIES]-.+")


@dataclass(kw_only=True)
class TokenClassification(Task):
    """A head over each token. Tags are names; where they are all `O`, `B-…`, `I-…`, entities are scored."""

    model_class: ClassVar[str] = "transformers.AutoModelForTokenClassification"
    peft_type: ClassVar[str] = "TOKEN_CLS"
    roles: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "words are tagged as they are, not rendered",
        "evaluation.generation": "a tagger writes nothing",
    }

    name: str = "token_classification"
    label_pieces: Literal["first", "all"] = "first"
    """Which pieces of a word carry its tag: the first, or all of them, as one entity: `B-` goes on as `I-`."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a row of more than `tokenizer.max_length` tokens; each is counted, and so is each lost tag."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Columns and tag names."""
        from finetune.data.columns import detect

        found = detect(train.column_names, columns, USUAL)
        names = classes.names_of(train, found["tags"])
        if len(names) < 2:
            raise UserError(f"column {found['tags']} of train holds one tag only: {', '.join(names) or 'none'}")
        # O first: what a head says without knowing.
        return {"columns": found, "labels": sorted(names, key=lambda name: (name != "O", names.index(name)))}

    def join(self, facts: Sequence[Facts]) -> list[Facts]:
        """The tags of all sources, in one order."""
        return classes.united(facts)

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """Tags in the order of the model's own head, where it has names for them."""
        if not tokenizer.is_fast:
            raise UserError("task=token_classification needs a fast tokenizer, which says what word a piece is of")
        return {**facts, "labels": classes.agreed(facts["labels"], brought.labels)}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Token ids, and the id of a tag where a token carries one."""
        from finetune.data.columns import check

        columns, labels = facts["columns"], facts["labels"]
        check(columns, rows.column_names)
        name, ids = classes.namer(rows, columns["tags"], labels), {label: at for at, label in enumerate(labels)}
        spread = tags.spreading(ids) if self.label_pieces == "all" else tags.first

        def read(row: dict[str, Any], index: int) -> tuple[list[str], list[int]]:
            return tags.checked(row[columns["tokens"]], row[columns["tags"]], name, ids, index)

        def tokenize(items: Sequence[tuple[list[str], list[int]]], cut: int | None) -> list[dict[str, Any]]:
            texts = [words for words, _ in items]
            encoded = tokenizer(
                texts, is_split_into_words=True, truncation=cut is not None, max_length=cut, verbose=False
            )
            names = [name for name in encoded if name != "attention_mask"]
            return [
                {**{name: encoded[name][at] for name in names}, **tags.aligned(encoded.word_ids(at), given, spread)}
                for at, (_, given) in enumerate(items)
            ]

        cut = max_length if self.overlong == "truncate" else None
        return Encoder(read, tokenize, labels="tokens", overlong=self.overlong, cut=cut)

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """Names of the tags."""
        names = dict(enumerate(facts["labels"]))
        return {"id2label": names, "label2id": {name: at for at, name in names.items()}}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads to the longest row of a batch."""
        from transformers import DataCollatorForTokenClassification

        collator: Callable[..., dict[str, Any]] = DataCollatorForTokenClassification(tokenizer)
        return collator

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tagged tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true tag of each tagged token; -100 stands behind the last one of a row."""
        from torch.nn.functional import pad

        labels, predicted = (pad(each, (0, 1), value=IGNORED) for each in (batch["labels"], logits.argmax(-1)))
        kept = labels != IGNORED
        kept[:, -1] = True
        return predicted[kept], labels[kept]

    def judged(self, predictions: Any, references: Any, facts: Facts) -> tuple[Any, Any]:
        """The names of the tags, a list for each row."""
        ends = [at for at, label in enumerate(references) if label == IGNORED]
        spans = list(zip([0, *(end + 1 for end in ends)], ends))
        names = facts["labels"]
        of_rows = [[[names[int(tag)] for tag in side[b:e]] for b, e in spans] for side in (predictions, references)]
        return of_rows[0], of_rows[1]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Of entities where the tags mark some, else of tags."""
        entities = ("entity_f1", "entity_precision", "entity_recall")
        return (*(entities if all(map(ENTITY.fullmatch, facts["labels"])) else ()), "tag_accuracy")

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Spans with label, place and confidence. An input is a text, a list of words, or a row."""
        import torch

        cut, column = options.get("max_length"), options.get("columns", {}).get("tokens", "tokens")
        for number, item in enumerate(inputs):
            given = item.get(column, item.get("text")) if isinstance(item, dict) else item
            if not given or not isinstance(given, str | list):
                raise UserError(f"input {number}: {item!r} is not a text, a list of words, or a row with {column}")
            encoded = tokenizer(given, is_split_into_words=isinstance(given, list), return_tensors="pt",
                                truncation=cut is not None, max_length=cut)  # fmt: skip
            with torch.no_grad():
                scores = model(**encoded.to(model.device)).logits[0].float().softmax(-1).cpu()
            yield {"input": item, "entities": list(tags.spans(given, encoded, scores, model.config.id2label))}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two sentences with a name in each."""
        tokens, tags = columns.get("tokens", "tokens"), columns.get("tags", "ner_tags")
        return [
            {tokens: ["Ann", "Lee", "sings"], tags: ["B-person", "I-person", "O"]},
            {tokens: ["snow", "in", "Oslo"], tags: ["O", "O", "B-place"]},
        ]
