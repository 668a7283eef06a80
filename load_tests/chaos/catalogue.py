"""Every scenario by name, with the expected behaviour of the service."""

from load_tests.chaos import clients, decoding, host, signals, versions
from load_tests.chaos.setting import Scenario

SCENARIOS: dict[str, tuple[Scenario, str]] = {
    "paused": (signals.paused, "alive after a pause longer than the engine timeout"),
    "drains": (signals.drains, "0 requests lost to SIGTERM, and 503 only after it"),
    "killed": (signals.killed, "SIGKILL loses no saved drift state"),
    "stalled-log": (host.stalled_log, "serves while stderr is not read"),
    "closed-log": (host.closed_log, "serves without stderr"),
    "full-disk": (host.full_disk, "serves, and leaves no partial files"),
    "descriptors": (host.descriptors, "serves again after descriptors ran out"),
    "connections": (host.connections, "all normal clients answered"),
    "damaged-state": (host.damaged_state, "starts with every damaged drift state"),
    "blank-settings": (host.blank_settings, "a blank path is unset"),
    "dual-stack": (host.dual_stack, ":: answers IPv4 and IPv6"),
    "sandbox": (host.sandbox, "serves without sched_setaffinity and setpriority"),
    "stalled-uploads": (clients.stalled_uploads, "95 % of normal clients answered"),
    "pipelined-gets": (clients.pipelined_gets, "less than 64 MB for one connection"),
    "pipelined-posts": (clients.pipelined_posts, "less than 128 MB for 12 connections"),
    "endless-trailers": (clients.endless_trailers, "less than 64 MB for one connection"),
    "large-feedback": (clients.large_feedback, "rejected, less than 64 MB, probes within 1 s"),
    "upgrades": (clients.upgrades, "the body is not parsed as a request"),
    "half-close": (clients.half_close, "answered"),
    "refused-uploads": (clients.refused_uploads, "every client reads its rejection"),
    "long-deadlines": (decoding.long_deadlines, "90 % of the valid photos of 12 megapixels"),
    "slow-decodes": (decoding.slow_decodes, "an idle service rejects nothing"),
    "failing-images": (decoding.failing_images, "memory returns to within 64 MB"),
    "refused-versions": (versions.refused, "each refused, all normal clients answered"),
    "unsigned-version": (versions.unsigned, "refused, all normal clients answered"),
    "killed-loading": (versions.killed_loading, "a restart serves what the file says"),
    "killed-promoting": (versions.killed_promoting, "the file before or after, and it serves"),
    "killed-pulling": (versions.killed_pulling, "only complete versions are served"),
    **{
        name: (scenario, f"90 % of 20 normal clients per second, with 10 {what}")
        for name, (scenario, what) in decoding.WITH_HOSTILE_IMAGE.items()
    },
}
