"""A transformer among the modules of sentence-transformers, which pool its tokens or shape its vectors.

Knows how the whole is put around a loaded model, and how it is saved. What loads, adapts and quantizes knows the
transformer alone, which is the `core` of the whole; a model that stands alone is its own core. Knows no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune.errors import UserError
from finetune.models.outputs import recorded
from finetune.models.source import Source

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

MODULES = "modules.json"


def core(model: Any) -> Any:
    """The transformers model that a whole holds, with its adapter; a model that stands alone is its own."""
    found = getattr(model, "transformers_model", None)
    return model if found is None else found


def with_core(model: Any, new: Any) -> Any:
    """The whole, holding another core."""
    if core(model) is model:
        return new
    model[0].model = new
    return model


def beside(model: Any) -> dict[str, torch.nn.Parameter]:
    """The weights of a whole that its core has not, by name."""
    own = {id(weight) for weight in core(model).parameters()}
    return {name: weight for name, weight in model.named_parameters() if id(weight) not in own}


def embedder(model: Any, source: Source, pooling: str | None) -> SentenceTransformer:
    """What gives each text a vector: the modules that the source names, else the transformer and a pooling.

    Args:
        model: the loaded transformer.
        pooling: how the vectors of tokens become one, in sentence-transformers' words; None is the source's own, or
            what the library chooses: mean, and for a decoder the last token.

    Raises:
        UserError: the source pools in another way, or begins with something else than a transformer.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    with _holding(model, source):
        if pooling is None or _has_modules(source):
            whole = SentenceTransformer(source.path, device=str(model.device), **_where(source))
        else:
            first = Transformer(source.path, **{f"{part}_kwargs": _where(source) for part in ("processor", "config")})
            modules: list[Any] = [first, Pooling(first.get_embedding_dimension(), pooling)]  # type: ignore[arg-type]
            whole = SentenceTransformer(modules=modules, device=str(model.device))
    _check(whole, source)
    found = next((module.pooling_mode for module in whole if isinstance(module, Pooling)), None)
    if pooling not in (None, found):
        raise UserError(f"task.pooling={pooling}: {source.path} has modules of its own, and pools by {found}")
    return whole


def scorer(model: Any, source: Source) -> CrossEncoder:
    """What gives a pair of texts a score: the modules that the source names, else the transformer with its head."""
    from sentence_transformers.base.modules import Transformer

    from finetune.models.pairs import PairScorer

    with _holding(model, source):
        if _has_modules(source):
            whole = PairScorer(source.path, device=str(model.device), **_where(source))
        else:
            given = {f"{part}_kwargs": _where(source) for part in ("processor", "config")}
            first = Transformer(source.path, transformer_task="sequence-classification", **given)
            whole = PairScorer(modules=[first], device=str(model.device))
    _check(whole, source)
    return whole


def save(model: Any, folder: Path) -> None:
    """Everything of a whole but its core, so that the library opens the folder by itself."""
    if core(model) is model:
        return
    from sentence_transformers.base.modules.transformer import Transformer, set_temporary_class_attrs

    with set_temporary_class_attrs(Transformer, save=lambda module, path, **_: module.save_config(path)):
        model.save(str(folder), create_model_card=False)


def embedded(model: Any, loss: Any, features: Sequence[dict[str, Any]], labels: torch.Tensor | None) -> Any:
    """The loss, and as `logits` the vectors of all texts of a row end to end, (rows, texts × dimensions).

    Args:
        features: the inputs of each text of the rows.
    """
    rows, output = len(features[0]["input_ids"]), "sentence_embedding"
    found, seen = recorded(model, output, lambda: loss([dict(each) for each in features], labels))
    if sum(map(len, seen)) != rows * len(features):  # some losses look at texts again, or at parts of their vectors
        seen = [model(dict(each))[output] for each in features]
    return SequenceClassifierOutput(loss=found, logits=torch.cat(torch.cat(seen).split(rows), -1))


@contextmanager
def _holding(model: Any, source: Source) -> Iterator[None]:
    """While this lasts, the library takes the loaded model wherever it would load one.

    Raises:
        UserError: it cannot open what lies with the model, such as modules that are code of their own.
    """
    from sentence_transformers.base.modules.transformer import Transformer, set_temporary_class_attrs

    config, load = (lambda *_: (model.config, False)), (lambda *_, **__: model)
    try:
        with set_temporary_class_attrs(Transformer, _load_config=config, _load_model=load):
            yield
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model.path={source.path}: sentence-transformers cannot open it: {reason}") from None


def _has_modules(source: Source) -> bool:
    from sentence_transformers.util import load_file_path

    return load_file_path(source.path, MODULES, **_where(source)) is not None


def _where(source: Source) -> dict[str, Any]:
    """A folder asks nobody."""
    return {"revision": source.revision, "local_files_only": Path(source.path).is_dir()}


def _check(whole: Any, source: Source) -> None:
    if getattr(whole[0], "model", None) is not core(whole):
        raise UserError(
            f"model.path={source.path}: its modules begin with {type(whole[0]).__name__}, and not with a transformer"
        )
