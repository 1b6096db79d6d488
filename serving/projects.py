"""What is to be served: projects, each by its spec, its folder, or its name in the storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygen.datasets.storage import Folder
from raygen.errors import RaygenError, SpecError
from raygen.generators.generator import Generator
from raygen.jobs.registry import Registry
from raygen.load import load_spec
from raygen.machines import Resources
from raygen.spec import ServeSpec, Spec


@dataclass(frozen=True)
class Projects:
    """Projects that have a current generator.

    Attributes:
        uris: ``<storage>/<name>`` of each, absolute, by name.
        digests: of the current generators, by name.
        spec: how the endpoint is, which the first of them says.
        resources: what is reserved for each replica, which that says, too.
    """

    uris: Mapping[str, str]
    digests: Mapping[str, str]
    spec: ServeSpec
    resources: Resources

    @classmethod
    def of(cls, sources: Sequence[str], storage: str = "./store", overrides: Sequence[str] = ()) -> "Projects":
        """Find them.

        Args:
            sources: each a spec's path, ``<storage>/<name>``, or a name.
            storage: where a name is one of a project.
            overrides: of the first one's spec, or of that which its current generator was trained with.

        Raises:
            RaygenError: one is not there, or has no current generator, or two have the same name; a spec is wrong.
        """
        uris: dict[str, str] = {}
        digests: dict[str, str] = {}
        options: tuple[ServeSpec, Resources] | None = None
        for source in sources:
            registry = _registry(source, storage, overrides if options is None and _is_spec(source) else ())
            name, current = registry.folder.name, registry.current()
            if current is None:
                raise RaygenError(
                    f"{registry.folder.uri}: no generator is current, so there is none to serve",
                    "raygen run SPEC, or raygen models promote",
                )
            if name in uris:
                raise RaygenError(
                    f"two projects are called {name!r}: {uris[name]} and {registry.folder.uri}", "leave one out"
                )
            if options is None:
                options = _options(source, registry, overrides)
            uris[name], digests[name] = registry.folder.uri, current.digest
        if options is None:
            raise RaygenError("no project is given", "give a spec, or the name of a project")
        return cls(uris, digests, *options)

    def check(self) -> None:
        """Load every generator here, before anything is started elsewhere.

        Raises:
            RaygenError: one cannot be read, or this raygen cannot rebuild it.
        """
        for name, digest in self.digests.items():
            Generator.load((Folder(self.uris[name]) / "generators" / digest).uri, device="cpu")

    def config(self, host: str, port: int, tokens: str | Path | None, insecure: bool) -> dict[str, Any]:
        """The endpoint as a config of Ray Serve (``serve deploy``, KubeRay's ``serveConfigV2``): see ``deployment.build``.

        Args:
            host: where to listen.
            port: where to listen.
            tokens: a file that is on the cluster, too; without it, ``RAYGEN_TOKENS`` has to be in the environment there.
            insecure: whether everybody may ask.
        """
        given = {"tokens": str(Path(tokens).absolute())} if tokens is not None else {"insecure": True} if insecure else {}
        endpoint = {"serve": self.spec.model_dump(mode="json"), "resources": self.resources.model_dump(mode="json")}
        arguments = {"projects": dict(self.uris), **endpoint, **given}
        application = {
            "name": "raygen",
            "route_prefix": "/",
            "import_path": "raygen.serving.deployment:build",
            "args": arguments,
        }
        http = {"host": host, "port": port}
        return {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}


def _is_spec(source: str) -> bool:
    return Path(source).is_file()


def _registry(source: str, storage: str, overrides: Sequence[str]) -> Registry:
    if _is_spec(source) or "/" in source or Path(source).is_dir():
        return Registry.of(source, overrides)
    if Path(source).suffix in (".yaml", ".yml"):
        raise SpecError(f"{source}: there is no such spec", "write one with: raygen init DATA")
    return Registry.of((Folder(storage) / source).uri)


def _options(source: str, registry: Registry, overrides: Sequence[str]) -> tuple[ServeSpec, Resources]:
    given: Any = source if _is_spec(source) else registry.show()["lineage"].get("spec")
    if given is None:
        if overrides:
            raise RaygenError(f"{registry.folder.uri}: does not know its spec, so nothing of it can be set", "give the spec")
        return ServeSpec(), Resources()
    spec: Spec = load_spec(given if given is source else _as_it_is_now(given), overrides)
    return spec.serve, spec.resources.serve or Resources()


def _as_it_is_now(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a generator of before ``resources``, when ``serve.gpus`` said what a replica reserves."""
    serve = dict(lineage.get("serve") or {})
    if not (gpus := serve.pop("gpus", 0)):
        return {**lineage, "serve": serve}
    return {**lineage, "serve": serve, "resources": {**(lineage.get("resources") or {}), "serve": {"gpus": gpus}}}
