"""Scores of texts that were written against texts that are right, by the field's own packages. Knows no names.

Predictions are strings, (n,); references are lists of strings, (n,): every text that would have been right.
"""

from __future__ import annotations

import logging
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import regex

from finetune.evaluation.scores import Array

log = logging.getLogger(__name__)

SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""In which no spaces part words or, in Korean, words and their particles: each letter is a word."""
LETTER = regex.compile(rf"(?V1)[\p{{L}}&&[{SCRIPTS}]]\p{{M}}*")
WORD = regex.compile(rf"(?V1){LETTER.pattern}|(?:[\p{{L}}--[{SCRIPTS}]]\p{{M}}*|\p{{Nd}})+")
HAN = regex.compile(r"\p{Han}")


def exact_match(predictions: Array, references: Array) -> float:
    """Share of texts that are one of the right ones."""
    return sum(text in right for text, right in zip(predictions, references)) / len(predictions)


def sacrebleu(predictions: Array, references: Array) -> float:
    """Corpus BLEU, 0 to 100, tokenized as WMT does (https://aclanthology.org/W18-6319).

    That is by the script of most words of the references: `zh` for Chinese, `char` for others without spaces, and
    Korean, else `13a`. The log says which, where it is not `13a`.
    """
    from sacrebleu.metrics.bleu import BLEU

    chosen = _tokenization(references)
    if chosen != "13a":
        log.warning("sacrebleu is BLEU with tokenize=%s, by the script of the references", chosen)
    return _corpus_score(BLEU(tokenize=chosen), predictions, references)


def _tokenization(references: Array) -> str:
    """The name that sacreBLEU has for how texts in the script of the references become words."""
    text = "\n".join(chain.from_iterable(references))
    words, letters, chinese = (len(kind.findall(text)) for kind in (WORD, LETTER, HAN))
    if letters <= words / 2:
        return "13a"
    # Japanese has Chinese characters as well, but never so many beside its own.
    return "zh" if chinese >= 0.9 * letters else "char"


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

    English is as in the package (https://aclanthology.org/W04-1013), which keeps the letters a to z and digits alone;
    here letters of every script are kept, and words of others than these are not stemmed.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_EveryScript())
    found = [scorer.score_multi(right, text)[kind].fmeasure for text, right in zip(predictions, references)]
    return float(sum(found) / len(found))


class _EveryScript:
    """The package's tokenizer, for the words of every script."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self.english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Words in lower case."""
        words = WORD.findall(unicodedata.normalize("NFC", text).lower())
        return [each for word in words for each in (self.english.tokenize(word) if word.isascii() else [word])]


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
