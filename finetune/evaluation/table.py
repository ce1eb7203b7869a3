"""Every metric of ours by its name: its formula, how its two sides are read, the columns that can hold them.

Knows formulas and readers. How metrics are found and called is known in `metrics`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import MissingExtra
from finetune.evaluation import inputs, ranking, scores, texts
from finetune.evaluation.scores import Array


@dataclass(frozen=True)
class Metric:
    """A score, how its two sides are read, and the columns that can hold them."""

    score: Callable[[Array, Array], float]
    read: Callable[[str, Any], Array]
    columns: Sequence[tuple[str, str]]
    package: str | None = None
    """What it computes with, where that is in an extra."""
    extra: str = "text"

    def check(self) -> None:
        """Refuse it where its package is missing.

        Raises:
            MissingExtra: naming the extra.
        """
        if self.package and importlib.util.find_spec(self.package) is None:
            raise MissingExtra(self.package, self.extra)


# `float64s` is a column of rows. Class ids are float columns too: an integer column cuts 0.7 down to 0 without a word.
LABEL_COLUMNS = (("float64s", "float64s"), ("float64", "float64"))
NUMBER_COLUMNS = (("float64", "float64"),)
TAG_COLUMNS = (("strings", "strings"),)
RANKING_COLUMNS = (("float64s", "float64s"),)
ANSWER_COLUMNS = (("string", "strings"), ("string", "string"))

LOWER = ("loss", "perplexity", "mse", "rmse", "mae", "wer", "cer")
METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(scores.accuracy, inputs.labels, LABEL_COLUMNS),
    "f1": Metric(scores.f1, inputs.labels, LABEL_COLUMNS),
    "f1_micro": Metric(scores.f1_micro, inputs.labels, LABEL_COLUMNS),
    "f1_weighted": Metric(scores.f1_weighted, inputs.labels, LABEL_COLUMNS),
    "precision": Metric(scores.precision, inputs.labels, LABEL_COLUMNS),
    "recall": Metric(scores.recall, inputs.labels, LABEL_COLUMNS),
    "matthews_correlation": Metric(scores.matthews, inputs.labels, LABEL_COLUMNS),
    "pearson": Metric(scores.pearson, inputs.numbers, NUMBER_COLUMNS),
    "spearman": Metric(scores.spearman, inputs.numbers, NUMBER_COLUMNS),
    "mse": Metric(scores.mse, inputs.numbers, NUMBER_COLUMNS),
    "rmse": Metric(scores.rmse, inputs.numbers, NUMBER_COLUMNS),
    "mae": Metric(scores.mae, inputs.numbers, NUMBER_COLUMNS),
    "r2": Metric(scores.r2, inputs.numbers, NUMBER_COLUMNS),
    "reward_margin": Metric(scores.reward_margin, inputs.numbers, NUMBER_COLUMNS),
    "reward_accuracy": Metric(scores.reward_accuracy, inputs.numbers, NUMBER_COLUMNS),
    "label_margin": Metric(scores.label_margin, inputs.numbers, NUMBER_COLUMNS),
    "roc_auc": Metric(scores.roc_auc, inputs.numbers, NUMBER_COLUMNS),
    "exact_match": Metric(texts.exact_match, inputs.answers, ANSWER_COLUMNS),
    "entity_f1": Metric(scores.entity_f1, inputs.sequences, TAG_COLUMNS),
    "entity_precision": Metric(scores.entity_precision, inputs.sequences, TAG_COLUMNS),
    "entity_recall": Metric(scores.entity_recall, inputs.sequences, TAG_COLUMNS),
    "tag_accuracy": Metric(scores.tag_accuracy, inputs.sequences, TAG_COLUMNS),
    "average_precision": Metric(ranking.average_precision, inputs.numbers, NUMBER_COLUMNS),
    "mrr@10": Metric(ranking.mrr(10), inputs.rankings, RANKING_COLUMNS),
    "ndcg@10": Metric(ranking.ndcg(10), inputs.rankings, RANKING_COLUMNS),
    "recall@1": Metric(ranking.recall(1), inputs.rankings, RANKING_COLUMNS),
    "recall@10": Metric(ranking.recall(10), inputs.rankings, RANKING_COLUMNS),
    "pairwise_accuracy": Metric(ranking.pairwise_accuracy, inputs.rankings, RANKING_COLUMNS),
    "sacrebleu": Metric(texts.sacrebleu, inputs.answers, ANSWER_COLUMNS, "sacrebleu"),
    "chrf": Metric(texts.chrf, inputs.answers, ANSWER_COLUMNS, "sacrebleu"),
    "rouge1": Metric(texts.rouge1, inputs.answers, ANSWER_COLUMNS, "rouge_score"),
    "rouge2": Metric(texts.rouge2, inputs.answers, ANSWER_COLUMNS, "rouge_score"),
    "rougeL": Metric(texts.rouge_l, inputs.answers, ANSWER_COLUMNS, "rouge_score"),
    "wer": Metric(texts.wer, inputs.answers, ANSWER_COLUMNS, "jiwer", "audio"),
    "cer": Metric(texts.cer, inputs.answers, ANSWER_COLUMNS, "jiwer", "audio"),
    "squad_exact_match": Metric(texts.squad_exact_match, inputs.answers, ANSWER_COLUMNS),
    "squad_f1": Metric(texts.squad_f1, inputs.answers, ANSWER_COLUMNS),
}


def is_lower_better(name: str) -> bool:
    """Whether the lower of two scores is the better one.

    Args:
        name: as it is logged, of one source of several too: `eval_loss`, `eval_books_perplexity`.
    """
    return f"_{name}".endswith(tuple(f"_{each}" for each in LOWER))
