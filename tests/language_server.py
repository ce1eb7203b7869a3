"""The real yaml-language-server, spoken to over its standard streams as an editor does."""

import json
import os
import queue
import shutil
import subprocess
import threading
from pathlib import Path

SECONDS = 60


def command():
    """How the server is started, or None where it is not installed."""
    found = os.environ.get("FINETUNE_YAML_LANGUAGE_SERVER") or shutil.which("yaml-language-server")
    return [found, "--stdio"] if found else None


class LanguageServer:
    """One server for files of one folder; every file is checked against one schema."""

    def __init__(self, folder: Path, schema: Path):
        self.settings = {
            "validate": True, "hover": True, "completion": True, "schemaStore": {"enable": False},
            "schemas": {schema.as_uri(): ["*.yaml"]},
        }  # fmt: skip
        self.folder, self.messages, self.number = folder, queue.Queue(), 0
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command(), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        threading.Thread(target=self._listen, daemon=True).start()
        workspace = {"configuration": True, "workspaceFolders": True}
        text = {"completion": {}, "hover": {"contentFormat": ["markdown"]}, "publishDiagnostics": {}}
        self.ask(
            "initialize", processId=os.getpid(), rootUri=folder.as_uri(),
            capabilities={"workspace": workspace, "textDocument": text},
            workspaceFolders=[{"uri": folder.as_uri(), "name": "tests"}],
        )  # fmt: skip
        self._tell("initialized")
        self._tell("workspace/didChangeConfiguration", settings={"yaml": self.settings})

    def close(self):
        self.process.kill()
        self.process.wait()

    def open(self, name, text):
        """Open a file and return the messages of its diagnostics."""
        uri = (self.folder / name).as_uri()
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._tell("textDocument/didOpen", textDocument=document)
        published = self._until(
            lambda found: found.get("method") == "textDocument/publishDiagnostics" and found["params"]["uri"] == uri
        )
        return [(each["range"]["start"]["line"], each["message"]) for each in published["params"]["diagnostics"]]

    def at(self, method, name, line, character):
        """What the server answers about a place in an open file."""
        position = {"line": line, "character": character}
        return self.ask(
            f"textDocument/{method}", textDocument={"uri": (self.folder / name).as_uri()}, position=position
        )

    def ask(self, method, **params):
        self.number += 1
        number = self.number
        self._send({"id": number, "method": method, "params": params})
        return self._until(lambda found: found.get("id") == number and "method" not in found)["result"]

    def _tell(self, method, **params):
        self._send({"method": method, "params": params})

    def _send(self, message):
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self.process.stdin.flush()

    def _until(self, wanted):
        while True:
            found = self.messages.get(timeout=SECONDS)
            if "method" in found and "id" in found:
                sections = found["params"].get("items", []) if found.get("params") else []
                answer = [self.settings if item.get("section") == "yaml" else {} for item in sections]
                self._send({"id": found["id"], "result": answer})
            if wanted(found):
                return found

    def _listen(self):
        stream = self.process.stdout
        while line := stream.readline():
            length = 0
            while line.strip():
                name, _, value = line.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
                line = stream.readline()
            self.messages.put(json.loads(stream.read(length)))
