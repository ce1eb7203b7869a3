"""The model card: what was trained on what, the real numbers, and the lines that load it. Names no path of a machine."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from finetune.config import check
from finetune.config.recipes import SCHEME
from finetune.models import adapter
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder


def write(plan: Plan, folder: RunFolder, repo_id: str) -> None:
    """Write README.md into the artifact."""
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
    ModelCard(text + "\n").save(folder.model / "README.md")


def base_id(plan: Plan) -> str | None:
    """The Hub id of the base, or None where it has none."""
    config = plan.config.model
    if config.base_id:
        return config.base_id
    is_hub = not Path(config.path).expanduser().exists() and "://" not in config.path
    return config.path if is_hub else None


def dataset_name(plan: Plan) -> str:
    """The data set as a stranger knows it: a Hub id, or the last part of a path."""
    path = plan.config.dataset.path
    return Path(path.removeprefix(SCHEME)).name if _is_local(path) else path


def recipe(plan: Plan) -> str:
    """The resolved config without paths of this machine."""
    values = check.dump(plan.config)
    values["output_dir"] = "runs"
    values["dataset"]["path"] = dataset_name(plan)
    values["model"]["path"] = base_id(plan) or Path(plan.config.model.path).name
    return yaml.safe_dump(_without_defaults(values), sort_keys=False, allow_unicode=True)


def _is_local(path: str) -> bool:
    return "://" in path or Path(path).expanduser().exists()


def _without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    pruned = {key: _without_defaults(v) if isinstance(v, dict) else v for key, v in values.items()}
    return {key: value for key, value in pruned.items() if value not in (None, {}, [])}


def _data(plan: Plan, evaluation: dict[str, Any], repo_id: str) -> ModelCardData:
    local = _is_local(plan.config.dataset.path)
    results = [
        EvalResult(task_type=plan.config.task.name, dataset_type=dataset_name(plan), dataset_name=dataset_name(plan),
                   dataset_split="validation", metric_type=name, metric_value=value)
        for name, value in evaluation["scores"].items()
    ]  # fmt: skip
    whole = plan.config.adapter["method"] == adapter.FULL
    return ModelCardData(
        base_model=base_id(plan),
        library_name="transformers" if whole else "peft",
        datasets=None if local else [dataset_name(plan)],
        tags=["finetune", plan.config.task.name, plan.config.adapter["method"]],
        model_name=repo_id.rpartition("/")[2],
        eval_results=results,
    )


def _what(plan: Plan) -> str:
    base = base_id(plan) or "a local model"
    how = "all weights" if plan.config.adapter["method"] == adapter.FULL else plan.config.adapter["method"]
    rounded = " Its weights came from a rounded copy (GGUF)." if plan.source.is_fallback else ""
    share = plan.model.trainable / plan.model.parameters
    return (
        f"{base}, fine-tuned with {how} ({share:.2%} of {plan.model.parameters:,} weights) for {plan.config.task.name} "
        f"on {dataset_name(plan)}: {plan.batches.total_steps} steps of {plan.batches.global_batch} rows.{rounded}"
    )


def _scores(evaluation: dict[str, Any]) -> str:
    baseline = evaluation.get("baseline") or {}
    rows = [
        f"| {name} | {value:.4f} | {f'{baseline[name]:.4f}' if name in baseline else ''} |"
        for name, value in evaluation["scores"].items()
    ]
    head = f"On {evaluation['rows']} validation rows, beside the untouched model:\n\n| metric | fine-tuned | untouched |\n|---|---|---|"
    return "\n".join([head, *rows])


def _rows(plan: Plan) -> str:
    return "\n".join(
        f"- {split}: {found['kept']} rows of {found['read']} read" for split, found in plan.report.items()
    )


def _use(plan: Plan, repo_id: str) -> str:
    auto = plan.config.task.model_class.rpartition(".")[2]
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")'
    if plan.config.adapter["method"] == adapter.FULL:
        lines = [f"from transformers import AutoTokenizer, {auto}", "", f'model = {auto}.from_pretrained("{repo_id}")']
    else:
        lines = [
            "from peft import PeftModel",
            f"from transformers import AutoConfig, AutoTokenizer, {auto}",
            "",
            f'config = AutoConfig.from_pretrained("{repo_id}", subfolder="base_config")',
            f'base = {auto}.from_pretrained("{base_id(plan) or plan.config.model.path}", config=config)',
            f'model = PeftModel.from_pretrained(base, "{repo_id}")',
        ]
    return "\n".join(["```python", *lines, tokenizer, "```"])
