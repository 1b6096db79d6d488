"""Which cluster is meant: an address or a name, and the token that it asks for.

Names are of the user's own list, ``~/.config/raygen/clusters.yaml``::

    lab:
      address: http://10.0.0.5:8265
    prod:
      address: https://ray.example.com
      token_file: ~/.ray/prod_token      # or token_env: PROD_RAY_TOKEN

Where it says no token, Ray's own settings do: with ``RAY_AUTH_MODE=token``, ``RAY_AUTH_TOKEN``, else the file of
``RAY_AUTH_TOKEN_PATH``, else ``~/.ray/auth_token``. This imports no Ray.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from raygen.dialect import Loader, told
from raygen.errors import RaygenError, did_you_mean

DASHBOARD_PORT = 8265
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What says an address where no option does; of Ray's own clients the first one goes before the second one, too."""
KEYS = ("address", "token_file", "token_env")


@dataclass(frozen=True)
class Token:
    """A secret, and where it comes from, which may be told."""

    secret: str = field(repr=False)
    source: str


@dataclass(frozen=True)
class Cluster:
    """A cluster's dashboard.

    Attributes:
        said: what the user calls it.
        url: ``http://host:port``, without a slash at its end.
        token: None where none is known.
    """

    said: str
    url: str
    token: Token | None = None

    def __str__(self) -> str:
        return self.url if self.said == self.url else f"{self.said} ({self.url})"


def find(address: str | None) -> Cluster:
    """The cluster that is meant.

    Args:
        address: of an option: a URL, ``host:port`` or a name; without one, the environment says it.

    Raises:
        RaygenError: nobody says it, it is not the address of a dashboard, there is no such name, the list is broken, or a
            token cannot be read.
    """
    if address is None:
        variable = next((name for name in VARIABLES if os.environ.get(name)), None)
        if variable is None:
            known = ", ".join(_clusters())
            raise RaygenError(
                "no cluster is named",
                f"give --address http://HOST:{DASHBOARD_PORT}, or set RAY_ADDRESS, or name one in {config()}"
                + (f": it has {known}" if known else ""),
            )
        said, where = os.environ[variable], f"{variable}={os.environ[variable]}"
    else:
        said, where = address, f"--address {address}"
    if ":" in said:
        return Cluster(said, _url(said, where), _token_of_ray())
    if said in ("auto", "local"):
        raise RaygenError(f"{where}: is no address of a dashboard", _like())
    return _named(said, where)


def config() -> Path:
    """The user's list of clusters, which need not be there."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "raygen" / "clusters.yaml"


def _like() -> str:
    return f"give that of the cluster's dashboard, such as http://HOST:{DASHBOARD_PORT}"


def _url(address: str, where: str) -> str:
    if "@" in address or "?" in address or "#" in address:  # which is not repeated: there may be a secret in it
        raise RaygenError("the address of the cluster has more in it than an address", f"{_like()}; tokens: see {config()}")
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise RaygenError(f"{where}: is no address", _like()) from None
    if parts.scheme == "ray":
        host = parts.hostname or "HOST"
        raise RaygenError(
            f"{where}: is for Ray Client, and jobs are sent to the dashboard", f"give http://{host}:{DASHBOARD_PORT}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise RaygenError(f"{where}: is no address of a dashboard", _like())
    return text.rstrip("/")


def _named(name: str, where: str) -> Cluster:
    clusters = _clusters()
    if name not in clusters:
        if not clusters:
            raise RaygenError(f"{where}: is a name, and {config()} has none", f"write it there, or {_like()}")
        raise RaygenError(
            f"{where}: {config()} has no such cluster{did_you_mean(name, clusters)}",
            f"it has {', '.join(clusters)}; or {_like()}",
        )
    entry = clusters[name]
    return Cluster(name, _url(entry["address"], f"{config()}: {name}"), _token(name, entry) or _token_of_ray())


def _token(name: str, entry: Mapping[str, str]) -> Token | None:
    if (variable := entry.get("token_env")) is not None:
        if not (secret := os.environ.get(variable, "").strip()):
            raise RaygenError(f"{config()}: the token of {name} is in {variable}, which is not set", f"set {variable}")
        return _checked(secret, variable)
    return _token_in(Path(entry["token_file"]), str(config())) if "token_file" in entry else None


def _token_of_ray() -> Token | None:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if secret := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(secret, "RAY_AUTH_TOKEN")
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return _token_in(Path(path), "RAY_AUTH_TOKEN_PATH")
    path_ = Path.home() / ".ray" / "auth_token"
    return _token_in(path_, "RAY_AUTH_MODE=token") if path_.exists() else None


def _token_in(file: Path, where: str) -> Token:
    try:
        secret = file.expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise RaygenError(f"{where}: no token can be read from {file} ({reason})", "write the cluster's into it") from None
    if not secret or "\n" in secret:
        raise RaygenError(f"{where}: there is no token in {file}", "write the cluster's into it, and nothing else")
    return _checked(secret, str(file))


def _checked(secret: str, source: str) -> Token:
    if not re.fullmatch(r"[!-~]+", secret):
        raise RaygenError(f"{source}: what is there is no token", "letters, digits and marks, without spaces in between")
    return Token(secret, source)


def _clusters() -> dict[str, dict[str, str]]:
    """The user's list; empty where there is none."""
    file = config()
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=Loader)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise RaygenError(f"{file}: cannot be read ({error})", "it is a YAML text file") from None
    except yaml.YAMLError as error:
        raise RaygenError(told(error, str(file)), "mend the syntax there") from None
    return {} if root is None else {name: _entry(name, node) for name, node in _pairs(root, "names of clusters")}


def _entry(name: str, node: yaml.Node) -> dict[str, str]:
    entry = {}
    for key, value in _pairs(node, f"keys of {name}"):
        line = value.start_mark.line + 1
        if key not in KEYS:
            raise RaygenError(
                f"{config()}:{line}: unknown key {name}.{key}{did_you_mean(key, KEYS)}", f"known keys: {', '.join(KEYS)}"
            )
        if not isinstance(value, yaml.ScalarNode) or not value.value:
            raise RaygenError(f"{config()}:{line}: {name}.{key} is not text", "give one value")
        entry[key] = value.value
    line = node.start_mark.line + 1
    if "address" not in entry:
        raise RaygenError(f"{config()}:{line}: {name}.address is missing", "add that of its dashboard, http://HOST:8265")
    if {"token_file", "token_env"} <= entry.keys():
        raise RaygenError(f"{config()}:{line}: {name} has both token_file and token_env", "leave one out")
    return entry


def _pairs(node: yaml.Node, what: str) -> list[tuple[str, yaml.Node]]:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise RaygenError(f"{config()}:{line}: are no {what}", "write lab: {address: http://HOST:8265}")
    pairs: list[tuple[str, yaml.Node]] = []
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise RaygenError(f"{config()}:{line}: a key is not plain text", "mend that")
        if any(key.value == name for name, _ in pairs):
            raise RaygenError(f"{config()}:{line}: {key.value} is there twice", "leave one out")
        pairs.append((key.value, value))
    return pairs
