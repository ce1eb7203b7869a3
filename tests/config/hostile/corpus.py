"""Configs and overrides that mean harm, or cost more than a moment: each must be refused, with nothing run or read.

A case is a kind, a name, what is typed, the files around it, and the secrets that no message may repeat.
"""

# ruff: noqa: E501 - a table is read by its rows

from collections.abc import Iterator
from dataclasses import dataclass, field

GADGETS = (
    "os.system", "subprocess.Popen", "builtins.eval", "builtins.__import__", "importlib.import_module", "pickle.loads",
    "logging.os.system", "shutil.rmtree", "torch.load", "runpy.run_path", "hydra.utils.instantiate", "pty.spawn",
    "ctypes.CDLL", "webbrowser.open", "urllib.request.urlopen", "transformers.AutoModel.from_pretrained",
)  # fmt: skip
HF, OPENAI, AWS = "hf_QwErTyUiOpAsDfGhJkLzXcVbNm", "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2", "AKIAIOSFODNN7EXAMPLE"
GITHUB, JWT = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"
KEY = "-----BEGIN RSA PRIVATE KEY-----MIIEpAIBAAKCAQEA"
SECRETS = (HF, OPENAI, AWS, GITHUB, JWT, KEY, "glpat-a1B2c3D4e5F6g7H8i9J0", "xoxb-123456789012-abcdefABCDEF")
MINE = "recipe=./mine.yaml"


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    words: tuple[str, ...]
    files: dict[str, str | bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """A link in the working folder, and what it leads to."""
    secrets: tuple[str, ...] = ()


def recipe(kind: str, name: str, text: str | bytes, *secrets: str) -> Case:
    return Case(kind, name, (MINE,), {"mine.yaml": text}, {}, secrets)


def typed(kind: str, word: str, *secrets: str) -> Case:
    return Case(kind, word[:60], (word,), {}, {}, secrets)


def cases() -> list[Case]:
    parts = (
        code(),
        hydra(),
        resolvers(),
        tags(),
        bombs(),
        traversal(),
        secrets(),
        characters(),
        numbers(),
        structure(),
    )
    return [case for part in parts for case in part]


def code() -> Iterator[Case]:
    places = ("{}", "trainer: {{{}}}", "model: {{config: {{a: {{{}}}}}}}", "adapter: {{{}}}", "dataset: {{columns: {{{}}}}}",
              "model: {{config: {{a: [1, {{{}}}]}}}}", "trainer: {{optim_args: {{{}}}}}", "a: {{b: {{c: {{d: {{{}}}}}}}}}")  # fmt: skip
    for number, gadget in enumerate(GADGETS):
        place = places[number % len(places)].format(f"_target_: {gadget}")
        yield (
            recipe("code", f"{gadget} in a recipe", place)
            if number % 3
            else typed("code", f"++model.config.x._target_={gadget}")
        )
    for key in ("_args_", "_partial_", "_recursive_", "_convert_"):
        yield typed("code", f"trainer.{key}=os.system")
    for key in ("_call_", "__reduce__", "_component_", "class_path"):
        yield recipe("code", f"{key} in a recipe", f"task: {{{key}: os.system}}")
    yield typed("code", "model={_target_: os.system}")
    yield typed("code", "adapter._target_=os.system")
    yield typed("code", "callbacks=[{_target_: os.system}]")
    yield typed("code", "plugins=[os]")


def hydra() -> Iterator[Case]:
    for word in ("hydra.run.dir=elsewhere", "hydra.searchpath=[file:///etc]", "+hydra.searchpath=[pkg://os]",
                 "hydra/launcher=submitit", "+hydra/callbacks=x", "hydra.job.chdir=true", "++hydra.output_subdir=/etc",
                 "hydra.sweeper._target_=os.system", "~hydra", "hydra/job_logging=x", "hydra@x=y", "hydra={a: 1}"):  # fmt: skip
        yield typed("hydra", word)
    yield recipe("hydra", "settings in a recipe", "hydra: {run: {dir: elsewhere}}")
    yield recipe("hydra", "a search path in a recipe", "hydra: {searchpath: ['file:///etc']}")
    yield recipe("hydra", "a launcher in defaults", "defaults: [override hydra/launcher: submitit]")
    yield recipe("hydra", "a package in defaults", "defaults: [override /adapter@hydra: lora]")
    yield recipe("hydra", "a config of Hydra's own", "defaults: [hydra/config]")


def resolvers() -> Iterator[Case]:
    for text in ("oc.env:HOME", "oc.env:AWS_SECRET_ACCESS_KEY,x", "oc.decode:'[1]'", "oc.create:{a: 1}", "now:%Y",
                 "hydra:runtime.cwd", "python_version:", "oc.select:seed", "oc.dict.keys:trainer", "eval:1+1", "a:b",
                 "oc.deprecated:seed"):  # fmt: skip
        yield recipe("resolver", f"{text} in a recipe", f"name: '${{{text}}}'".replace("'[1]'", "[1]"))
    yield typed("resolver", "name=${oc.env:HOME}")
    yield typed("resolver", "dataset.path=x-${oc.env:HOME}")
    yield typed("resolver", "tracking.project=${oc.env:${name}}")
    yield recipe("resolver", "in a list", "tracking: {report_to: ['${oc.env:HOME}']}")
    yield recipe("resolver", "inside of another", "name: '${${oc.env:HOME}}'")
    yield recipe("resolver", "behind a reference", "name: ${output_dir}\noutput_dir: ${oc.env:HOME}")


def tags() -> Iterator[Case]:
    for tag in ("!!python/object/apply:os.system [id]", "!!python/object/new:os.system [id]", "!!python/name:os.system ''",
                "!!python/module:os ''", "!!python/object:os.system {}", "!!python/tuple [1]", "!custom x", "!!binary aGk=",
                "!!set {a}", "!!timestamp 2020-01-01", "!<tag:yaml.org,2002:python/name:os.system> ''", "!!str 1", "! x"):  # fmt: skip
        yield recipe("tag", tag, f"name: {tag}")
    yield recipe("tag", "on a key", "!!python/name:os.system x: 1")
    yield recipe("tag", "under another name", "%TAG ! tag:yaml.org,2002:python/\n---\nname: !name:os.system ''")
    yield typed("tag", "name=!!python/name:os.system")


def bombs() -> Iterator[Case]:
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    yield recipe("bomb", "aliases that double", laughs)
    yield recipe("bomb", "aliases that grow tenfold", "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)))  # fmt: skip
    yield recipe("bomb", "many aliases", "a: &a x\nb: [" + ", ".join(["*a"] * 101) + "]")
    yield recipe("bomb", "an alias of itself", "a: &a {b: *a}")
    yield recipe("bomb", "merge keys", "a: &a {b: 1}\nc: {<<: *a}")
    yield recipe("bomb", "deep lists", "a: " + "[" * 100_000)
    yield recipe("bomb", "deep mappings", "a: " + "{a: " * 60 + "1" + "}" * 60)
    yield recipe("bomb", "deep blocks", "\n".join(" " * n + "a:" for n in range(200)))
    yield recipe("bomb", "deep dashes", "a: " + "\n" + "- " * 5000)
    yield recipe("bomb", "many values", "a: [" + "1," * 200_000 + "1]")
    yield recipe("bomb", "a large file", "name: " + "x" * 2**20)
    yield recipe("bomb", "many documents", "---\na: 1\n" * 1000)
    double = "".join(f"b{n}: ${{b{n + 1}}}${{b{n + 1}}}\n" for n in range(40))
    yield recipe("bomb", "references that double", f"{double}b40: x")
    yield recipe("bomb", "references that double nothing", f"{double}b40: ''")
    yield recipe("bomb", "references to lists that double", "".join(
        f"b{n}: ['${{b{n + 1}}}', '${{b{n + 1}}}']\n" for n in range(40)) + "b40: [1]")  # fmt: skip
    yield Case(
        "bomb",
        "references that double below an override",
        (MINE, "name=x"),
        {"mine.yaml": f"name: ${{b0}}\n{double}b40: x"},
    )
    yield recipe(
        "bomb",
        "a long resolved text",
        f"name: {'${publish.commit_message}' * 200}\npublish: {{commit_message: {'x' * 1000}}}",
    )
    yield recipe("bomb", "a circle", "name: ${output_dir}\noutput_dir: ${name}")
    yield recipe("bomb", "a value inside of itself", "model: {config: {a: '${model}'}}")
    yield recipe("bomb", "a reference to everything", "name: '${.}'")
    for word in ("model.config.a=" + "[" * 60 + "]" * 60, "model.config.a=[" + "1," * 20_000 + "1]",
                 "model.config.a=" + "{a: " * 2000, "name=" + "x" * 2**17, "name=${name}", "seed=" + "9" * 5000,
                 "name=" + "${output_dir}" * 3 + "${", "a=" * 5000, "model.config." + "a." * 20_000 + "b=1"):  # fmt: skip
        yield typed("bomb", word)
    yield Case("bomb", "typed references that double", (
        *(f"model.config.b{n}=${{model.config.b{n + 1}}}${{model.config.b{n + 1}}}" for n in range(30)), "model.config.b30=x"))  # fmt: skip


def traversal() -> Iterator[Case]:
    for word in ("recipe=../../../etc/passwd", "recipe=/etc/passwd", "recipe=../conf/config", "recipe=sft/../quickstart",
                 "recipe=/etc/passwd.yaml", "recipe=.", "recipe=..", "recipe=/", "recipe=/dev/zero", "recipe=file:///etc/x.yaml",
                 "recipe=pkg://os/x.yaml", "recipe=https://example.com/x.yaml", "adapter=../../etc/passwd", "model=/etc/passwd",
                 "trainer=../config", "dataset=recipes://x", "name=../../x", "name=/etc/x", "name=..", "name=.hidden",
                 r"name=..\\x", "name=a/b", "dataset.path=recipes://../conf", "dataset.path=recipes://data/../../conf",
                 "model.path=package://os/../../etc", "model.path=package://../x", "tokenizer.path=package://a/../../b",
                 "dataset.data_files=../../etc/passwd", "dataset.data_files={train: ../../etc/passwd}",
                 "dataset.data_files=[a, b/../../../c]", "model.fallback_path=package://a/../b"):  # fmt: skip
        yield typed("traversal", word)
    outside = {"outside.yaml": "/etc/hostname", "mine.yaml": "../outside/other.yaml"}
    yield Case("traversal", "a link to a file of the machine", ("recipe=./outside.yaml",), {}, outside)
    yield Case("traversal", "a link to a recipe elsewhere", (MINE,), {}, outside)
    yield Case(
        "traversal", "an inherited link", ("recipe=./heir.yaml",), {"heir.yaml": "defaults: [mine.yaml]"}, outside
    )
    for parent in ("/etc/hostname", "../outside/other.yaml", "../../../../etc/passwd", "/etc/passwd", "~/.netrc"):
        yield recipe("traversal", f"inherits {parent}", f"defaults: ['{parent}']")


def secrets() -> Iterator[Case]:
    for number, secret in enumerate(SECRETS):
        yield recipe("secret", f"in a recipe: {secret[:6]}", f"evaluation: {{metrics: [a, '{secret}']}}", secret)
        yield typed("secret", f"dataset.revision='{secret}'", secret)
        yield recipe("secret", f"as a key: {secret[:6]}", f"model: {{config: {{'{secret}': {number}}}}}", secret)
    for key in ("trainer.hub_token", "model.config.token", "model.config.api_key", "model.config.password", "token",
                "model.config.aws_secret_access_key", "model.config.wandb_api_key", "publish.hf_token"):  # fmt: skip
        yield typed("secret", f"{key}=hunter2hunter2", "hunter2hunter2")
    for word in (f"adapter={HF}", HF, f"recipe={HF}", f"name={HF}(", f"~{HF}", f"{HF}=1", f"seed={HF}", f"name=[{HF},a]",
                 f"trainer.run_name={HF},x", f"recipe={HF}.yaml"):  # fmt: skip
        yield typed("secret", word, HF)
    yield typed("secret", "dataset.path=https://me:hunter2hunter2@example.com/x.csv", "hunter2hunter2")
    yield recipe("secret", "in an inherited name", f"defaults: ['{HF}']", HF)
    yield recipe("secret", "in a broken file", f"name: {{'{HF}'", HF)


def characters() -> Iterator[Case]:
    for name, text in {
        "NUL in a value": r'name: "a\0b"', "NUL in a path": r'dataset: {revision: "a\0b"}', "NUL in a key": r'"a\0b": 1',
        "an escape sequence": r'name: "\e[2Jx"', "an escape sequence in a key": r'"\e]0;x\a": 1', "a bell": r'name: "\a"',
        "turned writing": 'name: "a\u202eb"', "turned writing in a key": '"a\u202eb": 1', "an isolate": 'dataset: {revision: "a\u2066b"}',
        "a Cyrillic key": "tr\u0430iner: {max_steps: 1}", "a zero-width key": "see\u200bd: 1", "full-width digits": "seed: '\uff11\uff12'",
        "a full-width option": "defaults: [override /precision: bf\uff11\uff16]", "a non-breaking space": "seed:\u00a01",
        "a combining key": "se\u0301ed: 1", "a dotless key": "tra\u0131ner: {}", "a next line": r'name: "a\Nb"',
    }.items():  # fmt: skip
        yield recipe("character", name, text)
    for name, data in {
        "UTF-16": "seed: 1".encode("utf-16"), "latin-1": "name: \u00e9".encode("latin-1"), "a NUL byte": b"seed: 1\x00",
        "noise": bytes(range(256)), "an escape byte": b"name: \x1b[2J", "half a letter": b"name: \xc3", "a surrogate": b"name: \xed\xa0\x80",
    }.items():  # fmt: skip
        yield recipe("character", name, data)
    for word in ("name=a\0b", "recipe=a\0.yaml", "\0", "name=\x1b[2J", "name=a\u202eb", "s\u0435ed=1", "name=\ud800", "seed=\uff11",
                 "name=a\nb\0", "adapter=lora\0", "\x1b[2J=1"):  # fmt: skip
        yield typed("character", word)


def numbers() -> Iterator[Case]:
    for name, text in {
        "NO for a switch": "publish: {private: NO thanks}", "NO for text": "dataset: {revision: NO}", "off for text": "name: off",
        "a time for a number": "seed: 12:30", "a time for text": "name: 12:30:45", "an octal": "seed: 010", "an octal for text": "dataset: {revision: 0123}",
        "a number for text": "dataset: {revision: 1234567}", "a float for text": "dataset: {revision: 1e10}", "a date for a number": "seed: 2020-01-01",
        "infinity": "trainer: {learning_rate: .inf}", "no number": "trainer: {learning_rate: .nan}", "beyond infinity": "trainer: {learning_rate: 1e999}",
        "65 bits": f"seed: {2**64}", "thousands of digits": f"seed: {'9' * 5000}", "hexadecimal digits": f"seed: 0x{'f' * 5000}",
        "broken hexadecimal": "seed: 0x_", "broken binary": "seed: 0b_", "a float for a whole number": "seed: 1e-4", "a sign": "seed: +-1",
        "a switch for a number": "seed: yes", "null for a number": "seed: ~", "a number for a switch": "model: {trust_remote_code: 1}",
        "text for a number": "trainer: {learning_rate: '1e-4'}", "a comma": "trainer: {learning_rate: 1,5}", "minus infinity": "model: {config: {a: -.inf}}",
        "a negative count": "dataset: {limit: -1}", "a share above one": "dataset: {max_dropped: 1.5}", "an underscore": "seed: _1",
    }.items():  # fmt: skip
        yield recipe("number", name, text)
    for word in ("seed=1e999", "trainer.learning_rate=nan", "trainer.learning_rate=inf", f"seed={2**64}", "seed=12:30", "seed=010",
                 "seed=1.0", "dataset.limit=0", "model.config.a=-inf"):  # fmt: skip
        yield typed("number", word)


def structure() -> Iterator[Case]:
    for name, text in {
        "a list": "- a", "a text": "rm -rf", "a key twice": "seed: 1\nseed: 2", "a nested key twice": "trainer: {max_steps: 1, max_steps: 2}",
        "a list as a key": "? [a, b]\n: 1", "a mapping as a key": "? {a: b}\n: 1", "null as a key": "~: 1", "an empty key": "'': 1",
        "a dotted key": "trainer.max_steps: 1", "two documents": "seed: 1\n---\nseed: 2", "a package": "# @package hydra\nsearchpath: [x]",
        "defaults as text": "defaults: quickstart", "defaults as a mapping": "defaults: {a: b}", "a number in defaults": "defaults: [1]",
        "a list in defaults": "defaults: [[quickstart]]", "two keys in defaults": "defaults: [{override /adapter: lora, override /task: sft}]",
        "a tab": "trainer:\n\tmax_steps: 1", "an unclosed quote": "name: 'a", "an unknown alias": "name: *a", "a reserved letter": "name: @a",
        "itself": "defaults: [mine.yaml]", "a missing value": "name: ???",
    }.items():  # fmt: skip
        yield recipe("structure", name, text)
