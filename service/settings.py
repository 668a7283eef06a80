"""TIDEGATE_* environment variables to small frozen configs, read once.

What belongs to the model (size, mean, labels, temperature, thresholds) is in the bundle.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.service import platforms
from tidegate.service.addresses import split_hosts
from tidegate.service.api.cors import parse_origins
from tidegate.service.api.dialects.names import NAMES, parse_names
from tidegate.service.api.limits import HttpLimits
from tidegate.service.api.proxies import Proxies, parse_proxies
from tidegate.service.api.root_path import is_prefix
from tidegate.service.api.tls import TlsFiles
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.open_gpu import GpuConfig
from tidegate.service.errors import SettingsInvalid
from tidegate.service.lifecycle import ServiceConfig
from tidegate.service.platforms import Platform
from tidegate.service.review.image_store import ReviewConfig
from tidegate.service.serving.serving_file import Place
from tidegate.service.startup import ServingConfig
from tidegate.service.tokens import read_token
from tidegate.service.wanted import ModelFolder, OneBundle, Source

PREFIX = "TIDEGATE_"
MIB = 1 << 20
# tidegate, tidegate-canary, …: TIDEGATE_CANARY_SERVICE_HOST, TIDEGATE_CANARY_PORT_8000_TCP_ADDR
_SERVICE_LINK = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)$")
_KUBERNETES = (
    " Kubernetes sets such names for a Service called tidegate or tidegate-…: "
    "set enableServiceLinks: false in the pod's spec."
)


class Settings(BaseSettings):
    """Every setting, with its unit and bounds. The description says if 0 has a special meaning."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    bundle: Path = Field(
        default=Path("models/bundles/efficientnet-lite0/1"),
        description="folder of the sealed bundle to serve",
    )
    models: Path | None = Field(
        default=None,
        description="folder of several models and versions, NAME/VERSION/, to serve instead of one "
        "bundle; unset = disabled",
    )
    serving: Path | None = Field(
        default=None,
        description="file that says which of them are served; unset = serving.toml in that folder",
    )
    rollback_s: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="how long a version that is no longer served stays loaded, so that going back "
        "to it takes no time",
    )
    max_loaded_versions: int = Field(
        default=8,
        ge=1,
        le=256,
        description="maximum versions in memory, of all models; those that are no longer served "
        "are unloaded first",
    )
    admin_token_file: Path | None = Field(
        default=None,
        description="file with a bearer token for /admin; without it, /admin needs an API key with "
        "the scope admin",
    )
    keys: Path | None = Field(
        default=None,
        description="file with the API keys of the clients, which is followed; "
        "unset = every client may use every route but /admin",
    )
    trusted_proxies: str | None = Field(
        default=None,
        max_length=4000,
        description="networks of reverse proxies, for example 10.0.0.0/8,unix, whose "
        "X-Forwarded-For or Forwarded names the client; unset = the peer is the client",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file with the certificate and its chain, which is followed; "
        "unset = plain HTTP",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file with the key of the certificate, which is followed"
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of clients' certificates; with it every "
        "connection but those to the admin port needs one",
    )
    cors_origins: str | None = Field(
        default=None,
        max_length=4000,
        description="origins whose pages may use the service from a browser, for example "
        "https://app.example.com; * = all; unset = none",
    )
    audit_log: Path | None = Field(
        default=None,
        description="file that gets a JSON line for each decision, without the image; "
        "- = stderr; unset = disabled",
    )
    trusted_keys: Path | None = Field(
        default=None,
        description="folder of public keys (PEM); a bundle that none of them signed is rejected; "
        "unset = signatures are not checked",
    )
    platform: Platform | None = Field(
        default=None,
        description="platform that runs the container: its port, bundle folder, dialects and drain "
        "times become the defaults of these settings; unset = none",
    )
    host: str = Field(
        default="127.0.0.1",
        max_length=1000,
        description="addresses or host names to listen on, for example 127.0.0.1,::1; "
        ":: = all IPv4 and IPv6 addresses; none = only the unix socket",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 = any free port")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port on which alone /metrics, /drift, /models and /admin answer, besides "
        "the probes; unset = the same port",
    )
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port of the Open Inference Protocol over gRPC, for which the extra grpc "
        "is needed; 0 = any free port, unset = disabled",
    )
    unix_socket: Path | None = Field(
        default=None,
        description="path of a unix socket to listen on, too; its clients share one quota, because "
        "they have no address; unset = disabled",
    )
    unix_socket_mode: str = Field(
        default="660", pattern=r"^[0-7]{3}$", description="permissions of that socket, octal"
    )
    root_path: str = Field(
        default="",
        max_length=200,
        description="path prefix at which a proxy serves Tidegate, such as /vision; requests may "
        "have it or not; if blank, links follow X-Forwarded-Prefix",
    )
    keep_alive_s: float = Field(
        default=75,
        gt=0,
        le=3600,
        description="time after which an idle connection is closed; longer than that of the load "
        "balancer in front, which must not reuse a closed connection",
    )

    engine: Literal[
        "auto", "tensorrt", "tensorrt-rtx", "onnx-tensorrt", "onnx-cuda", "onnx-cpu"
    ] = Field(
        default="auto",
        description="inference engine; auto = the first one that loads, in this order; "
        "startup fails if a named engine does not load",
    )
    devices: str = Field(
        default="0",
        pattern=r"^\d{1,3}(,\d{1,3})*$",
        description="GPU numbers to run on, for example 0,1",
    )
    cuda_binding: Literal["cuda-bindings", "pycuda"] = Field(
        default="cuda-bindings", description="CUDA Python binding"
    )
    gpu_wait: Literal["block", "spin"] = Field(
        default="block",
        description="how a slot waits for its batch on a GPU: block frees the core, spin wakes up "
        "sooner and uses a core for each batch that runs",
    )
    gpu_arena_mb: int = Field(
        default=0,
        ge=0,
        description="bounds the device memory that `onnx-cuda` computes in, in MB; 0 = no bound. "
        "With a bound there are no CUDA graphs, whose memory is separate",
    )
    plan_cache: Path = Field(
        default=Path("~/.cache/tidegate/plans"),
        description="private folder for TensorRT plans, which are built once per GPU",
    )
    warm_up_cache: Path | None = Field(
        default=Path("~/.cache/tidegate/warm-up"),
        description="folder that keeps the warm-up results of this machine; a result is reused for "
        "a week if a short measurement confirms it",
    )
    slots: int = Field(
        default=0, ge=0, le=256, description="concurrent batches; 0 = choose at warm-up"
    )
    threads_per_slot: int = Field(
        default=0, ge=0, le=256, description="engine threads per slot; 0 = choose at warm-up"
    )
    max_batch_size: int = Field(
        default=0, ge=0, le=1024, description="maximum images per batch; 0 = choose at warm-up"
    )
    engine_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="the process exits if a batch takes longer"
    )
    decode_threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="dedicated decoder threads; 0 = decode on engine threads "
        "(CPU with one thread per slot) or one per core",
    )

    front_ends: int = Field(
        default=0,
        ge=-1,
        le=256,
        description="processes that answer HTTP and decode, around one that runs the engine; "
        "0 = one per core with a GPU and more than 4 cores, otherwise none; -1 = none: one process "
        "does everything",
    )
    deadline_ms: int = Field(
        default=2000, ge=1, le=600_000, description="deadline if the client sets none"
    )
    max_deadline_ms: int = Field(
        default=60_000, ge=1, le=600_000, description="longest deadline a client may set"
    )
    max_queue: int = Field(
        default=1024, ge=1, le=100_000, description="maximum images admitted and waiting"
    )
    max_upload_bytes: int = Field(
        default=16 * MIB, ge=1, le=1024 * MIB, description="maximum bytes of one request body"
    )
    max_inflight_bytes: int = Field(
        default=512 * MIB, ge=1, le=1 << 40, description="maximum bytes of all uploads in progress"
    )
    max_image_pixels: int = Field(
        default=25_000_000, ge=1, le=1_000_000_000, description="maximum pixels per image"
    )
    upload_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="maximum time to receive a request body"
    )
    max_files: int = Field(
        default=16, ge=1, le=1024, description="maximum images in one /classify/batch request"
    )
    max_client_connections: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="maximum open connections per client address; "
        "capped at half of the process's file descriptors",
    )
    client_rate: float = Field(
        default=0,
        ge=0,
        le=1e6,
        description="images per second per client: an address, or an API key without "
        "a rate of its own; 0 = no limit",
    )
    client_burst: int = Field(
        default=32, ge=1, le=1_000_000, description="images a client may send in one burst"
    )

    dialects: str = Field(
        default="v2",
        max_length=200,
        description="other protocols to answer, in a comma-separated list: "
        f"{', '.join(NAMES)}; none = only /classify",
    )
    ood_action: Literal["reject", "flag"] = Field(
        default="reject",
        description="response to a rejected image: reject = 422 problem, flag = 200 answer",
    )
    page: Literal["on", "off"] = Field(
        default="on", description="whether browsers get the page at `/`"
    )
    max_class_series: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="number of classes with a separate confidence histogram",
    )
    drain_delay_s: float = Field(
        default=5, ge=0, le=3600, description="time to keep serving after SIGTERM"
    )
    drain_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="time to finish admitted requests after that"
    )
    drift_run_length: int = Field(
        default=1_000_000,
        ge=1_000,
        description="minimum average number of images between two false alarms of a drift detector",
    )
    drift_state: Path | None = Field(
        default=None,
        description="file that keeps the drift monitors' state across restarts; unset = disabled",
    )
    review_dir: Path | None = Field(
        default=None,
        description="folder for images to review, with their decisions; unset = disabled",
    )
    review_max_bytes: int = Field(
        default=1_000_000_000,
        ge=1_000_000,
        description="maximum bytes in that folder; the oldest images are deleted first",
    )
    review_images_per_s: float = Field(
        default=1.0, gt=0, le=1_000, description="maximum images kept per second"
    )
    review_accepted_share: float = Field(
        default=0.001, ge=0, le=1, description="share of accepted images that are also kept"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="minimum level that is logged"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="log format; auto = text on a terminal, JSON otherwise"
    )

    log_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the successful requests that are logged; errors always are",
    )

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Drop blank values: compose writes `NAME=` for `${NAME:-}`, and Path("") is the cwd."""
        return {name: value for name, value in given.items() if not _is_blank(value)}

    @field_validator("host")
    @classmethod
    def _every_address_is_one(cls, value: str) -> str:
        split_hosts(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _every_proxy_is_a_network(cls, value: str | None) -> str | None:
        if value is not None:
            parse_proxies(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _every_origin_is_one(cls, value: str | None) -> str | None:
        if value is not None:
            parse_origins(value)
        return value

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_prefix(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and not is_prefix(value):
            raise ValueError("a path prefix starts with /, such as /vision")
        return value

    @field_validator("dialects")
    @classmethod
    def _every_dialect_is_known(cls, value: str) -> str:
        parse_names(value)
        return value

    @field_validator("devices")
    @classmethod
    def _each_device_once(cls, value: str) -> str:
        if len(set(map(int, value.split(",")))) <= value.count(","):
            raise ValueError("a device is listed twice")
        return value

    @model_validator(mode="after")
    def _one_source_of_bundles(self) -> Self:
        if self.models is not None and "bundle" in self.model_fields_set:
            raise ValueError("TIDEGATE_MODELS and TIDEGATE_BUNDLE exclude each other: unset one")
        if self.serving is not None and self.models is None:
            raise ValueError("TIDEGATE_SERVING needs TIDEGATE_MODELS")
        return self

    @model_validator(mode="after")
    def _listeners_fit_together(self) -> Self:
        if not self.hosts() and self.unix_socket is None:
            raise ValueError("TIDEGATE_HOST=none needs TIDEGATE_UNIX_SOCKET")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TIDEGATE_TLS_CERTIFICATE and TIDEGATE_TLS_KEY need each other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("TIDEGATE_TLS_CLIENT_CA needs TIDEGATE_TLS_CERTIFICATE")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("TIDEGATE_ADMIN_PORT is the same as TIDEGATE_PORT")
        return self

    @model_validator(mode="after")
    def _bounds_fit_together(self) -> Self:
        if self.max_upload_bytes > self.max_inflight_bytes:
            raise ValueError("TIDEGATE_MAX_INFLIGHT_BYTES is less than TIDEGATE_MAX_UPLOAD_BYTES")
        if self.deadline_ms > self.max_deadline_ms:
            raise ValueError("TIDEGATE_MAX_DEADLINE_MS is less than TIDEGATE_DEADLINE_MS")
        return self

    @classmethod
    def read(cls, given: Mapping[str, Any] | None = None) -> Self:
        """Read the environment; `given` (from the command line) overrides it.

        A blank value counts as unset. Raises SettingsInvalid for an unknown TIDEGATE_* name, with
        the nearest known one, or for a value out of bounds.
        """
        known = {PREFIX + name.upper() for name in cls.model_fields}
        _refuse_unknown(os.environ, known)
        explicit = {name: value for name, value in (given or {}).items() if not _is_blank(value)}
        try:
            return cls(**(_preset(os.environ) | explicit))
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise SettingsInvalid(f"{first['msg'].removeprefix('Value error, ')}.") from error
            name = PREFIX + str(first["loc"][0]).upper()
            hint = _KUBERNETES if str(first["input"]).startswith("tcp://") else ""
            raise SettingsInvalid(f"{name}={first['input']}: {first['msg']}.{hint}") from error

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts to listen on."""
        return split_hosts(self.host)

    def dialect_names(self) -> tuple[str, ...]:
        """Return the names of the dialects that are on."""
        return parse_names(self.dialects)

    def platform_facts(self) -> platforms.Facts:
        """Return what the platform's variables say. Raises SettingsInvalid."""
        try:
            return platforms.facts(os.environ)
        except ValueError as error:
            raise SettingsInvalid(f"{error}.") from error

    def http_limits(self) -> HttpLimits:
        """Return the limits on requests."""
        return HttpLimits(
            max_upload_bytes=self.max_upload_bytes,
            max_inflight_bytes=self.max_inflight_bytes,
            upload_timeout_s=self.upload_timeout_s,
            max_files=self.max_files,
            deadline_s=self.deadline_ms / 1000,
            max_deadline_s=self.max_deadline_ms / 1000,
        )

    def service_config(self) -> ServiceConfig:
        """Return the configuration of the service."""
        return ServiceConfig(
            source=self._source(),
            serving=ServingConfig(
                engine=self.engine_config(),
                max_queue=self.max_queue,
                default_deadline_s=self.deadline_ms / 1000,
                decode_threads=self.decode_threads,
                max_image_pixels=self.max_image_pixels,
                engine_timeout_s=self.engine_timeout_s,
            ),
            max_class_series=self.max_class_series,
            drift_run_length=self.drift_run_length,
            review=self.review_config(),
            trusted_keys=self.trusted_keys,
            rollback_s=self.rollback_s,
            max_loaded_versions=self.max_loaded_versions,
        )

    def _source(self) -> Source:
        if self.models is None:
            return OneBundle(self.bundle, self.drift_state)
        return ModelFolder(Place(self.models, self.serving), self.drift_state)

    def tls_files(self) -> TlsFiles | None:
        """Return the files of the certificate; None for plain HTTP."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    def proxies(self) -> Proxies | None:
        """Return the trusted proxies; None if there are none."""
        return None if self.trusted_proxies is None else parse_proxies(self.trusted_proxies)

    def origins(self) -> tuple[str, ...]:
        """Return the origins that may use the service from a browser."""
        return () if self.cors_origins is None else parse_origins(self.cors_origins)

    def admin_token(self) -> bytes | None:
        """Return the administrator's token; None if none is set. Raises SettingsInvalid."""
        if self.admin_token_file is None:
            return None
        try:
            return read_token(self.admin_token_file)
        except ValueError as error:
            raise SettingsInvalid(
                f"TIDEGATE_ADMIN_TOKEN_FILE={self.admin_token_file}: {error}."
            ) from error

    def engine_config(self) -> EngineConfig:
        """Return the engine to open, and the devices to run it on."""
        return EngineConfig(
            self.engine,
            self.slots,
            self.threads_per_slot,
            self.max_batch_size,
            GpuConfig(
                tuple(int(device) for device in self.devices.split(",")),
                self.cuda_binding,
                self.plan_cache,
                self.gpu_arena_mb * 10**6,
                self.gpu_wait == "spin",
            ),
            None if self.warm_up_cache is None else _home(self.warm_up_cache),
        )

    def review_config(self) -> ReviewConfig | None:
        """Return how images are kept for review; None if they are not kept."""
        if self.review_dir is None:
            return None
        return ReviewConfig(
            self.review_dir,
            self.review_max_bytes,
            self.review_images_per_s,
            self.review_accepted_share,
        )


def _home(path: Path) -> Path | None:
    """Return a path with "~" replaced; None if there is no home directory."""
    try:
        return path.expanduser()
    except RuntimeError:
        return None


def _preset(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the defaults of the chosen platform for the settings that the environment leaves."""
    given = {name.upper(): value for name, value in environment.items() if not _is_blank(value)}
    platform = given.get(f"{PREFIX}PLATFORM", "").strip()
    values: dict[str, Any] = {
        name: value
        for name, value in platforms.preset(platform, environment).items()
        if PREFIX + name.upper() not in given
    }
    bundle = platforms.bundle_of(platform, environment)
    if bundle is not None and f"{PREFIX}MODELS" not in given:
        values["bundle"] = bundle  # also instead of TIDEGATE_BUNDLE, which images set
    return values


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _refuse_unknown(environment: Mapping[str, str], known: set[str]) -> None:
    """Raise SettingsInvalid for an unknown name: pydantic-settings ignores unknown names."""
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            if _SERVICE_LINK.match(name) or environment[name].startswith("tcp://"):
                raise SettingsInvalid(f"{name} is not a setting.{_KUBERNETES}")
            near = difflib.get_close_matches(name.upper(), sorted(known), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SettingsInvalid(f"{name} is not a setting.{hint}")
