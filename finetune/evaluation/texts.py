"""Scores of texts that were written against texts that are right, by the field's own packages. Knows no names.

Predictions are strings, (n,); references are lists of strings, (n,): every text that would have been right.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from typing import Any

from finetune.evaluation.scores import Array


def exact_match(predictions: Array, references: Array) -> float:
    """Share of texts that are one of the right ones."""
    return sum(text in right for text, right in zip(predictions, references)) / len(predictions)


def sacrebleu(predictions: Array, references: Array) -> float:
    """Corpus BLEU, 0 to 100, tokenized as WMT does (https://aclanthology.org/W18-6319)."""
    from sacrebleu.metrics.bleu import BLEU

    return _corpus_score(BLEU(), predictions, references)


def chrf(predictions: Array, references: Array) -> float:
    """F-score of letters in runs of up to six, 0 to 100: chrF2 (https://aclanthology.org/W15-3049)."""
    from sacrebleu.metrics.chrf import CHRF

    return _corpus_score(CHRF(), predictions, references)


def _corpus_score(metric: Any, predictions: Array, references: Array) -> float:
    """Its streams hold the n-th right text of every row, None where a row has fewer."""
    streams = [list(stream) for stream in zip_longest(*references)]
    return float(metric.corpus_score(list(predictions), streams).score)


def _rouge(kind: str, predictions: Array, references: Array) -> float:
    """Mean F-measure over the rows, 0 to 1, of the most similar right text; words are stemmed, as in the papers.

    The package keeps the letters a to z and digits alone: it is for English (https://aclanthology.org/W04-1013).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    found = [scorer.score_multi(right, text)[kind].fmeasure for text, right in zip(predictions, references)]
    return float(sum(found) / len(found))


rouge1, rouge2, rouge_l = (partial(_rouge, kind) for kind in ("rouge1", "rouge2", "rougeL"))


def _jiwer(kind: str, predictions: Array, references: Array) -> float:
    """Errors in all texts over the words, or letters, of the most similar right ones: 0 is best, above 1 possible.

    Case and punctuation count (https://github.com/jitsi/jiwer).
    """
    import jiwer

    rate = getattr(jiwer, kind)
    nearest = [min(right, key=lambda each: rate(each, text)) for text, right in zip(predictions, references)]
    return float(rate(nearest, list(predictions)))


wer, cer = (partial(_jiwer, kind) for kind in ("wer", "cer"))


def _bare(text: str) -> str:
    """Without case, punctuation, English articles and repeated spaces: `normalize_answer` of SQuAD's own script."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _of_answers(score: Callable[[str, str], float], predictions: Array, references: Array) -> float:
    """Mean over the rows of the score against the most similar right answer.

    As https://rajpurkar.github.io/SQuAD-explorer scores version 2, in shares of one: of no answer, "" alone is right.
    """
    found = [max(score(_bare(text), _bare(each)) for each in right) for text, right in zip(predictions, references)]
    return float(sum(found) / len(found))


def _same(text: str, right: str) -> float:
    return float(text == right)


def _shared_words(text: str, right: str) -> float:
    """F1 of words, each as often as it occurs."""
    given, wanted = text.split(), right.split()
    if not given or not wanted:
        return float(given == wanted)
    return 2 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))


squad_exact_match, squad_f1 = (partial(_of_answers, score) for score in (_same, _shared_words))
