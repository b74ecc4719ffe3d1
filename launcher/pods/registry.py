"""Whether a pod could pull its image: asked of the image's own registry, anonymously (Distribution API v2).

Knows httpx. Pulls nothing but manifests, a few kilobytes each.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx

from launcher import __version__
from launcher.checkup import Finding
from launcher.errors import PodError, UsageError
from launcher.machine.loopback import is_loopback

ANSWER_SECONDS = 10.0
MAX_BYTES = 4 << 20
"""Of a manifest, as registries limit them."""
COLD_BYTES_PER_SECOND = 30e6
"""At which hosts that never had an image are seen to pull it; an estimate."""
DOCKER_HUB = "registry-1.docker.io"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,128}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
Json = Mapping[str, object]


@dataclass(frozen=True)
class Reference:
    """An image's name, taken apart."""

    host: str
    path: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, image: str) -> "Reference":
        """Read `[host[:port]/]path[:tag][@digest]`. Raises UsageError."""
        name, _, digest = image.partition("@")
        first, slash, rest = name.partition("/")
        named = bool(slash) and ("." in first or ":" in first or first == "localhost")
        host, path = (first, rest) if named else (DOCKER_HUB, name)
        path, colon, tag = path.partition(":")
        if host in ("docker.io", "index.docker.io"):
            host = DOCKER_HUB
        if host == DOCKER_HUB and "/" not in path:
            path = f"library/{path}"
        sound = _PATH.fullmatch(path) and (not colon or _TAG.fullmatch(tag))
        if not sound or ("@" in image and not _DIGEST.fullmatch(digest)):
            raise UsageError("pod.image is no name of an image", next_step="write registry/name@sha256:...")
        return cls(host, path, tag or ("" if digest else "latest"), digest)

    @property
    def base(self) -> str:
        """Return where its registry answers for it."""
        scheme = "http" if is_loopback(f"http://{self.host}") else "https"
        return f"{scheme}://{self.host}/v2/{self.path}"


class _NotAllowed(Exception):
    """The registry gives this image to nobody unknown, or has none such: it does not tell which."""


def check_image(image: str, *, credential: str | None) -> Iterator[Finding]:
    """Yield whether `image` can be pulled, for which machine, and how large it is.

    `credential` is the id of the registry credential that RunPod would use. Raises UsageError for what is no
    image's name, PodError when its registry cannot be asked.
    """
    reference = Reference.parse(image)
    try:
        with _Registry(reference) as registry:
            manifest, digest = registry.manifest(reference.digest or reference.tag)
            if manifest is None:
                yield Finding(
                    "image",
                    ok=False,
                    detail=f"{reference.host} has no {reference.path} of that tag or digest",
                    fix="push it with `make push`, or correct pod.image",
                )
                return
            platform, size = registry.for_amd64(manifest)
    except _NotAllowed:
        yield _private(reference, credential)
        return
    if not platform:
        yield Finding(
            "image",
            ok=False,
            detail="it is not built for linux/amd64, which RunPod's machines are",
            fix="build it with --platform linux/amd64",
        )
        return
    about = f", {size / 1e9:.1f} GB to pull, about {size / COLD_BYTES_PER_SECOND / 60:.0f} min (estimate)"
    yield Finding("image", ok=True, detail=f"linux/amd64, {digest}{about if size else ''}")
    if not reference.digest:
        fix = f"set pod.image to {image.removesuffix(':' + reference.tag)}@{digest}"
        yield Finding("image, pinned", ok=None, detail="a tag may mean another image tomorrow", fix=fix)


def _private(reference: Reference, credential: str | None) -> Finding:
    if credential is not None:
        return Finding(
            "image",
            ok=None,
            detail=f"{reference.host} gives it to nobody unknown; RunPod will use registry credential"
            f" {credential}, which cannot be tried from here",
            fix="`retrain doctor --live-canary --cap 0.10` tries it",
        )
    return Finding(
        "image",
        ok=False,
        detail=f"{reference.host} gives it to nobody unknown, or has none such",
        fix="make it public, or set runpod.registry to the id of a credential in RunPod's console",
    )


