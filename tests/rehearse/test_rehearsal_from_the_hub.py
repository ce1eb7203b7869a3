"""Where the Hub answers, a rehearsal takes the model's own config and tokenizer and the first rows, and no weights."""

import json
import os
import subprocess
import sys

from hub_server import WRITE_TOKEN, serve
from huggingface_hub import HfApi, constants
from tiny import llama

FOUND = """
import json, sys
from pathlib import Path
from finetune.config.check import load_config
from finetune.errors import UserError
from finetune.rehearse import model, rows

config, _ = load_config(["task=sft", "model.path=alice/model", "dataset.path=alice/data"])
wrong, _ = load_config(["task=sft", "model.path=alice/model", "dataset.path=alice/gone"])
found = rows.find(config, 16, Path(sys.argv[1]))
try:
    rows.find(wrong, 16, Path(sys.argv[1]) / "gone")
except UserError as error:
    refused = str(error)
splits = {name: part.to_list() for name, part in found.splits.items()}
print(json.dumps([model.find(config.model, None).said, found.said, splits, refused]))
"""


def test_the_hub_is_asked_for_a_config_and_the_first_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    data = tmp_path / "data"
    data.mkdir()
    lines = [json.dumps({"prompt": f"what is {at}?", "completion": "a number"}) + "\n" for at in range(300)]
    (data / "train.jsonl").write_text("".join(lines))
    with serve() as hub:
        api = HfApi(endpoint=hub.url, token=WRITE_TOKEN)
        for name, kind, folder in (("alice/model", "model", llama()), ("alice/data", "dataset", data)):
            api.create_repo(name, repo_type=kind)
            api.upload_folder(repo_id=name, folder_path=folder, repo_type=kind)
        asked = len(hub.requests)
        model, rows, splits, refused = found_at(hub.url, tmp_path)
        assert not [request for request in hub.requests[asked:] if "safetensors" in request.path]
    assert model == "llama, from its own config"
    assert rows == "16 of the first of alice/data"
    assert {name: len(part) for name, part in splits.items()} == {"train": 16, "validation": 7}
    assert all(int(row["prompt"][8:-1]) < 64 for part in splits.values() for row in part)
    assert "the Hub has no such data set" in refused


def found_at(url, folder):
    """What a fresh process finds there: the libraries read the address of the Hub when they are imported."""
    cache = {"HF_HOME": str(folder / "home"), "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", "")}
    hub = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": WRITE_TOKEN}
    command = [sys.executable, "-c", FOUND, str(folder / "heads")]
    done = subprocess.run(command, env=os.environ | cache | hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
