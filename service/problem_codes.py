"""The HTTP status, the problem code and the title of each error class."""

from __future__ import annotations

from tidegate.service import errors

TABLE: dict[type[errors.TidegateError], tuple[int, str, str]] = {
    errors.BadRequest: (400, "bad-request", "The request is malformed"),
    errors.Unauthorized: (401, "unauthorized", "The API key is missing or wrong"),
    errors.Forbidden: (403, "forbidden", "Access is denied"),
    errors.NotFound: (404, "not-found", "Not found"),
    errors.UploadTimeout: (408, "upload-timeout", "The upload timed out"),
    errors.UploadTooLarge: (413, "upload-too-large", "The upload is too large"),
    errors.ImageTooLarge: (413, "image-too-large", "The image has too many pixels"),
    errors.UnsupportedImageType: (415, "unsupported-image-type", "Not a supported image type"),
    errors.UnsupportedEncoding: (415, "unsupported-encoding", "Content-Encoding not supported"),
    errors.UndecodableImage: (422, "undecodable-image", "The image cannot be decoded"),
    errors.ReloadRefused: (422, "reload-refused", "The reload is refused"),
    errors.QuotaExceeded: (429, "quota-exceeded", "Client quota exceeded"),
    errors.Overloaded: (503, "overloaded", "The service is overloaded"),
    errors.Draining: (503, "draining", "The service is shutting down"),
    errors.NotReady: (503, "not-ready", "The service is warming up"),
    errors.DeadlineMissed: (504, "deadline-missed", "The deadline cannot be met"),
    errors.EngineFailed: (500, "engine-failed", "The engine failed"),
}
