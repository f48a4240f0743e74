"""The corruptions of MNIST-C on real images, each by what its description says."""

import numpy as np
import pytest
from conftest import assert_one_sentence
from scipy import ndimage, stats

from mnist_fastai.corruptions import CHUNK, CORRUPTIONS, _refine, corrupt
from mnist_fastai.errors import InputError

FIXED = {"scale", "brightness", "stripe", "canny_edges"}  # nothing in them is random
PLACES = np.mgrid[:28, :28] - 13.5


@pytest.fixture(scope="module")
def images(mnist):
    """More than one chunk, and read-only."""
    images = mnist.test.images[: CHUNK + 100].numpy()
    images.flags.writeable = False
    return images


@pytest.fixture(scope="module")
def corrupted(images):
    return {name: corrupt(images, name) for name in CORRUPTIONS}


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre of each image's ink, (row, column) from the image's centre, [n, 2]; its covariances, [n, 2, 2]."""
    weights = images / images.sum((1, 2), dtype=float, keepdims=True)
    centres = np.einsum("nyx,iyx->ni", weights, PLACES)
    return centres, np.einsum("nyx,iyx,jyx->nij", weights, PLACES, PLACES) - centres[:, :, None] * centres[:, None]


def is_inside(images: np.ndarray, margin: int) -> np.ndarray:
    """Which images have no ink so near to the border."""
    return ~np.any(np.where(np.abs(PLACES).max(0) > 13.5 - margin, images, 0), (1, 2))


def test_the_names_are_those_of_the_papers_folders():
    assert list(CORRUPTIONS) == [
        "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "shear", "scale", "rotate", "brightness",
        "translate", "stripe", "fog", "spatter", "dotted_line", "zigzag", "canny_edges",
    ]  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_in_and_other_images_out(name, images, corrupted):
    before = images.copy()
    out = corrupt(images[:50], name)
    assert out.dtype == np.uint8
    assert out.shape == (50, 28, 28)
    assert out.flags.writeable
    assert not np.shares_memory(out, images)
    assert np.array_equal(images, before)
    assert (corrupted[name] != images).any((1, 2)).all()
    none = corrupt(images[:0], name)
    assert (none.dtype, none.shape) == (np.uint8, (0, 28, 28))
    assert not corrupt(np.zeros((2, 28, 28), np.uint8), "fog").any()  # of an image without range


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides_what_is_random(name, images):
    few = images[:20]
    assert np.array_equal(corrupt(few, name, seed=3), corrupt(few, name, seed=3))
    changed = (corrupt(few, name, seed=3) != corrupt(few, name, seed=4)).any((1, 2))
    assert not changed.any() if name in FIXED else changed.any()
    # and each image has random numbers of its own
    same = corrupt(np.repeat(few[:1], 20, 0), name)
    assert (len(np.unique(same, axis=0)) == 1) == (name in FIXED)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_first_images_do_not_depend_on_those_that_follow(name, images, corrupted):
    for n in (1, 30, CHUNK + 30):
        assert np.array_equal(corrupt(images[:n], name), corrupted[name][:n])
    if name in FIXED:
        assert np.array_equal(corrupt(images[70:71], name), corrupted[name][70:71])


@pytest.mark.parametrize(
    ("name", "wanted"),
    {
        "shot_noise": 5780, "impulse_noise": 77313, "glass_blur": -16582, "motion_blur": 1829, "shear": -81805,
        "scale": -67648, "rotate": 54821, "brightness": 15509, "translate": -101361, "stripe": 28509, "fog": 7823,
        "spatter": 16065, "dotted_line": -27686, "zigzag": 21694, "canny_edges": -7650,
    }.items(),
)  # fmt: skip
def test_every_version_makes_the_same_images(name, wanted, corrupted):
    # other random numbers or another strength change these sums by hundreds or more, another machine's rounding by few
    weights = np.arange(100 * 28 * 28).reshape(100, 28, 28) * 7919 % 11 - 5
    assert (corrupted[name][:100] * weights).sum() == pytest.approx(wanted, abs=300)


def test_shot_noise_counts_photons(corrupted, images):
    assert not corrupted["shot_noise"][images == 0].any()
    for grey in (17, 85, 255):
        counts, rest = np.divmod(corrupt(np.full((300, 28, 28), grey, np.uint8), "shot_noise"), 85)
        rate = 3 * grey / 255
        wanted = [*stats.poisson.pmf([0, 1, 2], rate), stats.poisson.sf(2, rate)]
        assert not rest.any()
        assert np.bincount(counts.ravel(), minlength=4) / counts.size == pytest.approx(wanted, abs=0.005)
        if grey == 17:  # hardly ever more than 3
            assert counts.mean() == pytest.approx(counts.var(), rel=0.02)


def test_impulse_noise_makes_17_percent_black_or_white(corrupted, images):
    out = corrupted["impulse_noise"]
    grey = (images > 0) & (images < 255)
    assert np.isin(out[out != images], (0, 255)).all()
    assert (out != images)[grey].mean() == pytest.approx(0.17, abs=0.005)
    assert (out == 0)[grey].mean() == pytest.approx(0.085, abs=0.005)
    assert (out == 255)[images == 0].mean() == pytest.approx(0.085, abs=0.002)
    assert (out == 0)[images == 255].mean() == pytest.approx(0.085, abs=0.01)


def test_glass_blur_spreads_ink_and_moves_it_nowhere(corrupted, images):
    assert corrupted["glass_blur"].sum() == pytest.approx(images.sum(), rel=0.01)
    dots = np.zeros((1000, 28, 28), np.uint8)
    dots[:, 13:15, 13:15] = 255
    out = corrupt(dots, "glass_blur")
    blurred = ndimage.gaussian_filter(dots[0].astype(float), 0.7 * 2**0.5)[None]
    alone, spread = (moments(each.mean(0, keepdims=True))[1][0] for each in (blurred, out))
    alone, spread, across = np.trace(alone) / 2, np.trace(spread) / 2, spread[0, 1]
    assert np.abs(moments(out.mean(0, keepdims=True))[0]).max() < 0.15
    assert spread - alone == pytest.approx(4 / 3, abs=0.1)  # two turns × two swaps for every other pixel × 2/3
    assert abs(across) < 0.15  # along no diagonal
    assert np.array_equal(corrupt(np.full((2, 28, 28), 77, np.uint8), "glass_blur"), np.full((2, 28, 28), 77))


def test_motion_blur_smears_along_a_line_of_up_to_45_degrees(corrupted, images):
    steps = np.arange(11)
    weights = stats.norm.pdf(steps, scale=3) / stats.norm.pdf(steps, scale=3).sum()
    dots = np.zeros((400, 28, 28), np.uint8)
    dots[:, 14, 14] = 255
    out = corrupt(dots, "motion_blur")
    down, right = -(moments(out)[0] - 0.5).T
    assert np.hypot(down, right) == pytest.approx(np.full(400, weights @ steps), abs=0.4)
    angles = np.degrees(np.arctan2(down, right))
    assert angles.min() == pytest.approx(-45, abs=6)
    assert angles.max() == pytest.approx(45, abs=6)
    assert abs(angles.mean()) < 5
    counts = np.count_nonzero(out, (1, 2))
    assert counts.min() >= 7  # pixels on a diagonal, of which there are 8, and the last is fainter than a grey level
    assert counts.max() <= 11
    assert np.abs(out[:, 14, 14] - 255 * weights[0]).max() < 1
    inside = is_inside(images, 4)
    assert corrupted["motion_blur"][inside].sum() == pytest.approx(images[inside].sum(), rel=0.01)


def test_shear_slants_by_two_fifths_to_either_side(corrupted, images):
    (before, old), (after, new) = moments(images), moments(corrupted["shear"])
    slants = (new[:, 0, 1] - old[:, 0, 1]) / old[:, 0, 0]
    assert np.quantile(np.abs(np.abs(slants) - 0.4), 0.99) < 0.01  # the widest digits lose a corner
    assert np.median(np.abs(slants)) == pytest.approx(0.4, abs=0.002)
    assert 0.45 < (slants > 0).mean() < 0.55
    assert np.quantile(np.abs(new[:, 0, 0] / old[:, 0, 0] - 1), 0.99) < 0.02  # no taller
    assert np.abs(after - before).max() < 0.8


def test_scale_shrinks_to_seven_tenths(corrupted, images):
    (before, old), (after, new) = moments(images), moments(corrupted["scale"])
    assert np.abs(after - 0.7 * before).max() < 0.5
    assert np.abs((after - 0.7 * before).mean(0)).max() < 0.02
    ratio = np.sqrt(np.linalg.det(new) / np.linalg.det(old)) ** 0.5
    assert np.median(ratio) == pytest.approx(0.7, abs=0.01)
    assert corrupted["scale"].sum() == pytest.approx(0.49 * images.sum(), rel=0.01)


def test_rotate_turns_by_two_fifths_of_a_radian_either_way(corrupted, images):
    (before, old), (after, new) = moments(images), moments(corrupted["rotate"])
    # the part of a covariance that has a direction turns by twice the angle
    first, then = ((c[:, 1, 1] - c[:, 0, 0]) / 2 + 1j * c[:, 0, 1] for c in (old, new))
    long = np.abs(first) > 3
    angles = np.angle(then / first)[long] / 2
    assert long.sum() > 500
    assert np.abs(angles) == pytest.approx(np.full(long.sum(), 0.4), abs=0.04)
    assert np.median(np.abs(angles)) == pytest.approx(0.4, abs=0.003)
    assert 0.45 < (angles > 0).mean() < 0.55
    assert np.abs(after - before).max() < 0.5
    assert corrupted["rotate"].sum() == pytest.approx(images.sum(), rel=0.01)


def test_brightness_adds_half_the_range(corrupted, images):
    assert np.array_equal(corrupted["brightness"], np.minimum(images + 128.0, 255))


def test_translate_moves_by_3_pixels_along_each_axis(corrupted, images):
    ways = [(down, right) for down in (-3, 3) for right in (-3, 3)]
    matches = np.array(
        [
            (ndimage.shift(images, (0, *way), order=0, prefilter=False) == corrupted["translate"]).all((1, 2))
            for way in ways
        ]
    )
    assert matches.any(0).all()
    assert matches.mean(1) == pytest.approx([0.25] * 4, abs=0.05)
    inside = is_inside(images, 3)
    assert np.array_equal(corrupted["translate"].sum((1, 2))[inside], images.sum((1, 2))[inside])


def test_stripe_inverts_the_outer_columns_alone(corrupted, images):
    assert np.array_equal(corrupted["stripe"][..., 7:21], images[..., 7:21])
    for outer in (slice(7), slice(21, None)):
        assert np.array_equal(corrupted["stripe"][..., outer], 255 - images[..., outer])


def test_fog_leaves_a_quarter_of_the_contrast(images):
    """The cloud depends on an image's place in the set alone, so that two sets show it and the digits apart."""
    full = images[images.max((1, 2)) == 255][:600]
    ahead, back = (corrupt(each, "fog").astype(float) for each in (full, full[::-1]))
    assert np.abs(ahead - back - (full.astype(float) - full[::-1]) / 4).max() <= 1


