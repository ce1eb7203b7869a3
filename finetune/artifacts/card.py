"""The model card: what was trained on what, the real numbers, the lines that load it. Names no path of a machine."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from finetune.config import check, options
from finetune.config.recipes import SCHEME
from finetune.models import adapter, quantization
from finetune.models.source import hub_id
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder


def write(plan: Plan, folder: RunFolder, repo_id: str, file: Path) -> None:
    """Write the card of a finished run."""
    evaluation = folder.read("evaluation.json")
    data = _data(plan, evaluation, repo_id)
    text = "\n\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            f"# {repo_id.rpartition('/')[2]}",
            _what(plan),
            "## Scores\n\n" + _scores(evaluation),
            "## Use\n\n" + _use(plan, repo_id),
            "## Training data\n\n" + _rows(plan),
            "## Recipe\n\n```yaml\n" + recipe(plan) + "```",
            "## Versions\n\n" + ", ".join(f"{name} {found}" for name, found in plan.environment["versions"].items()),
        ]
    )
    ModelCard(text + "\n").save(file)


def dataset_name(plan: Plan) -> str:
    """The data as a stranger knows it: Hub ids, or the last parts of paths."""
    return ", ".join(map(_stranger_name, _data_paths(plan)))


def _data_paths(plan: Plan) -> list[str]:
    config = plan.config.dataset
    return [config.path] if config.path else [source.path for source in config.sources]


def _stranger_name(path: str) -> str:
    return Path(path.removeprefix(SCHEME)).name if _is_local(path) else path


def recipe(plan: Plan) -> str:
    """The resolved config without paths of this machine."""
    values = check.dump(plan.config)
    values["output_dir"] = "runs"
    for part in [values["dataset"], *values["dataset"]["sources"]]:
        part["path"] = part["path"] and _stranger_name(part["path"])
    values["model"]["path"] = hub_id(plan.config.model) or Path(plan.config.model.path).name
    return yaml.safe_dump(_portable(_without_empty(values)), sort_keys=False, allow_unicode=True)


def _is_local(path: str) -> bool:
    return "://" in path or Path(path).expanduser().exists()


def _portable(value: Any) -> Any:
    """The same values, of a path that only this machine has its last part."""
    if isinstance(value, dict):
        return {key: _portable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_portable(part) for part in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~", "file:")) else value


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    pruned = {key: _without_empty(v) if isinstance(v, dict) else v for key, v in values.items()}
    return {key: value for key, value in pruned.items() if value not in (None, {}, [])}


def _data(plan: Plan, evaluation: dict[str, Any], repo_id: str) -> ModelCardData:
    on_hub = [path for path in _data_paths(plan) if not _is_local(path)]
    results = [
        EvalResult(task_type=plan.config.task.name, dataset_type=dataset_name(plan), dataset_name=dataset_name(plan),
                   dataset_split="validation", metric_type=name, metric_value=value)
        for name, value in evaluation["scores"].items()
    ]  # fmt: skip
    return ModelCardData(
        base_model=hub_id(plan.config.model),
        library_name=_library(plan),
        datasets=on_hub or None,
        tags=["finetune", plan.config.task.name, plan.config.adapter["method"]],
        model_name=repo_id.rpartition("/")[2],
        eval_results=results,
    )


def _what(plan: Plan) -> str:
    base = hub_id(plan.config.model) or "a local model"
    how = "all weights" if plan.config.adapter["method"] == adapter.FULL else plan.config.adapter["method"]
    rounded = " Its weights came from a rounded copy (GGUF)." if plan.source.is_fallback else ""
    share = plan.model.trainable / plan.model.parameters
    steps = f"{plan.batches.total_steps} steps of {plan.batches.global_batch} rows"
    return (
        f"{base}, fine-tuned with {how} ({share:.2%} of {plan.model.parameters:,} weights) "
        f"for {plan.config.task.name} on {dataset_name(plan)}: {steps}.{rounded}"
    )


def _scores(evaluation: dict[str, Any]) -> str:
    baseline = evaluation.get("baseline") or {}
    rows = [
        f"| {name} | {value:.4f} | {f'{baseline[name]:.4f}' if name in baseline else ''} |"
        for name, value in evaluation["scores"].items()
    ]
    answered = f" ({evaluation['answered']} of them answered)" if evaluation.get("answered") else ""
    head = f"On {evaluation['rows']} validation rows{answered}, beside the untouched model:"
    return "\n".join([head, "", "| metric | fine-tuned | untouched |", "|---|---|---|", *rows])


def _rows(plan: Plan) -> str:
    return "\n".join(
        f"- {split}: {found['kept']} rows of {found['read']} read" for split, found in plan.report.items()
    )


def _library(plan: Plan) -> str:
    """What opens the repository."""
    if plan.config.task.opened_by:
        return plan.config.task.opened_by.partition(".")[0].replace("_", "-")
    return "transformers" if plan.config.adapter["method"] == adapter.FULL else "peft"


def _use(plan: Plan, repo_id: str) -> str:
    if plan.config.task.opened_by:
        return "\n".join(["```python", *_opened(plan, plan.config.task.opened_by, repo_id), "```"])
    auto = plan.config.task.model_class.rpartition(".")[2]
    whole = plan.config.adapter["method"] == adapter.FULL
    lines = _whole(plan, auto, repo_id) if whole else _adapted(plan, auto, repo_id)
    kind = _processing(plan)
    name = "tokenizer" if kind == "AutoTokenizer" else "processor"
    return "\n".join(["```python", *lines, f'{name} = {kind}.from_pretrained("{repo_id}")', "```"])


def _opened(plan: Plan, path: str, repo_id: str) -> list[str]:
    """By a library that finds the base of an adapter itself."""
    module, _, name = path.rpartition(".")
    quantizer, arguments = _quantizer(plan.config.quantization)
    lines = [f"from {module} import {name}", *([f"from transformers import {quantizer}"] if quantizer else [])]
    extra = f', model_kwargs={{"quantization_config": {quantizer}({arguments})}}' if quantizer else ""
    return [*lines, "", f'model = {name}("{repo_id}"{extra})']


def _processing(plan: Plan) -> str:
    return plan.config.task.processing_class.rpartition(".")[2]


def _whole(plan: Plan, auto: str, repo_id: str) -> list[str]:
    names = ", ".join(sorted((_processing(plan), auto), key=str.lower))
    return [f"from transformers import {names}", "", f'model = {auto}.from_pretrained("{repo_id}")']


def base_revision(plan: Plan) -> str | None:
    """The commit of the base that was trained on; None where it was read from elsewhere than the Hub."""
    return plan.source.revision if plan.source.path == hub_id(plan.config.model) else None


def _adapted(plan: Plan, auto: str, repo_id: str) -> list[str]:
    """The base as it was trained on, and the adapter on it."""
    base = hub_id(plan.config.model) or Path(plan.config.model.path).name
    quantizer, arguments = _quantizer(plan.config.quantization)
    names = ", ".join(["AutoConfig", _processing(plan), auto, *([quantizer] if quantizer else [])])
    extra = f", quantization_config={quantizer}({arguments})" if quantizer else ""
    if revision := base_revision(plan):
        extra = f', revision="{revision}"{extra}'
    return [
        "from peft import PeftModel",
        f"from transformers import {names}",
        "",
        f'config = AutoConfig.from_pretrained("{repo_id}", subfolder="base_config")',
        f'base = {auto}.from_pretrained("{base}", config=config{extra})',
        f'model = PeftModel.from_pretrained(base, "{repo_id}")',
    ]


def _quantizer(given: dict[str, Any]) -> tuple[str, str]:
    """The class that quantizes the base and its arguments, or nothing."""
    if given["method"] == quantization.NONE:
        return "", ""
    written = ", ".join(f"{name}={value!r}" for name, value in given.items() if name != "method")
    return options.methods("quantization")[given["method"]].rpartition(".")[2], written
