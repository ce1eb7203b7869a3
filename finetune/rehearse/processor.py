"""An image processor, a feature extractor or both halves of a processor, where the model's own is not at hand.

Knows transformers' own table of which class belongs to which type. Knows no rows and no task.
"""

from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from finetune.errors import UserError

BOTH = "transformers.AutoProcessor"
HEARS = "transformers.AutoFeatureExtractor"
TABLES = {
    BOTH: PROCESSOR_MAPPING,
    "transformers.AutoImageProcessor": IMAGE_PROCESSOR_MAPPING,
    HEARS: FEATURE_EXTRACTOR_MAPPING,
}


def make(kind: str, config: PretrainedConfig) -> Any:
    """One with the values of its class, of the size that the model takes.

    Raises:
        UserError: transformers has none for the type.
    """
    found = _found(kind, config)
    made: Any = _usable(found) if isinstance(found, dict) else found
    return made(**_size(made(), config))


def joined(hears: Any, words: PreTrainedTokenizerBase, config: PretrainedConfig) -> Any:
    """The processor of a feature extractor and a tokenizer.

    Raises:
        UserError: transformers has none for the type.
    """
    return _found(BOTH, config)(hears, words)


def _found(kind: str, config: PretrainedConfig) -> Any:
    found = TABLES[kind].get(type(config), None)
    if found is None:
        raise UserError(f"transformers has no {kind.rpartition('Auto')[2]} for {config.model_type}")
    return found


def _usable(backends: dict[str, Any]) -> Any:
    """The class of the backend that is installed: that of torchvision, or of Pillow."""
    return next(each for each in backends.values() if each is not None and not getattr(each, "is_dummy", False))


def _size(usual: Any, config: PretrainedConfig) -> dict[str, Any]:
    """The size of images that the model takes, in the words that processors of the class have for it."""
    side, words = getattr(config, "image_size", None), getattr(usual, "size", None)
    if not isinstance(side, int) or words is None:
        return {}
    return {"size": {name: side for name in ("height", "width", "shortest_edge") if getattr(words, name, None)}}