class _Registry:
    """Asks one registry about one image. Its errors quote no address: a proxy's may hold a password."""

    def __init__(self, reference: Reference) -> None:
        self._base = reference.base
        self._host = reference.host
        self._token = ""
        self._client = httpx.Client(
            timeout=ANSWER_SECONDS,
            follow_redirects=True,
            headers={"User-Agent": f"retrain/{__version__}"},
            trust_env=not is_loopback(self._base),
        )

    def __enter__(self) -> "_Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def manifest(self, name: str) -> tuple[Json | None, str]:
        """Return a manifest by tag or digest, and its digest; None where there is none."""
        content = self._get(f"manifests/{name}", accept=", ".join((*_INDEXES, *_MANIFESTS)))
        if content is None:
            return None, ""
        return self._parsed(content), f"sha256:{hashlib.sha256(content).hexdigest()}"

    def for_amd64(self, manifest: Json) -> tuple[bool, int]:
        """Return whether it is there for linux/amd64, and how many bytes are pulled then; 0: not known."""
        listed = _objects(manifest.get("manifests"))
        if listed:
            for each in listed:
                platform = each.get("platform")
                if isinstance(platform, dict) and (platform.get("os"), platform.get("architecture")) == (
                    "linux",
                    "amd64",
                ):
                    inner, _ = self.manifest(str(each.get("digest")))
                    return True, _size(inner or {})
            return False, 0
        config = manifest.get("config")
        digest = config.get("digest") if isinstance(config, dict) else None
        content = self._get(f"blobs/{digest}", accept="*/*") if digest else None
        told = self._parsed(content) if content is not None else {}
        return told.get("architecture") == "amd64", _size(manifest)

    def _get(self, path: str, *, accept: str) -> bytes | None:
        response = self._ask(f"{self._base}/{path}", accept)
        if response[0] == httpx.codes.UNAUTHORIZED and not self._token:
            self._token = self._anonymous_token(response[1].get("www-authenticate", ""))
            response = self._ask(f"{self._base}/{path}", accept)
        status, _, content = response
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise _NotAllowed
        if status == httpx.codes.NOT_FOUND:
            return None
        if status != httpx.codes.OK:
            raise PodError(
                f"the image's registry {self._host} answered {status}", next_step="try again in a few minutes"
            )
        return content

    def _anonymous_token(self, challenge: str) -> str:
        """Fetch the token that anybody gets. Raises _NotAllowed where nobody gets one."""
        scheme, _, told = challenge.partition(" ")
        fields = dict(_CHALLENGE.findall(told))
        realm = fields.pop("realm", "")
        if scheme.lower() != "bearer" or not (realm.startswith("https://") or is_loopback(realm)):
            raise _NotAllowed
        query = {name: fields[name] for name in ("service", "scope") if name in fields}
        status, _, content = self._ask(str(httpx.URL(realm).copy_merge_params(query)), "application/json")
        answer = self._parsed(content) if status == httpx.codes.OK else {}
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise _NotAllowed
        return token

    def _ask(self, url: str, accept: str) -> tuple[int, httpx.Headers, bytes]:
        headers = {"Accept": accept}
        if self._token and url.startswith(self._base):
            headers["Authorization"] = f"Bearer {self._token}"
        trouble = ""
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_BYTES:
                        trouble = "too large an answer"
                        break
                if not trouble:
                    return response.status_code, response.headers, bytes(content)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, UnicodeError) as error:
            trouble = type(error).__name__
        raise PodError(
            f"the image's registry {self._host} cannot be asked ({trouble})",
            next_step="check pod.image, the network and proxy settings",
        )

    def _parsed(self, content: bytes) -> Json:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        raise PodError(f"{self._host} answers, but not as a registry of images does")


def _objects(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _size(manifest: Json) -> int:
    """Return the bytes of all layers, as they are sent."""
    sizes = [each.get("size") for each in _objects(manifest.get("layers"))]
    return sum(size for size in sizes if isinstance(size, int) and size > 0)
