"""Where recipes and groups live, in a checkout, an installed wheel, or a user's own files; list, read and copy them.

Knows files and names. Knows nothing of what a recipe says.
"""

from functools import cache
from pathlib import Path

from finetune.config.suggest import did_you_mean
from finetune.errors import UserError

PACKAGE = Path(__file__).parent.parent
# A wheel carries conf and recipes inside the package; a checkout beside it.
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
CONF = HOME / "conf"
RECIPES = HOME / "recipes"
OFFLINE = RECIPES / "offline.yaml"
"""What is known of models and data sets without the Hub; not a recipe."""
SCHEME = "recipes://"
SUFFIXES = (".yaml", ".yml")
LONGEST = 255
"""Bytes of a file's name, on every file system in use."""
FURTHER = "`finetune recipes` lists them; a file of your own is written ./mine.yaml."


def names() -> list[str]:
    """Every shipped recipe, as it is written after `recipe=`."""
    files = (file for file in RECIPES.rglob("*.yaml") if file != OFFLINE)
    return sorted(file.relative_to(RECIPES).with_suffix("").as_posix() for file in files)


@cache
def groups() -> dict[str, list[str]]:
    """Every config group with the names of its files, ours and the user's."""
    found: dict[str, list[str]] = {}
    for file in sorted(file for root in (CONF, *own_folders) for file in root.glob("*/*.yaml")):
        found.setdefault(file.parent.name, []).append(file.stem)
    return found


own_folders: list[Path] = []
"""A user's own folders of groups, as `--config-dir` names them."""


def add_folder(folder: Path) -> None:
    """Offer the files of a user's folder, `DIR/adapter/mine.yaml`, as options of the groups.

    Raises:
        UserError: it is no folder, names a group that there is not, or an option that is shipped.
    """
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: there is no such folder")
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        known = groups().get(group.name)
        if known is None:
            hint = did_you_mean(group.name, groups()) or f"Groups: {', '.join(groups())}"
            raise UserError(f"--config-dir {folder}: {group.name} is not a config group. {hint}")
        if taken := [file.name for file in group.glob("*.yaml") if file.stem in known]:
            raise UserError(f"--config-dir {folder}: {group.name}/{taken[0]} exists already; give yours another name")
    own_folders.append(folder.resolve())
    groups.cache_clear()


def file_of(option: str) -> Path | None:
    """The file of an option, `adapter/lora`; None for what is no file."""
    files = (root / f"{option}.yaml" for root in (CONF, *own_folders))
    return next((file for file in files if file.is_file()), None)


def find(name: str, folder: Path = Path()) -> Path:
    """The file of a recipe: a shipped one by name, or any YAML file by its path from `folder`.

    Raises:
        UserError: there is no such recipe or file.
    """
    own = _expanded(name, folder)
    if own.suffix in SUFFIXES and own.is_file():
        return own
    if name in names():
        return RECIPES / f"{name}.yaml"
    raise UserError(f"recipe={name}: {_nothing_there(name, own)}")


def _expanded(name: str, folder: Path) -> Path:
    """A path as it is written, from a folder.

    Raises:
        UserError: nothing on this machine can be called so.
    """
    own = Path(name)
    if "\0" in name or any(len(part.encode(errors="replace")) > LONGEST for part in own.parts):
        raise UserError(f"recipe={name[:60]}: no file can be called so")
    try:
        return folder / own.expanduser()
    except RuntimeError:  # ~name, and there is no such user
        return folder / own


def _nothing_there(name: str, own: Path) -> str:
    shipped = did_you_mean(name.removesuffix(own.suffix), names())
    if own.suffix in SUFFIXES:
        return f"there is no such file below {own.parent.absolute()}. {shipped}".rstrip()
    beside = own.parent / f"{own.name}.yaml"
    if own.name and beside.is_file():
        return f"no recipe of that name is shipped. A file is written with its ending: {beside.name}"
    return f"there is no such recipe. {shipped or FURTHER}"


def first_comment(file: Path) -> str:
    """The line that says what a recipe does: its first comment that is not a directive."""
    comments = (line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((text for text in comments if text and not text.startswith("@package")), "")


def copy(name: str, target: Path) -> Path:
    """Copy a recipe out, into a folder or under a new name, never over a file that exists.

    Raises:
        UserError: there is no such recipe, or the target exists or cannot be written.
    """
    file = find(name)
    target = target if target.suffix in SUFFIXES else target / file.name
    if target.exists():
        raise UserError(f"{target} exists already; name another file: finetune recipes copy {name} NEW.yaml")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as new:
            new.write(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from None
    return target


def locate(path: str) -> Path:
    """The file or folder behind a `recipes://` path.

    Raises:
        UserError: it leads outside the recipes, or to nothing.
    """
    target = (RECIPES / path.removeprefix(SCHEME)).resolve()
    if not target.is_relative_to(RECIPES.resolve()) or not target.exists():
        raise UserError(f"{path}: there is nothing of that name beside the recipes")
    return target
