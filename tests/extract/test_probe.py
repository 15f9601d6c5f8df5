"""The probe refuses another space and does not cry wolf."""

import numpy as np
import pytest
import torch
from PIL import Image

from embedpipe.errors import ProbeMismatch
from embedpipe.extract.probe import check_probe, probe_images, relative_error


def test_probe_images_are_equal_each_time_and_of_several_sizes():
    first, second = probe_images(), probe_images()
    assert [a.tobytes() for a in first] == [b.tobytes() for b in second]
    assert len({image.size for image in first}) == len(first)


def test_probe_images_have_falling_spectra_like_photographs():
    grey = np.asarray(probe_images()[0].convert("L"), dtype=np.float64)
    power = np.abs(np.fft.rfft2(grey - grey.mean())) ** 2
    assert power[1:8, 1:8].mean() > 20 * power[40:80, 40:80].mean()


def test_relative_error_is_the_distance_over_the_distance_from_the_mean():
    reference = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = np.array([[1.0, 0.5], [-1.0, 0.0]])
    assert relative_error(reference, found) == pytest.approx(0.5)


def test_a_common_offset_does_not_hide_a_difference():
    # cosine of these features is above 0.9999
    reference = 100.0 + np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    found = reference + np.array([[0.0, 0.2], [0.0, 0.0], [0.0, 0.0]])
    assert relative_error(reference, found) > 0.1


def features(images, resize_px=32, scale=1.0, reduction=torch.nn.AdaptiveAvgPool2d):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), reduction(2)
    )
    with torch.no_grad():
        network[2].weight *= scale
        x = [np.asarray(i.resize((resize_px, resize_px), Image.Resampling.BILINEAR)) for i in images]
        x = torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).float() / 255
        return {"conv.grid2": network(x).flatten(1).numpy()}


def test_one_convolution_scaled_by_a_thousandth_is_refused_in_float32():
    stored = features(probe_images())
    with pytest.raises(ProbeMismatch, match=r"tap conv\.grid2.*on_mismatch: new_group"):
        check_probe("backbones.b", stored, features(probe_images(), scale=1.001), "float32")


def test_another_resize_is_refused_at_every_precision():
    stored, found = features(probe_images()), features(probe_images(), resize_px=36)
    for precision in ("float32", "float16", "bfloat16"):
        with pytest.raises(ProbeMismatch):
            check_probe("backbones.b", stored, found, precision)


def test_a_reduction_that_computes_something_else_is_refused_at_every_precision():
    stored = features(probe_images())
    found = features(probe_images(), reduction=torch.nn.AdaptiveMaxPool2d)
    for precision in ("float32", "float16", "bfloat16"):
        with pytest.raises(ProbeMismatch):
            check_probe("backbones.b", stored, found, precision)


def test_thread_counts_and_batch_sizes_are_within_tolerance():
    stored = features(probe_images())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [features([image])["conv.grid2"] for image in probe_images()]
    finally:
        torch.set_num_threads(threads)
    check_probe("backbones.b", stored, {"conv.grid2": np.concatenate(alone)}, "float32")


def test_another_shape_is_refused():
    stored = features(probe_images())
    with pytest.raises(ProbeMismatch, match="inf"):
        check_probe("backbones.b", stored, {"conv.grid2": stored["conv.grid2"][:, :4]}, "float32")


def test_nan_is_refused():
    stored = features(probe_images())
    with pytest.raises(ProbeMismatch, match="nan"):
        check_probe("b", stored, {"conv.grid2": stored["conv.grid2"] * np.nan}, "float32")
