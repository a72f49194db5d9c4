"""Buckets: which sizes there are, what is cropped, and in which order batches come."""

import re
from collections import Counter

import numpy as np
import pytest

from moa_jax.data.buckets import BucketOrder, Buckets, Fit, bucket_sizes, cropped, group
from moa_jax.errors import InputError

PHOTOS = {"1:1": 1, "5:4": 5 / 4, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9, "2:1": 2}


def random_buckets(seed, batch_size=4, spread=30):
    """Up to eight buckets of up to `spread` records, whose numbers are mixed."""
    random = np.random.default_rng(seed)
    sizes = [*bucket_sizes(512)][: random.integers(1, 9)]
    chosen = [size for size in sizes for _ in range(random.integers(1, spread))]
    chosen += [None] * 3
    return Buckets(group([chosen[i] for i in random.permutation(len(chosen))])), batch_size


def test_sizes_at_512_by_hand():
    wide = {(768, 384), (704, 384), (640, 384), (640, 448), (576, 448), (512, 448)}
    assert set(bucket_sizes(512)) == wide | {(512, 512)} | {(h, w) for w, h in wide}


def test_a_square_that_is_no_bucket():
    with pytest.raises(InputError, match="resolution 500: .* multiples of 64 pixels"):
        bucket_sizes(500)


@pytest.mark.parametrize(("resolution", "unit"), [(64, 64), (64, 16), (384, 64), (1024, 64)])
def test_sizes_are_near_the_square_and_the_largest_come_first(resolution, unit):
    sizes = bucket_sizes(resolution, unit)
    pixels = [width * height for width, height in sizes]
    assert pixels == sorted(pixels, reverse=True) and len(set(sizes)) == len(sizes)
    assert (resolution, resolution) in sizes
    assert {(height, width) for width, height in sizes} == set(sizes)
    for width, height in sizes:
        assert width % unit == height % unit == 0
        assert max(width, height) <= 2 * min(width, height)
        # Half a step of the longer side, up or down.
        assert resolution == unit or abs(width * height - resolution**2) <= unit * max(
            width, height
        )


def test_what_is_cropped_by_hand():
    assert cropped((300, 200), (512, 512)) == pytest.approx(1 / 3)
    assert cropped((200, 300), (512, 512)) == pytest.approx(1 / 3)
    assert cropped((1920, 1080), (704, 384)) == pytest.approx(1 - (16 / 9) / (11 / 6))
    assert cropped((55, 30), (704, 384)) == 0


@pytest.mark.parametrize("resolution", [512, 768, 1024])
def test_photos_lose_little_and_squares_would_lose_much(resolution):
    fit = Fit(bucket_sizes(resolution), 0.1)
    for ratio in PHOTOS.values():
        for picture in ((round(6000 * ratio), 6000), (6000, round(6000 * ratio))):
            assert fit.fault(picture) is None
            assert cropped(picture, fit.choose(picture)) < 0.06
            square = cropped(picture, (resolution, resolution))
            assert square == pytest.approx(1 - 1 / ratio, abs=1e-3)


def test_no_other_size_crops_less_and_too_much_is_a_fault():
    fit = Fit(bucket_sizes(512), 0.1)
    random = np.random.default_rng(0)
    for picture in random.integers(1, 5000, (500, 2)).tolist():
        picture = tuple(picture)
        least = min(cropped(picture, size) for size in bucket_sizes(512))
        assert cropped(picture, fit.choose(picture)) == least
        assert (fit.fault(picture) is not None) == (least > 0.1)
    fault = (
        "3000x1000 pixels: .* 768x384, 33.3% of it would be cropped, more than data.max_crop=0.1"
    )
    assert re.fullmatch(fault + " allows", fit.fault((3000, 1000)))
    assert Fit(fit.sizes, 1.0).fault((3000, 1)) is None


@pytest.mark.parametrize("seed", range(12))
def test_each_batch_has_one_size(seed):
    buckets, batch_size = random_buckets(seed)
    order = BucketOrder(buckets, batch_size, seed)
    bucket_of = {int(n): size for size, found in buckets.members.items() for n in found}
    for batch in range(100):
        rows = [next(order.candidates(batch * batch_size + row)) for row in range(batch_size)]
        assert len({size for _, size in rows}) == 1
        assert all(bucket_of[number] == size for number, size in rows)


@pytest.mark.parametrize("seed", range(12))
def test_after_each_epoch_all_were_seen_as_often_up_to_what_fills_no_batch(seed):
    buckets, batch_size = random_buckets(seed, spread=9 if seed % 2 else 30)
    order = BucketOrder(buckets, batch_size, seed)
    counts = {size: len(found) for size, found in buckets.members.items()}
    seen, batch = Counter(), 0
    for epoch in range(1, 9):
        # What an epoch ends with: whole batches of what each bucket had until then.
        ends = {size: epoch * count // batch_size for size, count in counts.items()}
        for example in range(batch * batch_size, sum(ends.values()) * batch_size):
            seen[next(order.candidates(example))[0]] += 1
        batch = sum(ends.values())
        for size, found in buckets.members.items():
            times = [seen[int(number)] for number in found]
            left = epoch * counts[size] - sum(times)
            assert 0 <= left < batch_size  # they wait for the next epoch
            assert max(times) - min(times) <= 1
            assert max(times) <= epoch


def test_a_seed_is_an_order_and_epochs_differ():
    buckets = Buckets({(64, 64): np.arange(8), (96, 48): np.arange(8, 16)})

    def take(seed):
        order = BucketOrder(buckets, 4, seed)
        return [order.find(example) for example in range(64)]

    assert take(1) == take(1) != take(2)
    first, second = (take(1)[start : start + 16] for start in (0, 16))
    assert sorted(first) == sorted(second) and first != second
    assert [place for bucket, place in first if bucket == 0] != [
        place for bucket, place in first if bucket == 1
    ]


@pytest.mark.parametrize("seed", range(8))
def test_the_first_batch_is_of_the_largest_size_and_later_epochs_are_mixed(seed):
    members = {(64, 64): np.arange(40), (80, 48): np.arange(40, 120)}
    order = BucketOrder(Buckets(members), 4, seed)
    assert order.find(0)[0] == 0
    kinds = [order.find(4 * batch)[0] for batch in range(30, 60)]
    assert kinds.count(0) == 10 and kinds != sorted(kinds) != kinds[::-1]


def test_few_pictures_wait_until_they_fill_a_batch():
    members = {(96, 48): np.array([7]), (64, 64): np.arange(5)}
    order = BucketOrder(Buckets(members), 4, 0)
    kinds = [order.find(4 * batch)[0] for batch in range(12)]
    # After 4 epochs of 6 pictures, the lone one has come 4 times: in one batch of 6.
    assert kinds[:6].count(0) == 1 and kinds[6:].count(0) == 1
    lone = kinds.index(0)
    assert [next(order.candidates(4 * lone + row))[0] for row in range(4)] == [7] * 4


def test_candidates_are_the_whole_bucket_and_then_the_others():
    members = {(96, 48): np.array([7, 9]), (64, 64): np.arange(4)}
    order = BucketOrder(Buckets(members), 2, 0)
    for example in range(12):
        found = list(order.candidates(example))
        bucket, place = order.find(example)
        own, other = (list(members.values())[each].tolist() for each in (bucket, 1 - bucket))
        assert [number for number, _ in found[: len(own)]] == own[place:] + own[:place]
        assert sorted(number for number, _ in found[len(own) :]) == sorted(other)
        assert all(number in members[size] for number, size in found)


def test_far_examples_are_found_without_all_before():
    buckets, batch_size = random_buckets(3)
    order = BucketOrder(buckets, batch_size, 0)
    assert order.find(10**12) == BucketOrder(buckets, batch_size, 0).find(10**12)


def test_no_picture_in_any_bucket():
    with pytest.raises(InputError, match="no picture is in a bucket .*max_crop=0.1.*: raise"):
        BucketOrder(Buckets({}, 0.1), 4, 0)


def test_a_line_says_how_many_have_which_size():
    buckets = Buckets({(96, 48): np.arange(1200), (64, 64): np.arange(4)}, 0.1, {"a": ["x"]})
    assert buckets.described() == (
        "1,204 pictures in buckets: 96x48 1,200, 64x64 4; left out: 1, for the reasons above"
    )
    assert buckets.commonest == (96, 48)
