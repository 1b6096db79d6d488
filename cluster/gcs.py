"""The control service (GCS) of a Ray cluster, asked before a driver connects: Ray itself would try for minutes, and then end
the process."""

import json
import os
import sys
from typing import Any

from raygen.cluster.addresses import DASHBOARD_PORT
from raygen.errors import ResourceError

ANSWER_SECONDS = 5.0
PORT = 6379


def check(address: str) -> None:
    """Fail within seconds where a driver could not connect.

    Args:
        address: of ``RAY_ADDRESS``: ``host:port``, or ``auto`` for a cluster that is on this machine.

    Raises:
        ResourceError: nothing answers there, it is not for drivers, it refuses the token, or has another Ray or Python.
    """
    from ray._private import services

    where = f"RAY_ADDRESS={address}"
    scheme, _, rest = address.partition("://")
    if rest:
        raise ResourceError(
            f"{where}: is for {'Ray Client' if scheme == 'ray' else 'the dashboard'}, not for drivers",
            f"send the job there, raygen submit SPEC --address http://HOST:{DASHBOARD_PORT}; "
            f"or on a machine of the cluster set RAY_ADDRESS to HOST:{PORT} of its head",
        )
    try:
        place = services.canonicalize_bootstrap_address(address)
    except ValueError:
        raise ResourceError(f"{where}: is no address of a cluster", f"give HOST:{PORT} of its head") from None
    except ConnectionError:
        raise ResourceError(f"{where}: there is no cluster on this machine", "unset RAY_ADDRESS to do without") from None
    if place is not None:  # which it is for "local"
        _compare(where, _versions(where, place))


def _versions(where: str, place: str) -> tuple[str, str]:
    """Of Ray and of Python, with which the cluster was started."""
    import grpc
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    messages: Any = gcs_service_pb2  # generated, and without types
    services: Any = gcs_service_pb2_grpc
    channel = create_gcs_channel(place)
    try:
        key = messages.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
        told = json.loads(services.InternalKVGcsServiceStub(channel).InternalKVGet(key, timeout=ANSWER_SECONDS).value)
        return str(told["ray_version"]), str(told["python_version"])
    except AuthenticationError:
        raise ResourceError("RAY_AUTH_MODE is token, and there is no token here", _token_hint()) from None
    except grpc.RpcError as error:
        raise _explained(where, error.code(), error.details() or "") from None
    except (ValueError, LookupError):
        raise _explained(where, grpc.StatusCode.UNIMPLEMENTED, "") from None
    finally:
        channel.close()


def _explained(where: str, code: object, details: str) -> ResourceError:
    name = getattr(code, "name", "")
    if name == "UNAUTHENTICATED":
        has = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        said = "refuses the token of here" if has else "asks for a token"
        return ResourceError(f"{where}: the cluster {said}", _token_hint())
    if name == "UNIMPLEMENTED" or "parsing HTTP/2" in details:
        return ResourceError(
            f"{where}: answers, but not to drivers of Ray; perhaps it is the port of the dashboard",
            f"give the port of the head's control service, {PORT} by default",
        )
    reason = "nothing comes within seconds" if name == "DEADLINE_EXCEEDED" else details.rsplit(": ", 1)[-1].rstrip("]")
    return ResourceError(
        f"{where}: no Ray cluster answers ({reason or name})",
        "unset RAY_ADDRESS to work on this machine, or check the address",
    )


def _token_hint() -> str:
    return "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token to the cluster's"


def _compare(where: str, theirs: tuple[str, str]) -> None:
    """Fail where Ray would."""
    import ray

    ours = (ray.__version__, ".".join(map(str, sys.version_info[:3])))
    parts = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3
    if theirs[0] == ours[0] and theirs[1].split(".")[:parts] == ours[1].split(".")[:parts]:
        return
    raise ResourceError(
        f"{where}: the cluster has Ray {theirs[0]} on Python {theirs[1]}, and here is Ray {ours[0]} on Python {ours[1]}",
        "install the cluster's here; or send the job there, raygen submit SPEC, where they need not be the same",
    )
