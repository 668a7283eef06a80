"""Two versions of a bundle in a folder, and the images that both have answered alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.client.requests import Target, find_images, requests_of
from load_tests.client.synthetic_images import Picture, turned
from load_tests.rollout.answers import Answer, Checker, answers_of
from load_tests.rollout.models_folder import ModelsFolder
from load_tests.rollout.versions import copied, digest_of, name_of, retrained
from load_tests.server.start import ROOT

STABLE, OTHER = "1", "2"
RETRAINED = "retrained"
_PHOTOGRAPHS = ROOT / "models" / "probes" / "photos"
_IMAGES = 18


@dataclass(frozen=True)
class Prepared:
    """The folder of both versions, and the images to send."""

    models: ModelsFolder
    pictures: Sequence[Picture]

    def requests(self, target: Target, deadline_ms: float | None = None) -> list[bytes]:
        """Return a request for each image."""
        return requests_of(self.pictures, target, deadline_ms)

    async def known_answers(self) -> dict[str, list[Answer]]:
        """Serve each version alone, and return its answers by its digest."""
        return {
            digest_of(self.models.path(version)): await answers_of(
                self.models.path(version), self.pictures
            )
            for version in (STABLE, OTHER)
        }

    def checker(self, target: Target, known: Mapping[str, Sequence[Answer]]) -> Checker:
        """Return what checks the answers of a server at `target`."""
        requests = self.requests(target)
        return Checker({request: number for number, request in enumerate(requests)}, known)


def prepare(bundle: Path, second: str, folder: Path, photographs: Path | None) -> Prepared:
    """Write `bundle` as version 1 and `second` as version 2; version 1 is stable.

    `second` is a bundle's folder or RETRAINED. The images are made of the photographs in a folder,
    or of the repository's.
    """
    models = ModelsFolder(folder, name_of(bundle))
    models.path(STABLE).parent.mkdir(parents=True)
    copied(bundle, models.path(STABLE), STABLE)
    if second == RETRAINED:
        retrained(bundle, models.path(OTHER), OTHER)
    else:
        copied(Path(second), models.path(OTHER), OTHER, models.model)
    models.serve(STABLE)
    found = find_images(photographs or _PHOTOGRAPHS)
    return Prepared(models, list(turned(found, _IMAGES)))
