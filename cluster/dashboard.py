"""A Ray cluster by the HTTP API of its dashboard: its versions, its nodes, and what Ray Jobs runs there.

Ray's own client (``ray.job_submission``) is not used: it lets ``RAY_ADDRESS`` overrule the address that it is given, waits
for answers without a limit, and has to import Ray, which takes longer than all else that a client does. The API is the same.
"""

import hashlib
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests

from raygen.cluster.addresses import DASHBOARD_PORT, Cluster, config
from raygen.errors import ResourceError

CONNECT_SECONDS, FIRST_SECONDS = 4.0, 5.0
"""For the first answer, so that a cluster that gives none is told of within ten seconds."""
ANSWER_SECONDS = 60.0
"""For any other: of a head that has much to do, or by a slow line."""
AGENT_SECONDS = 30.0
"""That a dashboard which answers may have nobody yet to run a job."""
WHOLE_LOG_SECONDS = 600.0
QUIET_SECONDS = 60.0
"""After which a log that says nothing is asked for anew, since perhaps nobody is there any more; the next time after twice
as many, for it comes from its beginning."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOG = "job-driver-{}.log"


class Dashboard:
    """The dashboard of a cluster. Making the object asks nothing.

    Raises:
        ResourceError: from every method, where it does not answer, is not a dashboard, or refuses the token.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._session = requests.Session()
        self._session.auth = self._sign  # given here, nothing is looked up in ~/.netrc
        self._session.trust_env = urlsplit(cluster.url).hostname not in LOOPBACK  # no proxy for a tunnel
        self._has_answered = False

    def __repr__(self) -> str:
        return f"Dashboard({self.cluster.url!r})"

    def version(self) -> str:
        """Ray's."""
        found = self._json("GET", "/api/version")
        if not isinstance(found, dict) or not isinstance(found.get("ray_version"), str):
            raise self._no_dashboard()
        return str(found["ray_version"])

    def python(self) -> str | None:
        """The version of Python that the cluster has; None where it does not tell."""
        answer = self._ask("GET", "/api/v0/cluster_metadata", allow=(404,))
        return None if answer.status_code == 404 else answer.json()["data"].get("pythonVersion")

    def nodes(self) -> list[dict[str, Any]]:
        """What it says of its nodes, also dead ones: ``node_id``, ``is_head_node``, ``resources_total``, ``labels``, …."""
        answer = self._json("GET", "/api/v0/nodes", params={"detail": "true", "limit": "10000"})
        try:
            return list(answer["data"]["result"]["result"])
        except (LookupError, TypeError):
            raise self._no_dashboard() from None

    def status(self) -> dict[str, Any]:
        """What its autoscaler says, if it has one."""
        answer: dict[str, Any] = self._json("GET", "/api/cluster_status")
        return answer

    def machines(self) -> dict[str, Any]:
        """What the machines of its nodes are doing, and what of each is reserved."""
        found: dict[str, Any] = self._json("GET", "/nodes", params={"view": "summary"})["data"]
        return found

    def told(self) -> str:
        """What the autoscaler says, as ``ray status`` prints it."""
        return str(self._json("GET", "/api/cluster_status", params={"format": "1"})["data"].get("clusterStatus") or "")

    def process(self, node: str) -> list[str]:
        """The command line of a node's raylet; empty where that is not known, or not yet."""
        detail = self._json("GET", f"/nodes/{node}")["data"].get("detail") or {}
        return list(detail.get("cmdline") or [])

    def jobs(self) -> list[dict[str, Any]]:
        """All that Ray Jobs was sent, as it tells of them."""
        return [job for job in self._json("GET", "/api/jobs/") if job["type"] == "SUBMISSION"]

    def job(self, name: str) -> dict[str, Any] | None:
        """One of them; None where there is no such."""
        answer = self._ask("GET", f"/api/jobs/{name}", allow=(404,))
        return None if answer.status_code == 404 else answer.json()

    def submit(self, name: str, document: dict[str, Any]) -> bool:
        """Send a job to Ray Jobs; False where it has one of that name, whoever was first."""
        body, deadline = {**document, "submission_id": name}, time.monotonic() + AGENT_SECONDS
        while True:
            answer = self._ask("POST", "/api/jobs/", allow=(400, 500), json=body)
            if answer.ok or "No available agent" not in answer.text or time.monotonic() > deadline:
                break
            time.sleep(1)  # the head has just been started
        if not answer.ok and "already exists" not in answer.text:
            raise self._refused(answer)
        return answer.ok

    def stop(self, name: str) -> None:
        """Have it sent SIGTERM, if it runs. Does not wait for it."""
        self._ask("POST", f"/api/jobs/{name}/stop")

    def upload(self, archive: bytes) -> str:
        """A zip file to be unpacked on nodes; returns the URI that a runtime environment names it by.

        The cluster keeps it for ten minutes, and as long as a job uses it.
        """
        name = f"_ray_pkg_{hashlib.sha256(archive).hexdigest()}.zip"
        if self._ask("GET", f"/api/packages/gcs/{name}", allow=(404,)).status_code == 404:
            self._ask("PUT", f"/api/packages/gcs/{name}", data=archive)
        return f"gcs://{name}"

    def log(self, name: str, node: str, lines: int = -1) -> bytes:
        """What a job has printed: its last lines, or all; empty where that is not there any more."""
        seconds = ANSWER_SECONDS if lines >= 0 else WHOLE_LOG_SECONDS  # for all of it, by Ray
        place = {"node_id": node, "filename": LOG.format(name), "lines": str(lines), "timeout": str(int(seconds))}
        answer = self._ask("GET", "/api/v0/logs/file", allow=(404, 500), params=place)
        return answer.content if answer.status_code == 200 else b""

    def stream(self, name: str, node: str, over: threading.Event) -> "queue.SimpleQueue[bytes]":
        """What a job prints, from its beginning on, as it comes; read by a thread, until it is over."""
        pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(name, node, over, pieces.put), name="log", daemon=True).start()
        return pieces

    def _read(self, name: str, node: str, over: threading.Event, put: Callable[[bytes], None]) -> None:
        place = {"node_id": node, "filename": LOG.format(name), "lines": "-1", "interval": "0.5"}
        seen, quiet = 0, QUIET_SECONDS
        while not over.is_set():
            skip = seen  # of what comes again after a connection that broke
            try:
                with self._send("GET", "/api/v0/logs/stream", quiet, params=place, stream=True) as answer:
                    for piece in answer.iter_content(None) if answer.status_code == 200 else ():
                        fresh, skip = piece[skip:], max(0, skip - len(piece))
                        seen += len(fresh)
                        if over.is_set():
                            return
                        if fresh:
                            put(fresh)
            except requests.RequestException as error:
                if "timed out" in str(error):
                    quiet *= 2
            over.wait(1)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        answer = self._ask(method, path, **options)
        try:
            return answer.json()
        except ValueError:
            raise self._no_dashboard() from None

    def _ask(self, method: str, path: str, allow: tuple[int, ...] = (), **options: Any) -> requests.Response:
        try:
            answer = self._send(method, path, ANSWER_SECONDS if self._has_answered else FIRST_SECONDS, **options)
        except requests.RequestException as error:
            raise self._silent(error) from None
        self._has_answered = True
        token = self.cluster.token
        if answer.status_code == 401:
            raise ResourceError(
                f"{self.cluster}: asks for a token, and {'that was refused' if token else 'there is none here'}",
                f"set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or name a file for it in {config()}",
            )
        if answer.status_code == 403:
            raise ResourceError(
                f"{self.cluster}: refuses the token of {token.source}" if token else f"{self.cluster}: lets nobody in",
                "put in the token that the cluster was started with",
            )
        if answer.is_redirect:
            there = urlsplit(answer.headers["Location"])._replace(query="", fragment="").geturl()
            raise ResourceError(
                f"{self.cluster}: sends on to {there}", "give the address of the dashboard itself, perhaps https://"
            )
        if answer.ok or answer.status_code in allow:
            return answer
        if answer.status_code in (502, 503, 504):
            raise ResourceError(
                f"{self.cluster}: what stands before the dashboard gets no answer from it (HTTP {answer.status_code})",
                "see whether the head is up",
            )
        raise self._no_dashboard() if answer.status_code == 404 else self._refused(answer)

    def _send(self, method: str, path: str, seconds: float, **options: Any) -> requests.Response:
        url, timeout = self.cluster.url + path, (CONNECT_SECONDS, seconds)
        return self._session.request(method, url, timeout=timeout, allow_redirects=False, **options)

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.cluster.token is not None:
            request.headers["Authorization"] = f"Bearer {self.cluster.token.secret}"
        return request

    def _silent(self, error: requests.RequestException) -> ResourceError:
        """No answer, or one that is not of HTTP."""
        if "BadStatusLine" in str(error):  # as gRPC answers, which is what drivers and Ray Client speak
            host = urlsplit(self.cluster.url).hostname
            return ResourceError(
                f"{self.cluster}: is not the dashboard, but the port for drivers, or another one of Ray's own",
                f"give http://{host}:{DASHBOARD_PORT}, or where else the dashboard is",
            )
        if isinstance(error, requests.exceptions.SSLError):
            plain = "WRONG_VERSION_NUMBER" in str(error)
            hint = "it is http://, not https://" if plain else "REQUESTS_CA_BUNDLE names a file of authorities to trust"
            return ResourceError(f"{self.cluster}: no secure connection ({_reason(error)})", hint)
        return ResourceError(
            f"{self.cluster}: no dashboard of Ray answers ({_reason(error)})",
            "check the address, and that it can be reached from here: ray start --head --dashboard-host=0.0.0.0, "
            f"or a tunnel, ssh -L {DASHBOARD_PORT}:127.0.0.1:{DASHBOARD_PORT} HOST",
        )

    def _no_dashboard(self) -> ResourceError:
        return ResourceError(
            f"{self.cluster}: answers, but is no dashboard of Ray",
            f"give the address of the dashboard, whose port is {DASHBOARD_PORT} unless the cluster was told another one",
        )

    def _refused(self, answer: requests.Response) -> ResourceError:
        said = [line.strip() for line in answer.text.splitlines() if line.strip(". ")] or [answer.reason]
        return ResourceError(
            f"{self.cluster}: refuses that (HTTP {answer.status_code}: {said[-1][:300]})",
            "look into the dashboard's logs on its head, then try again",
        )


def _reason(error: Exception) -> str:
    """The innermost one."""
    if isinstance(error, requests.Timeout):
        return "nothing comes within seconds"
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    inner = getattr(inner, "reason", None) or inner
    return re.sub(r"^\[Errno -?\d+\] ", "", str(inner).rsplit(": ", 1)[-1].strip("')\""))
