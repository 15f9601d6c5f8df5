"""From a decoded image to a model's input: resize, centre crop, scale to 0…1, normalise.

The same steps, to the bit, as the transforms that torchvision ships with its weights, or as timm's and transformers'
own; or, where a store is made so, with the resampling done on tensors, which takes a fifth of the time and differs by
up to a grey level.
"""

# N samples, C channels, H W height and width

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from embedpipe.backbones.options import PreprocessOptions
from embedpipe.backbones.staging import Staging
from embedpipe.errors import ConfigError
from embedpipe.spec import canonical_json

if TYPE_CHECKING:
    from PIL import Image

TENSOR_FILTERS = ("nearest", "nearest-exact", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """Steps between decoder and model.

    Attributes
    ----------
    resize_px : int
        Shorter side after resizing; the longer one keeps the aspect ratio.
    crop_px : int
        Side of the centre crop, which is the model's input.
    mean, std : tuple of float
        Normalisation, one number a channel, of values in 0 to 1.
    interpolation : str
        Name of the resampling filter; antialiased, as Pillow does.
    on_tensors : bool
        Whether torchvision resamples tensors, or Pillow its images.
    squash : bool
        Whether both sides are resized to `resize_px`, whatever the aspect ratio.
    border : bool
        Whether the longer side is resized to `resize_px`, so that the whole image is seen, and what lacks to a square
        is filled with the mean colour: timm's crop mode ``border``.
    longest_px : int or None
        Most that the longer side may have after resizing: then the shorter one has less than `resize_px`.
    crop_floor : bool
        Whether a crop off the middle by half a pixel lies towards the upper left, as transformers has it; torchvision
        rounds half to even.
    """

    resize_px: int
    crop_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    on_tensors: bool = False
    squash: bool = False
    border: bool = False
    longest_px: int | None = None
    crop_floor: bool = False

    modality: ClassVar[str] = "image"
    decoder: ClassVar[str | None] = None  # the one that sources decode images with

    @property
    def staging(self) -> Staging:
        """Pixels are staged as bytes, a quarter of the input's."""
        return Staging(self.input_shape)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.mean), self.crop_px, self.crop_px

    def canonical(self) -> str:
        """Canonical JSON: equal steps give equal text."""
        steps = dataclasses.asdict(self)
        resampler: dict[str, Any] = {"resampler": "torchvision tensor"} if steps.pop("on_tensors") else {}
        # what is usual is not said, as before there was a choice
        squash, border, floor = (steps.pop(name) for name in ("squash", "border", "crop_floor"))
        if steps["longest_px"] is None:
            del steps["longest_px"]
        aspect = {"aspect": "squashed"} if squash else {"aspect": "bordered"} if border else {}
        crop = {"crop": "floor"} if floor else {}
        return canonical_json({**steps, "antialias": True, **resampler, **aspect, **crop})

    @property
    def can_resample_tensors(self) -> bool:
        """Whether torchvision has the filter for tensors."""
        return self.interpolation in TENSOR_FILTERS

    @property
    def takes_tensors(self) -> bool:
        """Whether `pixels` takes a decoded tensor too: a grey model's luminance is Pillow's to compute."""
        return self.on_tensors and len(self.mean) == 3

    def override(self, options: PreprocessOptions | None, where: str) -> Preprocessing:
        """These steps with what params.yaml changes.

        Raises
        ------
        ConfigError
            If mean or std have another number of channels than the model, or the crop is larger than
            the resized image.
        """
        given = options.model_dump(exclude_none=True) if options is not None else {}
        for field in ("mean", "std"):
            if field in given:
                if len(given[field]) != len(self.mean):
                    raise ConfigError(
                        f"{where}.preprocess.{field}: expected {len(self.mean)} numbers, one a channel, "
                        f"found {len(given[field])}"
                    )
                given[field] = tuple(given[field])
        if "crop_px" in given and "resize_px" not in given:
            given["resize_px"] = max(self.resize_px, given["crop_px"])
        if "resize_px" in given and "crop_px" not in given:
            given["crop_px"] = min(self.crop_px, given["resize_px"])
        changed = dataclasses.replace(self, **given)
        if changed.crop_px > changed.resize_px and given:
            raise ConfigError(
                f"{where}.preprocess: crop_px {changed.crop_px} is larger than resize_px "
                f"{changed.resize_px}, which would pad the image with black; make resize_px at least as large"
            )
        return changed

    def as_options(self) -> PreprocessOptions:
        """What `override` makes these steps of, whatever it begins with."""
        return PreprocessOptions.model_validate(
            {
                "resize_px": self.resize_px,
                "crop_px": self.crop_px,
                "mean": list(self.mean),
                "std": list(self.std),
                "interpolation": self.interpolation,
            }
        )

    def pixels(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """All steps on pixels, to a uint8 tensor (C, H, W).

        Parameters
        ----------
        image
            Mode RGB or L; where `on_tensors`, also a uint8 tensor (1 or 3, H, W) for a model that takes 3 channels.
        """
        if isinstance(image, torch.Tensor):
            assert self.takes_tensors
            of_tensor_CHW: torch.Tensor = self._resampled(image)
            return of_tensor_CHW.expand(len(self.mean), -1, -1)
        mode = "L" if len(self.mean) == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        if self.on_tensors:
            resampled_CHW: torch.Tensor = self._resampled(F.pil_to_tensor(image))
            return resampled_CHW
        pixels_CHW: torch.Tensor = F.pil_to_tensor(self._resampled(image))
        return pixels_CHW

    def stage(self, sample: Any, part: int = 0) -> torch.Tensor:
        """`pixels` of one image."""
        return self.pixels(sample)

    def prepare(self, staged: torch.Tensor) -> torch.Tensor:
        """`normalise` what is still pixels."""
        return self.normalise(staged) if staged.dtype == torch.uint8 else staged

    def normalise(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Pixels, uint8 (..., C, H, W) on any device, to the model's input: float32, memory format kept."""
        # divided as v2.to_dtype rounds it; in place, for fresh memory costs more than the arithmetic
        x_NCHW = x_NCHW.to(torch.float32, copy=True).div_(255)
        normalised_NCHW: torch.Tensor = F.normalize(x_NCHW, list(self.mean), list(self.std), inplace=True)
        return normalised_NCHW

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """One image to a float32 tensor (C, H, W)."""
        return self.normalise(self.pixels(image))

    def _resampled(self, image: Any) -> Any:
        size = self._size(*F.get_size(image))
        image = F.resize(image, size, interpolation=InterpolationMode(self.interpolation), antialias=True)
        if self.border or self.crop_floor:
            return self._cropped(image)
        return F.center_crop(image, [self.crop_px, self.crop_px])

    def _size(self, height: int, width: int) -> list[int]:
        """Height and width after resizing; one number for the shorter side alone."""
        if self.squash:
            return [self.resize_px, self.resize_px]
        if self.border:
            ratio = max(height, width) / self.resize_px
            return [max(1, round(height / ratio)), max(1, round(width / ratio))]
        shorter, longer = min(height, width), max(height, width)
        if self.longest_px is None or longer / shorter * self.resize_px <= self.longest_px:
            return [self.resize_px]
        exact = self.longest_px * shorter / longer
        short, long = max(1, round(exact)), max(1, int(exact * longer / shorter))
        if shorter == short:  # transformers then leaves the image as it is
            return [height, width]
        return [short, long] if height <= width else [long, short]

    def _cropped(self, image: Any) -> Any:
        """The centre of an image, padded where it is smaller: with the mean colour, or black."""
        height, width = F.get_size(image)
        down, across = max(0, self.crop_px - height), max(0, self.crop_px - width)
        if down or across:
            fill: Any = [round(255 * value) if self.border else 0 for value in self.mean]
            if not isinstance(image, torch.Tensor):
                fill = fill[0] if len(fill) == 1 else tuple(fill)
            padding = [across // 2, down // 2, across - across // 2, down - down // 2]
            image = F.pad(image, padding, fill=fill)
            height, width = F.get_size(image)
        spare = (height - self.crop_px, width - self.crop_px)
        top, left = (one // 2 if self.crop_floor else round(one / 2) for one in spare)
        return F.crop(image, top, left, self.crop_px, self.crop_px)
