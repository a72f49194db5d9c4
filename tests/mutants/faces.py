"""Faults in what finds, compares and counts faces."""

ALIGN, YUNET = "moa_jax/faces/align.py", "moa_jax/faces/yunet.py"
DLIB, AURAFACE = "moa_jax/faces/dlib_resnet.py", "moa_jax/faces/auraface.py"
ROOM = "moa_jax/evaluation/faces/"
E = "tests/evaluation/faces/"

MUTATIONS = [
    (
        "faces are cut out half a pixel off",
        ALIGN,
        "back[:, 2] += 0.5 - back[:, :2] @ (0.5, 0.5)",
        "back[:, 2] += 1.0 - back[:, :2] @ (0.5, 0.5)",
        "tests/faces/test_align.py::test_a_cut_out_face_is_opencvs",
    ),
    (
        "the detector sees red for blue",
        YUNET,
        "small[..., ::-1].transpose(2, 0, 1)",
        "small.transpose(2, 0, 1)",
        "tests/faces/test_yunet.py::test_faces_are_opencvs[one]",
    ),
    (
        "overlapping boxes are all kept",
        YUNET,
        "<= OVERLAP for j in chosen",
        "<= 1.0 for j in chosen",
        "tests/faces/test_yunet.py::test_overlapping_boxes_are_one_face",
    ),
    (
        "folds of clothes are faces",
        DLIB,
        "MIN_SCORE = 0.35",
        "MIN_SCORE = 0.0",
        "tests/faces/test_dlib_resnet.py::test_a_face_is_where_it_is",
    ),
    (
        "an ArcFace network gets pixels from 0 to 2",
        AURAFACE,
        "(np.asarray(face, np.float32) - 127.5) / 127.5",
        "np.asarray(face, np.float32) / 127.5",
        "tests/faces/test_auraface.py::test_pixels_go_in_aligned_red_first_and_from_minus_1_to_1",
    ),
    (
        "two people may share a face",
        f"{ROOM}likeness.py",
        "left[row], left[:, column] = -np.inf, -np.inf",
        "left[row] = -np.inf",
        f"{E}test_likeness.py::test_the_most_alike_get_each_other_first",
    ),
    (
        "two people count by the more alike",
        f"{ROOM}likeness.py",
        "max(0.0, min(cosines))",
        "max(0.0, max(cosines))",
        f"{E}test_likeness.py::test_two_people_count_by_the_less_alike",
    ),
    (
        "a pair is drawn as often as one of its people",
        "moa_jax/evaluation/statistics.py",
        "np.prod(drawn, axis=0)",
        "np.max(drawn, axis=0)",
        "tests/evaluation/test_statistics.py::test_pairs_are_drawn_by_their_people",
    ),
    (
        "a text's feature is read from its padding",
        f"{ROOM}clip_score.py",
        "last = (ids == end).argmax(axis=1)",
        "last = jnp.full(len(ids), -1)",
        f"{E}test_clip_score.py::test_a_cosine_is_transformers",
    ),
    (
        "people are drawn from other noise",
        f"{ROOM}drawing.py",
        "jax.random.key(seed), trial.prompt.index",
        "jax.random.key(seed), len(trial.name)",
        f"{E}test_drawing.py::test_noise_is_that_of_the_prompt_and_not_of_the_person",
    ),
    (
        "every device draws the whole batch",
        "moa_jax/sampling/compiled.py",
        'self.rows = PartitionSpec("rows")',
        "self.rows = PartitionSpec()",
        "tests/sampling/test_spread.py::test_devices_draw_the_same[2-1]",
    ),
]
