"""Data set of listed image files, in which unreadable files may be replaced."""

from __future__ import annotations

from typing import Any

from torchvision import datasets

from jitflow.apps.images.bad_images import BadImages
from jitflow.data.errors import SampleError
from jitflow.data.folder_scan import ImageListing


class ListedImageFolder(datasets.ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """Data set of listed image files: torchvision's ``ImageFolder`` for files that are already listed.

    Args:
        listing: The images.
        transform: Function from the loader's result to a tensor.
        loader: Function that reads a file, given its path.
        bad: Record of unreadable images, which are replaced; None makes them errors.
    """

    def __init__(self, listing: ImageListing, transform: Any, loader: Any, bad: BadImages | None = None) -> None:
        self._listing = listing
        super().__init__(str(listing.folder), transform=transform, loader=loader)
        del self._listing
        self.bad = bad

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return a transformed image and its label; a replacement if it cannot be read and that is allowed."""
        image, label = self._read(index)
        return image if self.transform is None else self.transform(image), label

    def _read(self, index: int) -> tuple[Any, int]:
        try:
            path, label = self.samples[index]
            return self.loader(path), label
        except SampleError as error:
            if self.bad is None:
                raise SampleError(
                    f"{error}, or train without such files: bad_images: skip (max_bad_share limits their share)"
                ) from None
            self.bad.add(index, error)
            # Not the error itself, whose frames would hold the loader and its workers until garbage is collected.
            cause = str(error)
        for other in self.bad.replacements(index):
            try:
                path, label = self.samples[other]
                return self.loader(path), label
            except SampleError as error:
                self.bad.add(other, error)
        raise SampleError(cause)

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes, and the label of each."""
        classes = list(self._listing.classes)
        return classes, {name: label for label, name in enumerate(classes)}

    def make_dataset(self, directory: Any, *args: Any, **kwargs: Any) -> list[tuple[str, int]]:
        """Return path and label of each image."""
        root = str(directory)
        return [
            (f"{root}/{file}", label)
            for file, label in zip(self._listing.files, self._listing.labels.tolist(), strict=True)
        ]
