"""Reading a spec: YAML, overrides, and every mistake turned into one line that names the place, the known keys and the
nearest one."""

import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from raygen.dialect import UNREADABLE, Loader, dump, told
from raygen.errors import SpecError, did_you_mean
from raygen.spec import Spec

_BRANCHES = ("a number", "a range", "of any", "int", "constrained-int", "literal[")
"""How pydantic's locations name the branches of unions, rather than keys."""
_MOVED = {"serve.gpus": "resources.serve.gpus"}
"""Where keys are now that were elsewhere once."""


def load_spec(source: str | Path | Mapping[str, Any] | Spec, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec.

    Args:
        source: a YAML file, the same as a mapping, or a spec.
        overrides: ``"train.epochs=3"``: a key path and a YAML value, applied in order before anything is checked.

    Raises:
        SpecError: the file is missing or not YAML, a key is unknown, a value is of the wrong kind, or parts do not fit.
    """
    if isinstance(source, Spec):
        source = source.model_dump(by_alias=True)
    if isinstance(source, Mapping):
        where = "spec"
        try:
            text = dump(dict(source))
        except yaml.YAMLError as error:
            raise SpecError(f"{where}: has a value that is not YAML: {error.args[-1]!r}", "give plain values") from None
    else:
        where, text = str(source), _read(Path(source))
    lines, document = _parse(text, where)
    for override in overrides:
        _override(document, override)
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        raise _explain(error, where, lines, overrides) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such spec", "write one with: raygen init DATA") from None
    except (OSError, ValueError) as error:  # not UTF-8, or a path that cannot be one
        raise SpecError(f"{path}: cannot be read as a spec ({error})", "give the path of a YAML text file") from None


def _parse(text: str, where: str) -> tuple[dict[tuple[Any, ...], int], dict[str, Any]]:
    """The line of every key path, and the document."""
    lines: dict[tuple[Any, ...], int] = {}
    try:
        root = yaml.compose(text, Loader=Loader)
        if not isinstance(root, yaml.MappingNode):
            raise SpecError(f"{where}: is not a spec: no keys at its top", "write one with: raygen init DATA")
        _number(root, (), lines, where)
        document: dict[str, Any] = yaml.load(text, Loader=Loader)  # noqa: S506 - Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(told(error, where), "mend the syntax there") from None
    except UNREADABLE as error:
        raise SpecError(f"{where}: has a value that cannot be read ({error})", "put text in quotes") from None
    return lines, document


def _number(node: yaml.Node, path: tuple[Any, ...], lines: dict[tuple[Any, ...], int], where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], int] = {}  # by tag too: null is not 'null'
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is not plain text", problem_mark=key.start_mark)
            child = (*path, key.value)
            line = key.start_mark.line + 1
            if (first := seen.get((key.tag, key.value))) is not None:
                raise SpecError(
                    f"{where}:{line}: {'.'.join(map(str, child))} is there twice", f"line {first} has it already"
                )
            seen[key.tag, key.value] = lines[child] = line
            _number(value, child, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _number(value, (*path, index), lines, where)


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise SpecError(f"--set {override}: is not of the form key.path=value", "for example: --set train.epochs=3")
    try:
        value = yaml.load(text, Loader=Loader)  # noqa: S506 - Loader is a SafeLoader
    except (yaml.YAMLError, *UNREADABLE):
        raise SpecError(f"--set {override}: the value is not YAML", "quote it as you would in the spec") from None
    node: Any = document
    for index, step in enumerate(steps[:-1]):
        if node.get(step) is None:
            node[step] = {}
        node = node[step]
        if not isinstance(node, dict):
            raise SpecError(
                f"--set {override}: {'.'.join(steps[: index + 1])} holds no keys",
                "set it as a whole, with a YAML value",
            )
    node[steps[-1]] = value


def _explain(
    error: ValidationError, where: str, lines: Mapping[tuple[Any, ...], int], overrides: Sequence[str]
) -> SpecError:
    """The first mistake, in the user's words. A typo is told before what it leaves missing."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    kind, context = problem["type"], problem.get("ctx", {})
    path, known = _walk(problem["loc"])
    if kind == "union_tag_invalid":
        path = (*path, str(context["discriminator"]).strip("'"))
    key = ".".join(map(str, path))
    overridden = any(key == o.partition("=")[0].strip() for o in overrides)
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = f"--set {key}" if overridden else f"{where}:{line}" if line else where
    if kind == "extra_forbidden":
        parent = ".".join(map(str, path[:-1])) or "a spec"
        moved = f"; did you mean {_MOVED[key]!r}?" if key in _MOVED else did_you_mean(str(path[-1]), known)
        what = f"unknown key {key}{moved}"
        hint = f"known keys of {parent}: {', '.join(known)}"
    elif kind == "missing":
        what, hint = f"{key} is missing", f"add it; see {Spec.documented}"
    elif kind == "union_tag_invalid":
        tags = re.findall(r"'([^']+)'", str(context["expected_tags"]))
        what = f"unknown {path[-1]} {context['tag']!r} at {key}{did_you_mean(str(context['tag']), tags)}"
        hint = f"known: {', '.join(tags)}"
    elif kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        what, hint = f"{key}.{tag} is missing", f"add it; see {Spec.documented}"
    elif len(problems) > 1 and all(_walk(other["loc"])[0] == path for other in problems):  # no branch of a union fits
        ways = " or ".join(other["msg"].removeprefix("Input should be ") for other in problems)
        what, hint = f"{key} is {problem['input']!r}", f"it should be {ways}"
    elif kind == "literal_error":
        choices = [c.strip("' ") for c in re.split(r", | or ", str(context["expected"]))]
        noun = next(step for step in reversed(path) if isinstance(step, str))  # of a list, what it is called
        what = f"unknown {noun} {problem['input']!r} at {key}{did_you_mean(str(problem['input']), choices)}"
        hint = f"known: {', '.join(choices)}"
    elif kind == "value_error":
        what, hint = str(context["error"]), f"see {Spec.documented}"
    else:
        what = f"{key} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
        hint = f"see {Spec.documented}"
    return SpecError(f"{place}: {what}", hint)


def _walk(location: Sequence[Any]) -> tuple[tuple[Any, ...], list[str]]:
    """Pydantic's location without the tags it adds for unions, and the keys known where it points."""
    path: list[Any] = []
    models: list[type[BaseModel]] = [Spec]
    annotation: Any = Spec
    for step in location:
        if models and any(step in _keys(model) for model in models):
            models = [model for model in models if step in _keys(model)]
            annotation = _keys(models[0])[step].annotation
        elif held := [a for a in (annotation, *get_args(annotation)) if get_origin(a) in (dict, list)]:  # or None
            annotation = get_args(held[0])[-1]
        elif any(step == _tag(model) for model in models):
            models = [model for model in models if step == _tag(model)]
            continue
        elif step == "of tables":
            models = [model for model in models if "of" in _keys(model)]
            continue
        elif isinstance(step, str) and (not models or step.startswith(_BRANCHES)):
            continue
        elif models:  # a key that none of them has
            path.append(step)
            continue
        path.append(step)
        found = _models(annotation)
        if found or step != location[-1]:
            models = found
    return tuple(path), list(dict.fromkeys(key for model in models for key in _keys(model)))


def _keys(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _tag(model: type[BaseModel]) -> str | None:
    for name in ("family", "kind"):
        if name in model.model_fields:
            return str(model.model_fields[name].default)
    return None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models directly below an annotation: itself, the members of its union, but not what a list or dict holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []
