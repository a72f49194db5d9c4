"""Faults in buckets: what is cropped, in which order batches come, who reads, what is counted."""

BUCKETS, LOADER, IMAGES = (f"moa_jax/data/{name}.py" for name in ("buckets", "loader", "images"))
AUGMENT, PACKED, SIZES = (f"moa_jax/data/{name}.py" for name in ("augment", "packed", "sizes"))
ENCODED, SPEED = "moa_jax/data/encoded.py", "moa_jax/training/throughput.py"
HOSTS, FEED = "moa_jax/training/hosts.py", "moa_jax/training/feed.py"
B = "tests/data/test_buckets.py::test_"
L = "tests/data/test_bucketed_loader.py::test_"
S = "tests/data/test_sizes.py::test_"
T = "tests/training/test_buckets.py::test_"
EQUAL = f"{B}after_each_epoch_all_were_seen_as_often_up_to_what_fills_no_batch"
FIRST = f"{B}the_first_batch_is_of_the_largest_size_and_later_epochs_are_mixed"
CHANGED = f"{L}a_picture_that_changed_its_shape_since_is_not_cropped_to_the_old_one"
SHAPES = f"{L}batches_have_the_size_of_their_bucket_and_nothing_else_changes"
UPRIGHT = f"{S}a_size_is_that_of_the_upright_picture"
LEAST = f"{B}no_other_size_crops_less_and_too_much_is_a_fault"

MUTATIONS = [
    (
        "a picture goes to the size that crops most",
        BUCKETS,
        "return min(self.sizes, key=lambda size: cropped(picture, size))",
        "return max(self.sizes, key=lambda size: cropped(picture, size))",
        LEAST,
    ),
    (
        "the first epoch's leftovers are dropped",
        BUCKETS,
        "epochs * count // self._batch_size for count",
        "epochs * (count // self._batch_size) for count",
        EQUAL,
    ),
    (
        "each epoch begins its buckets anew",
        BUCKETS,
        "(before[bucket] + earlier) * self._batch_size + row",
        "earlier * self._batch_size + row",
        EQUAL,
    ),
    (
        "the smallest size comes first",
        BUCKETS,
        "largest = int(np.argmin(buckets))",
        "largest = int(np.argmax(buckets))",
        FIRST,
    ),
    (
        "every epoch mixes its batches alike",
        BUCKETS,
        "np.random.default_rng([self._seed, epoch]).shuffle(buckets)",
        "buckets.sort()",
        FIRST,
    ),
    (
        "a picture that changed since is cropped to its old shape",
        LOADER,
        "fit = Fit((size,), config.max_crop) if buckets else None",
        "fit = None",
        CHANGED,
    ),
    (
        "a place inside a batch stays there",
        LOADER,
        "self._examples = math.ceil(self._examples / self._batch_size) * self._batch_size",
        "pass",
        f"{L}another_batch_size_resumes_at_a_whole_batch",
    ),
    (
        "width and height are mixed up in the crop",
        AUGMENT,
        "min(wide, high * size[0] / size[1])",
        "min(wide, high * size[1] / size[0])",
        "tests/data/test_augment.py::test_a_crop_of_another_shape_by_hand",
    ),
    (
        "a turned photo keeps the size of the file",
        IMAGES,
        "return (height, width) if turn in (5, 6, 7, 8) else (width, height)",
        "return width, height",
        UPRIGHT,
    ),
    (
        "a packed width is its height",
        PACKED,
        "return [(int(width), int(height)) for width, height in parts]",
        "return [(int(height), int(width)) for width, height in parts]",
        f"{S}a_packed_folder_knows_its_sizes_without_reading_a_record",
    ),
    (
        "encoded latents are turned",
        ENCODED,
        "shape = (height // self._downscale, width // self._downscale,",
        "shape = (width // self._downscale, height // self._downscale,",
        f"{T}encoded_pictures_have_the_shapes_of_their_buckets",
    ),
    (
        "the step under way is counted before it ends",
        SPEED,
        "self._counted.popleft() for",
        "self._counted.pop() for",
        f"{T}the_work_is_the_mean_over_the_steps_of_each_shape",
    ),
    (
        "every host reads the first part",
        HOSTS,
        "start = min(most * jax.process_index(), count)",
        "start = 0",
        f"{T}hosts_read_a_part_each_and_get_all",
    ),
    (
        "the U-Net has a level less",
        FEED,
        "2 ** (levels - 1)",
        "2 ** (levels - 2)",
        f"{T}the_sizes_are_those_that_the_networks_can_halve",
    ),
]
