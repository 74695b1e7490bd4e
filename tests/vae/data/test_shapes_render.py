import itertools
import math

import numpy
import pytest

from vae.data.shapes_render import ALL, FIRST_CENTRE, OFFSET, SIDE, VALUES, draw, render

AREAS = {"square": 22**2, "ellipse": math.pi * 15 * 7.5, "heart": 3.662 * 11.5**2}


def images(*levels):
    packed = numpy.concatenate(list(render(levels)))
    return numpy.unpackbits(packed, axis=1).reshape(-1, SIDE, SIDE).astype(bool)


def moments(image):
    """Area, centroid (right, down), and the second moments about it."""
    down, right = (place + 0.5 for place in image.nonzero())
    centroid = right.mean(), down.mean()
    return len(right), centroid, numpy.cov(numpy.stack([right, down]))


def test_the_values_are_the_published_ones():
    assert ALL.count == 737_280
    assert ALL.sizes == tuple(len(VALUES[name]) for name in ALL.names)
    assert VALUES["scale"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert (VALUES["orientation"][0], VALUES["orientation"][39]) == (0, 2 * math.pi)


@pytest.mark.parametrize("shape", range(3))
def test_the_area_grows_with_the_square_of_the_scale(shape):
    areas = images([shape], range(6), range(0, 39, 3), [7], [20]).sum((1, 2)).reshape(6, 13)
    expected = AREAS[VALUES["shape"][shape]] * VALUES["scale"][:, None] ** 2
    # A pixel is in or out: what is lost and gained along the outline of about 40 to 90 pixels nearly cancels.
    assert (abs(areas - expected) < 8).all()
    assert (abs(areas.mean(1) - expected[:, 0]) < 3).all()


@pytest.mark.parametrize("shape", range(3))
def test_the_centroid_is_where_the_position_says_it_is_for_every_scale_and_angle(shape):
    drawn = images([shape], [0, 5], range(0, 40, 4), [0, 13, 31], [0, 8, 31]).reshape(20, 3, 3, SIDE, SIDE)
    for same in drawn:
        for i, x in enumerate((0, 13, 31)):
            for j, y in enumerate((0, 8, 31)):
                _, (right, down), _ = moments(same[i, j])
                assert right == pytest.approx(FIRST_CENTRE + OFFSET[0] + x, abs=0.35)
                assert down == pytest.approx(FIRST_CENTRE + OFFSET[1] + y, abs=0.35)


def test_a_position_more_moves_the_image_by_a_pixel():
    drawn = images([2], [4], [17], [10, 11], [10, 11]).reshape(2, 2, SIDE, SIDE)
    assert (drawn[1, 0] == numpy.roll(drawn[0, 0], 1, axis=1)).all()
    assert (drawn[0, 1] == numpy.roll(drawn[0, 0], 1, axis=0)).all()


def test_no_shape_touches_the_edge():
    drawn = images(range(3), [5], range(40), [0, 31], [0, 31])
    assert not (drawn[:, [0, -1]].any() or drawn[:, :, [0, -1]].any())


@pytest.mark.parametrize(("shape", "turns"), [(0, 4), (1, 2), (2, 1)])
def test_rotations_that_leave_a_shape_as_it_is(shape, turns):
    """A quarter turn turns the pixels with it; of the angles up to it only those of the symmetry change nothing."""
    for scale, angle in [(1.0, 0.3), (0.55, 1.1)]:
        start = draw(shape, scale, angle, 40)
        for quarter in range(4):
            turned = draw(shape, scale, angle + quarter * math.pi / 2, 40)
            assert (turned == numpy.rot90(start, -quarter)).all()  # clockwise
            assert (turned == start).all() == (quarter * turns % 4 == 0)


def test_the_ellipse_lies_along_its_angle_and_the_heart_stands_upright():
    for angle in (0.2, 1.0, 2.5):
        _, _, ((xx, xy), (_, yy)) = moments(draw(1, 1.0, angle, 40))
        assert 0.5 * math.atan2(2 * xy, xx - yy) % math.pi == pytest.approx(angle, abs=0.02)
        assert xx + yy == pytest.approx((15**2 + 7.5**2) / 4, rel=0.03)
    heart = draw(2, 1.0, 0.0, 40)
    assert (heart == heart[:, ::-1]).all()
    rows = heart.any(1).nonzero()[0]
    assert heart[rows[-1]].sum() <= 2  # a tip at the bottom
    assert not heart[rows[0], 20] and heart[rows[0]].sum() >= 4  # two lobes at the top


def test_all_images_differ_but_for_a_full_turn():
    """Positions move a drawing by whole pixels, so drawings that differ when cropped differ at all of them."""
    drawn = images(range(3), range(6), range(40), [15], [15]).reshape(18, 40, SIDE, SIDE)
    assert (drawn[:, 0] == drawn[:, 39]).all()
    cropped = set()
    for image in drawn[:, :39].reshape(-1, SIDE, SIDE):
        rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
        part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cropped.add((part.shape, part.tobytes()))
    assert len(cropped) == 3 * 6 * 39


def test_the_last_factor_changes_fastest_and_blocks_are_bounded():
    levels = [0, 1], [0, 5], [0, 3], [4, 9], [1, 2]
    drawn = images(*levels)
    assert len(drawn) == 32
    for row, chosen in enumerate(itertools.product(*levels)):
        one = images(*([level] for level in chosen))
        assert (one[0] == drawn[row]).all()
    assert next(iter(render([range(size) for size in ALL.sizes]))).shape == (1024, 512)
