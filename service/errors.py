"""Every error the service raises on purpose, one tree.

    TidegateError
    ├── RequestError              the client can mend it
    │   ├── BadRequest · NotFound
    │   ├── UploadTooLarge · UploadTimeout · ImageTooLarge
    │   ├── UnsupportedImageType · UndecodableImage
    │   └── QuotaExceeded
    ├── ServiceError              the client may try again
    │   ├── Overloaded · Draining · NotReady      with retry_after_s
    │   ├── DeadlineMissed
    │   └── EngineFailed
    └── StartupError              the operator can mend it
        ├── SettingsInvalid
        ├── BundleRefused
        ├── ReviewUnreadable
        └── EngineUnavailable

`api/problems.py` holds the one table from these classes to HTTP.
"""

from __future__ import annotations


def without_frames(error: Exception) -> Exception:
    """Drop the tracebacks of an error and of its causes, and return it.

    A traceback holds frames, and those hold pixels and uploads: an error that is kept until its
    request is answered would keep them, and in a cycle with its own frame for much longer.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


class TidegateError(Exception):
    """An expected failure whose message is fit for whoever caused it."""

    retry_after_s: float | None = None


class RequestError(TidegateError):
    """The request itself is at fault."""


class BadRequest(RequestError):
    """Empty body, malformed multipart or a bad parameter."""


class NotFound(RequestError):
    """No such model or answer."""


class UploadTooLarge(RequestError):
    """More bytes than the route takes."""


class UploadTimeout(RequestError):
    """The body did not arrive within `upload_timeout_s`, or stalled."""


class ImageTooLarge(RequestError):
    """More pixels than `max_image_pixels`, read from the header before decoding."""


class UnsupportedImageType(RequestError):
    """The content is not an image format the service decodes."""


class UndecodableImage(RequestError):
    """An allowed format, but truncated or corrupt."""


class QuotaExceeded(RequestError):
    """This client asks for more than its share."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceError(TidegateError):
    """The request may be fine; the service cannot answer it now."""


class Overloaded(ServiceError):
    """The answer would come too late, or a bound is hit; shed before any decoding."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(ServiceError):
    """The service is shutting down and admits nothing new."""

    retry_after_s = 1.0


class NotReady(ServiceError):
    """The service is still warming up."""

    retry_after_s = 1.0


class DeadlineMissed(ServiceError):
    """The deadline cannot be met: it passed after admission, or no load would have met it."""


class EngineFailed(ServiceError):
    """The engine could not compute this image."""


class StartupError(TidegateError):
    """The service refuses to start."""


class SettingsInvalid(StartupError):
    """A TIDEGATE_* variable is unknown, malformed or out of bounds."""


class BundleRefused(StartupError):
    """A bundle is incomplete, changed, or does not give the answers it was sealed with."""


class ReviewUnreadable(StartupError):
    """Kept images cannot be exported."""


class EngineUnavailable(StartupError):
    """The engine asked for does not load here."""
