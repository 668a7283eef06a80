"""Every error that the service raises deliberately, as one tree.

    TidegateError
    ├── RequestError              the client can correct it
    │   ├── BadRequest · NotFound · Unauthorized · Forbidden · ReloadRefused
    │   ├── UploadTooLarge · UploadTimeout · ImageTooLarge
    │   ├── UnsupportedImageType · UnsupportedEncoding · UndecodableImage
    │   └── QuotaExceeded
    ├── ServiceError              the client may try again
    │   ├── Overloaded · Draining · NotReady      with retry_after_s
    │   ├── DeadlineMissed
    │   └── EngineFailed
    └── StartupError              the operator can correct it
        ├── SettingsInvalid
        ├── BundleRefused
        ├── ServingInvalid
        ├── ServingNotWritable
        ├── KeyUnusable
        ├── TransferFailed
        ├── ReviewUnreadable
        ├── SourceUnreadable · JobRefused
        └── EngineUnavailable

`problem_codes.py` maps these classes to HTTP statuses and problem codes.
"""

from __future__ import annotations


def without_frames(error: Exception) -> Exception:
    """Drop the tracebacks of an error and of its causes, and return it.

    A traceback references frames, and these reference pixels and uploads. An error that is kept
    until its request is answered would keep them in memory, and a reference cycle with its own
    frame would keep them for much longer.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


class TidegateError(Exception):
    """An expected failure. Its message may be shown to the client or operator who caused it."""

    retry_after_s: float | None = None
    shed_reason: str = ""  # the reason in tidegate_shed_total, if the image was shed


class RequestError(TidegateError):
    """The request is invalid."""


class BadRequest(RequestError):
    """Empty body, malformed multipart or JSON, or an invalid parameter."""


class NotFound(RequestError):
    """There is no such model, version or recent answer."""


class Unauthorized(RequestError):
    """The API key, or the administrator's token, is missing or wrong."""


class Forbidden(RequestError):
    """The key does not have the scope of the route, or no key has it."""


class ReloadRefused(RequestError):
    """What the serving file says cannot be served; what was served still is."""


class UploadTooLarge(RequestError):
    """The body has more bytes than the route accepts."""


class UploadTimeout(RequestError):
    """The body did not arrive within `upload_timeout_s`, or stalled."""


class ImageTooLarge(RequestError):
    """The image header declares too many pixels or too much decoding work."""


class UnsupportedImageType(RequestError):
    """The content is not an image format that the service decodes."""


class UnsupportedEncoding(RequestError):
    """The body has a Content-Encoding that the service does not decode."""


class UndecodableImage(RequestError):
    """The image has a supported format, but is truncated or corrupt."""


class QuotaExceeded(RequestError):
    """This client exceeds its quota of images per second."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceError(TidegateError):
    """The request may be valid, but the service cannot answer it now."""


class Overloaded(ServiceError):
    """The answer would be too late, or a limit is reached; raised before any decoding."""

    def __init__(self, message: str, retry_after_s: float, shed_reason: str = "") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.shed_reason = shed_reason


class Draining(ServiceError):
    """The service is shutting down and admits nothing new."""

    retry_after_s = 1.0
    shed_reason = "draining"


class NotReady(ServiceError):
    """The service is still warming up."""

    retry_after_s = 1.0


class DeadlineMissed(ServiceError):
    """The deadline passed after admission, or it is shorter than one image takes when idle."""

    def __init__(self, message: str, shed_reason: str = "deadline") -> None:
        super().__init__(message)
        self.shed_reason = shed_reason


class EngineFailed(ServiceError):
    """The engine could not compute this image."""


class StartupError(TidegateError):
    """The service cannot start."""


class SettingsInvalid(StartupError):
    """A TIDEGATE_* variable is unknown, malformed or out of bounds."""


class BundleRefused(StartupError):
    """A bundle is incomplete or changed, or its golden probes do not pass."""


class ServingInvalid(StartupError):
    """The serving file has errors, or names what is not in the folder of the models."""


class ServingNotWritable(StartupError):
    """The serving file is in a place that cannot be written."""


class KeyUnusable(StartupError):
    """A file of keys, or the folder of trusted keys, cannot be used."""


class TransferFailed(StartupError):
    """A bundle was not pulled or pushed."""


class ReviewUnreadable(StartupError):
    """The images kept for review cannot be exported."""


class SourceUnreadable(StartupError):
    """A folder, archive, table or list of images to classify cannot be read."""


class JobRefused(StartupError):
    """What is to be written is there already, or belongs to another job."""


class EngineUnavailable(StartupError):
    """The configured engine does not load on this machine."""
