"""An image processor or a feature extractor for a type of model, where the model's own is not at hand.

Knows transformers' own table of which class belongs to which type. Knows no rows and no task.
"""

from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from finetune.errors import UserError

TABLES = {
    "transformers.AutoImageProcessor": IMAGE_PROCESSOR_MAPPING,
    "transformers.AutoFeatureExtractor": FEATURE_EXTRACTOR_MAPPING,
}


def make(kind: str, config: PretrainedConfig) -> Any:
    """One with the values of its class, of the size that the model takes.

    Raises:
        UserError: transformers has none for the type.
    """
    found = TABLES[kind].get(type(config), None)
    if found is None:
        raise UserError(f"transformers has no {kind.rpartition('Auto')[2]} for {config.model_type}")
    made: Any = _usable(found) if isinstance(found, dict) else found
    return made(**_size(made(), config))


def _usable(backends: dict[str, Any]) -> Any:
    """The class of the backend that is installed: that of torchvision, or of Pillow."""
    return next(each for each in backends.values() if each is not None and not getattr(each, "is_dummy", False))


def _size(usual: Any, config: PretrainedConfig) -> dict[str, Any]:
    """The size of images that the model takes, in the words that processors of the class have for it."""
    side, words = getattr(config, "image_size", None), getattr(usual, "size", None)
    if not isinstance(side, int) or words is None:
        return {}
    return {"size": {name: side for name in ("height", "width", "shortest_edge") if getattr(words, name, None)}}
