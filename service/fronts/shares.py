"""How many front ends there are, and what each gets of what all of them have together. Pure."""

from __future__ import annotations

from tidegate.service.settings import Settings

_DECODE_THREADS = 2
_FEW_CORES = 4  # with which one process keeps up


def front_ends_for(setting: int, cores: int, *, has_gpu: bool) -> int:
    """Return how many front ends to start; 0: this process answers by itself.

    `setting` 0 leaves the choice, -1 is none.
    """
    if setting:
        return max(0, setting)
    return cores if has_gpu and cores > _FEW_CORES else 0


def settings_of_each(settings: Settings, count: int) -> Settings:
    """Return the settings of one front end: its share of what all of them have together."""
    inflight = share_of(settings.max_inflight_bytes, count, settings.max_upload_bytes)
    return settings.model_copy(
        update={
            "max_queue": share_of(settings.max_queue, count, settings.max_files),
            "max_inflight_bytes": inflight,
            "decode_threads": settings.decode_threads or _DECODE_THREADS,
            "grpc_port": None,
        }
    )


def share_of(total: int, front_ends: int, least: int) -> int:
    """Return one front end's share of a limit, but at least so much."""
    return max(least, -(-total // front_ends))