def test_fog_is_a_cloud_of_plasma_noise(images):
    full = images[images.max((1, 2)) == 255][:600]
    clouds = (corrupt(full, "fog") - full / 4) / 255 * 4 / 3
    # 200 whole maps, 256×256, and the corners of them that images show
    rng, maps = np.random.default_rng(0), np.zeros((200, 1, 1))
    for level in range(8):
        maps = _refine(maps, rng.uniform(-1, 1, (200, 3 * maps.shape[1] ** 2)) / 1.4 ** (2 * level))
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    corners = ((maps - low) / (high - low))[:, :28, :28]
    for number in (np.mean, np.std):
        wanted, got = number(corners, (1, 2)), number(clouds, (1, 2))
        assert got.mean() == pytest.approx(wanted.mean(), abs=5 * wanted.std() / 200**0.5)
        assert got.std() == pytest.approx(wanted.std(), rel=0.25)
    for axis in (1, 2):  # from row to row, from column to column: no seam
        steps, wanted = (np.abs(np.diff(each, axis=axis)).mean((0, 3 - axis)) for each in (clouds, corners))
        assert steps == pytest.approx(wanted, rel=0.2)


def test_plasma_noise_refines_by_squares_and_diamonds():
    rng = np.random.default_rng(0)
    grid, noise = rng.random((4, 4)), rng.random((3, 4, 4))
    wanted = np.zeros((8, 8))
    wanted[::2, ::2] = grid
    for square in (True, False):
        around = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if square else [(-1, 0), (1, 0), (0, -1), (0, 1)]
        for y, x in np.ndindex(8, 8):
            if (y % 2 and x % 2) if square else (y + x) % 2:
                added = noise[0 if square else 1 if x % 2 else 2, y // 2, x // 2]
                wanted[y, x] = np.mean([wanted[(y + down) % 8, (x + right) % 8] for down, right in around]) + added
    assert _refine(grid[None], noise.reshape(1, -1))[0] == pytest.approx(wanted)


def test_spatter_covers_the_image_with_dark_grey_blots(corrupted, images):
    out = corrupted["spatter"].astype(int)
    on_black = out[images == 0]
    assert np.isin(on_black, (0, *range(50, 64))).all()
    covered = (out != images) & (images > 70)
    assert ((out >= 63) & (out <= images))[covered].all()
    assert (out[covered] <= 63.5 + 0.2 * (images[covered] - 63)).all()
    blots = corrupt(np.full((300, 28, 28), 255, np.uint8), "spatter") < 255
    assert blots.mean() == pytest.approx(0.13, abs=0.01)
    assert np.mean([ndimage.label(each)[1] for each in blots]) == pytest.approx(6.8, abs=0.8)


def test_a_dotted_line_crosses_the_image(corrupted, images):
    assert (corrupted["dotted_line"] >= images).all()
    lines = corrupt(np.zeros((500, 28, 28), np.uint8), "dotted_line")
    assert not lines[..., np.arange(28) // 2 % 2 == 0].any()
    dashes = lines[..., np.arange(28) // 2 % 2 == 1].astype(float)
    assert np.count_nonzero(dashes, 1).max() == 3
    whole = ~lines[:, [0, -1]].any((1, 2))  # inside the image
    columns, ends = np.flatnonzero(np.arange(28) // 2 % 2), []
    for line in dashes[whole]:
        assert line.max(0).min() > 150
        rows = np.arange(28) @ line / line.sum(0)
        rise, start = np.polyfit(columns, rows, 1)
        assert rows == pytest.approx(start + rise * columns, abs=0.5)
        ends.append((start, start + 27 * rise))
    assert np.ptp(ends, 0).min() > 20  # at any heights
    assert abs(np.corrcoef(np.transpose(ends))[0, 1]) < 0.2


def test_a_zigzag_crosses_the_image(corrupted, images):
    assert (corrupted["zigzag"] >= images).all()
    lines = corrupt(np.zeros((500, 28, 28), np.uint8), "zigzag").astype(float)
    assert not lines[..., [0, 27]].any()
    whole = lines[~lines[:, [0, -1]].any((1, 2))][..., 3:25]
    assert len(whole) > 200
    columns, starts, rises = np.arange(3, 25), [], []
    for line in whole:
        assert line.max(0).min() > 120
        rows = np.arange(28) @ line / line.sum(0)
        rise, start = np.polyfit(columns, rows, 1)
        beside = rows - start - rise * columns
        assert 1.2 < beside.max() < 2.8
        assert 1.2 < -beside.min() < 2.8
        assert np.abs(np.fft.rfft(beside)).argmax() in (2, 3)  # periods of 8 in 22 columns
        starts.append(start)
        rises.append(rise * 23)
    assert np.ptp(starts) > 15
    assert -6.5 < min(rises) < -3
    assert 2 < max(rises) < 5.5


def test_canny_finds_the_edges_that_scikit_image_finds(corrupted):
    """Numbers of edge pixels from scikit-image 0.26, that finds the same edges in all 10,000 test images."""
    edges = corrupted["canny_edges"] > 0
    assert np.array_equal(corrupted["canny_edges"], edges * 255)
    assert edges[:20].sum((1, 2)).tolist() == [
        74,
        97,
        45,
        93,
        86,
        48,
        87,
        73,
        84,
        90,
        108,
        118,
        84,
        103,
        46,
        111,
        92,
        78,
        122,
        69,
    ]
    numbered = (edges[:20] * np.arange(28 * 28).reshape(28, 28)).sum((1, 2))
    assert numbered.tolist() == [
        31030, 38316, 17471, 37949, 34198, 19669, 32869, 31654, 30922, 37829, 43137, 48242, 34298, 44244, 18113, 45710,
        36250, 32799, 50142, 27563,
    ]  # fmt: skip


def test_canny_keeps_weak_edges_only_beside_strong_ones():
    # the gradient at a step of n / 255 is 0.01006 n, so that n = 19 and 20, 9 and 10 are either side of the thresholds
    steps = np.zeros((4, 28, 28), np.uint8)
    for image, (top, bottom) in zip(steps, [(19, 19), (20, 20), (20, 10), (20, 9)], strict=True):
        image[:, 14:] = np.repeat([top, bottom], 14)[:, None]
    edges = corrupt(steps, "canny_edges") > 0
    rows = edges[:, 1:-1, 13:15].any(2)
    assert rows[:, :12].all(1).tolist() == [False, True, True, True]
    assert rows[:, -10:].all(1).tolist() == [False, True, True, False]
    assert not edges[0].any()
    assert not edges[3, -10:].any()
    assert not edges[:, :, :12].any()


def test_an_unknown_corruption_is_refused_with_the_known_ones(images):
    with pytest.raises(InputError, match="'snow' is not known") as e:
        corrupt(images, "snow")
    assert_one_sentence(str(e.value))
    assert all(name in str(e.value) for name in CORRUPTIONS)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 28, 28), np.float32),
        np.zeros((28, 28), np.uint8),
        np.zeros((2, 27, 28), np.uint8),
        np.zeros((2, 1, 28, 28), np.uint8),
        np.uint8(3),
        [],
    ],
    ids=["floats", "one image", "27 rows", "channels", "a number", "a list"],
)
def test_what_is_no_set_of_images_is_refused(wrong):
    with pytest.raises(InputError, match=r"give uint8 \[n, 28, 28\]") as e:
        corrupt(wrong, "shear")
    assert_one_sentence(str(e.value))


def test_a_negative_seed_is_refused(images):
    with pytest.raises(InputError, match="seed -1 is negative; give 0 or more") as e:
        corrupt(images, "shear", seed=-1)
    assert_one_sentence(str(e.value))
