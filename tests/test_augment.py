"""Augmentations: what they do to an image, that each image has its own, and that validation images have none."""

import pytest
import torch
from fastai.vision.core import TensorImageBW

from mnist_fastai import InputError, dataloaders
from mnist_fastai.augment import RandomAffine, RandomThickness, find_augment


@pytest.fixture
def images(small):
    torch.manual_seed(0)
    return TensorImageBW(small.train.images[:64, None].float() / 255)


def centre(images):
    """Centre of mass of each image, (x, y) in pixels."""
    mass, at = images.sum((1, 2, 3)), torch.arange(28.0)
    return torch.stack([(images.sum((1, 2)) * at).sum(1) / mass, (images.sum((1, 3)) * at).sum(1) / mass], 1)


def test_nothing_asked_for_changes_nothing(images):
    assert torch.equal(RandomAffine()(images, split_idx=0), images)


def test_a_certain_flip_mirrors_left_and_right_exactly(images):
    assert torch.equal(RandomAffine(flip=1)(images, split_idx=0), images.flip(-1))


def test_half_of_the_images_are_flipped_at_half_the_probability(small):
    images = TensorImageBW(small.train.images[:, None].float())
    torch.manual_seed(0)
    kept = (find_augment("flip")[0](images, split_idx=0) == images).flatten(1).all(1)
    assert 0.4 < kept.float().mean() < 0.6


def test_translation_moves_the_digit_by_at_most_its_pixels_and_keeps_its_ink(images):
    images = images[images[:, :, 3:-3, 3:-3].sum((1, 2, 3)) == images.sum((1, 2, 3))]  # those that nothing can leave
    moved = torch.Tensor(RandomAffine(pixels=3)(images, split_idx=0))
    shift = centre(moved) - centre(torch.Tensor(images))
    assert shift.abs().max() < 3.05
    assert shift.abs().max() > 2  # and uses what it may
    assert shift.std(0).min() > 1  # each image and axis by an amount of its own
    torch.testing.assert_close(moved.sum((1, 2, 3)), torch.Tensor(images).sum((1, 2, 3)), rtol=0.01, atol=0)


def test_rotation_turns_about_the_centre_of_the_image():
    bar = torch.zeros(200, 1, 28, 28)
    bar[:, :, 13:15, 4:24] = 1  # a level bar through the centre
    torch.manual_seed(0)
    turned = torch.Tensor(find_augment("rotate-45")[0](TensorImageBW(bar), split_idx=0))[:, 0]
    y, x = torch.meshgrid(torch.arange(28.0) - 13.5, torch.arange(28.0) - 13.5, indexing="ij")
    sxx, syy, sxy = ((turned * m).sum((1, 2)) for m in (x * x, y * y, x * y))
    degrees = torch.rad2deg(0.5 * torch.atan2(2 * sxy, sxx - syy))  # of the principal axis
    assert degrees.abs().max() < 46
    assert degrees.max() > 40
    assert degrees.min() < -40
    assert (centre(turned[:, None]) - 13.5).abs().max() < 0.05


def test_scale_changes_the_ink_by_its_square(images):
    ink = torch.Tensor(RandomAffine(scale=0.1)(images, split_idx=0)).sum((1, 2, 3)) / torch.Tensor(images).sum(
        (1, 2, 3)
    )
    assert 0.78 < ink.min() < 0.9
    assert 1.1 < ink.max() < 1.24


def test_what_comes_in_at_the_border_is_background(images):
    moved = torch.Tensor(find_augment("translate-7")[0](images, split_idx=0))
    assert moved.min() == 0
    assert moved.max() <= 1


def test_training_images_are_augmented_anew_each_epoch_and_validation_images_never(small):
    plain, moved = (dataloaders(small, 50, "half", augment) for augment in ("none", "affine"))
    for (a, _), (b, _) in zip(plain.valid, moved.valid, strict=True):
        assert torch.equal(a, b)
    moved.train.shuffle = plain.train.shuffle = False
    first, second, still = (next(iter(dls.train))[0] for dls in (moved, moved, plain))
    assert not torch.equal(first, second)
    assert not torch.equal(first, still)
    assert first.min() >= -1  # moved before it is normalised
    assert first.max() <= 1


def test_shear_slides_each_row_by_its_height():
    bar = torch.zeros(200, 1, 28, 28)
    bar[:, :, 4:24, 13:15] = 1  # an upright bar through the centre
    torch.manual_seed(0)
    sheared = torch.Tensor(RandomAffine(shear=0.4)(TensorImageBW(bar), split_idx=0))[:, 0]
    x = (sheared * torch.arange(28.0)).sum(2) / sheared.sum(2)  # of each row's ink
    slope = (x[:, 22] - x[:, 5]) / 17
    assert slope.abs().max() < 0.41
    assert slope.max() > 0.35
    assert slope.min() < -0.35
    assert (x[:, 13] + x[:, 14] - 27).abs().max() < 0.05


def test_the_recipes_augmentation_has_its_amounts():
    affine = find_augment("affine")[0]
    assert (affine.degrees, affine.scale, affine.shear, affine.pixels, affine.flip) == (12, 0.1, 0.1, 2, 0)


def test_a_function_of_ones_own_changes_training_images_in_0_to_1_once_per_batch(small):
    seen = []

    def dark(images):
        seen.append((tuple(images.shape), images.min().item(), images.max().item(), type(images)))
        return images * 0

    dls = dataloaders(small, 50, augment=dark)
    assert all((xb == -1).all() for xb, _ in dls.train)  # normalised afterwards
    assert seen == [((50, 1, 28, 28), 0.0, 1.0, torch.Tensor)] * 12
    assert next(iter(dls.valid))[0].max() == 1


@pytest.mark.parametrize("augment", ["blur", "nowhere:noise", 3, [None]])
def test_what_is_no_augmentation_is_refused(small, augment):
    with pytest.raises(InputError, match="augment"):
        dataloaders(small, augment=augment)


def test_rotation_and_shear_together_keep_the_ink(images):
    images = torch.nn.functional.pad(torch.Tensor(images), (8, 8, 8, 8))  # nothing leaves
    torch.manual_seed(0)
    moved = torch.Tensor(RandomAffine(degrees=30, shear=0.4)(TensorImageBW(images), split_idx=0))
    torch.testing.assert_close(moved.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=0.02, atol=0)


def test_thickness_grows_a_dot_into_a_plus_or_fades_it():
    dots = torch.zeros(300, 1, 28, 28)
    dots[:, :, 10, 10] = 1
    torch.manual_seed(0)
    changed = torch.Tensor(RandomThickness(0.8)(TensorImageBW(dots), split_idx=0))
    centre, around = changed[:, 0, 10, 10], changed[:, 0, [9, 11, 10, 10], [10, 10, 9, 11]]
    thicker = centre == 1
    assert 100 < thicker.sum() < 200
    assert (around[thicker] == around[thicker][:, :1]).all()
    assert 0.7 < around[thicker].max() <= 0.8
    assert (around[~thicker] == 0).all()
    assert 0.2 <= centre[~thicker].min() < 0.3
    torch.testing.assert_close(changed.sum((1, 2, 3)), centre + around.sum(1))


def test_thickness_of_all_ink_or_none_is_left_at_the_border_too():
    for value in (0.0, 1.0):
        plain = torch.full((50, 1, 28, 28), value)
        assert torch.equal(torch.Tensor(RandomThickness(1)(TensorImageBW(plain), split_idx=0)), plain)


def test_thickness_changes_each_digit_by_an_amount_of_its_own_within_0_and_1(images):
    torch.manual_seed(0)
    changed = torch.Tensor(RandomThickness(0.5)(images, split_idx=0))
    ink = changed.sum((1, 2, 3)) / torch.Tensor(images).sum((1, 2, 3))
    assert ink.min() < 0.8
    assert ink.max() > 1.25
    assert len(ink.unique()) > 60
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_the_readers_augmentation_is_improveds_after_another_pen():
    thickness, affine = find_augment("affine-thickness")
    assert thickness.amount == 0.5
    assert thickness.order < affine.order
    assert (affine.degrees, affine.scale, affine.shear, affine.pixels, affine.flip) == (12, 0.1, 0.1, 2, 0)
