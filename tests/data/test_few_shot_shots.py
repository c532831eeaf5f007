"""The draw of shots against its rules, and the files that it is written to."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spil_d2.data.datasets.few_shot_coco import parse_coco
from spil_d2.data.datasets.few_shot_prepare import ShotFacts, write_shot_files
from spil_d2.data.datasets.few_shot_shots import draw_images, fewx_rows, sample_shots
from spil_d2.data.datasets.fields import DatasetError

REPOSITORY = Path(__file__).resolve().parents[2]
LADDER = (1, 2, 3, 5, 10)


def random_content(seed: int, num_images: int = 60) -> dict:
    """Three classes, up to four boxes of one in an image, a tenth of them crowds."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(i), "file_name": f"{i}.jpg", "width": 50, "height": 50, "licence": 3}
        for i in rng.permutation(num_images) + 1
    ]
    annotations = []
    for image in images:
        for category in (1, 2, 3):
            for _ in range(int(rng.integers(0, 5))):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": category,
                        "bbox": [float(v) for v in rng.integers(1, 20, 4)],
                        "area": 9.0,
                        "iscrowd": int(rng.random() < 0.1),
                        "segmentation": [[1, 1, 2, 2, 3, 1]],
                    }
                )
    categories = [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def reachable(counts: list[int], target: int) -> bool:
    """Whether some of the numbers sum to the target, by trying all."""
    return any(
        sum(some) == target
        for size in range(len(counts) + 1)
        for some in itertools.combinations(counts, size)
    )


@pytest.mark.parametrize("seed", range(5))
def test_rules_of_a_draw(seed: int) -> None:
    content = random_content(seed)
    coco = parse_coco(Path("a.json"), content)
    by_id = {one["id"]: one for one in content["annotations"]}
    for category in (1, 2, 3):
        drawn = sample_shots(coco, category, LADDER, seed)
        previous: set[int] = set()
        for k in LADDER:
            ids = set(coco.annotation_ids[drawn[k]].tolist())
            shots = [by_id[i] for i in ids]
            assert len(ids) == k
            assert previous <= ids
            assert all(one["category_id"] == category and not one["iscrowd"] for one in shots)
            # Whole images: no box of the class in a drawn image is left out.
            images = {one["image_id"] for one in shots}
            whole = {
                one["id"]
                for one in content["annotations"]
                if one["image_id"] in images
                and one["category_id"] == category
                and not one["iscrowd"]
            }
            assert ids == whole
            previous = ids


def test_a_draw_does_not_depend_on_the_order_of_the_file() -> None:
    content = random_content(1)
    mixed = {
        **content,
        "images": content["images"][::-1],
        "annotations": content["annotations"][::-1],
    }
    one, other = (parse_coco(Path("a.json"), some) for some in (content, mixed))
    for seed in (0, 1):
        for k, rows in sample_shots(one, 2, LADDER, seed).items():
            again = sample_shots(other, 2, LADDER, seed)[k]
            assert one.annotation_ids[rows].tolist() == other.annotation_ids[again].tolist()


def test_a_draw_depends_on_the_seed_and_the_class_alone() -> None:
    coco = parse_coco(Path("a.json"), random_content(2))
    draws = {
        (seed, category): tuple(sample_shots(coco, category, [5], seed)[5])
        for seed in range(4)
        for category in (1, 2, 3)
    }
    assert len(set(draws.values())) == len(draws)
    fewer = random_content(2)
    fewer["annotations"] = [one for one in fewer["annotations"] if one["category_id"] != 1]
    other = parse_coco(Path("a.json"), fewer)
    for seed in range(4):
        again = sample_shots(other, 2, [5], seed)[5]
        ids = other.annotation_ids[again].tolist()
        assert ids == coco.annotation_ids[list(draws[seed, 2])].tolist()


@pytest.mark.parametrize("seed", range(30))
def test_exactly_k_is_found_whenever_it_can_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = {i: int(rng.integers(1, 7)) for i in range(int(rng.integers(1, 7)))}
    for k in range(1, 9):
        drawn = draw_images(counts, [k], np.random.default_rng(seed))
        assert (drawn is not None) == reachable(list(counts.values()), k)
        if drawn is not None:
            assert sum(counts[i] for i in drawn[k]) == k
        most = max(one for one in range(k + 1) if reachable(list(counts.values()), one))
        fewer = draw_images(counts, [k], np.random.default_rng(seed), allow_fewer=True)
        assert fewer is not None
        assert sum(counts[i] for i in fewer[k]) == most


def test_a_bad_first_choice_is_made_good() -> None:
    # 2 + 3 make five; after 1 for K = 1 only 1 + 2 + ... could, so the single must not be lost.
    counts = {1: 1, 2: 1, 3: 3, 4: 2}
    for seed in range(20):
        drawn = draw_images(counts, [1, 2, 5], np.random.default_rng(seed))
        assert drawn is not None
        assert [sum(counts[i] for i in drawn[k]) for k in (1, 2, 5)] == [1, 2, 5]


def test_all_images_are_drawn_alike() -> None:
    counts = dict.fromkeys(range(10), 1)
    rng = np.random.default_rng(0)
    tally: Counter[int] = Counter()
    for _ in range(4000):
        drawn = draw_images(counts, [2, 3], rng)
        assert drawn is not None
        tally.update(drawn[3])
    # 1200 each by chance; the standard deviation is 29.
    assert all(abs(tally[i] - 1200) < 150 for i in range(10))


def test_too_few_boxes() -> None:
    content = random_content(0, num_images=2)
    coco = parse_coco(Path("/data/a.json"), content)
    with pytest.raises(DatasetError, match="/data/a.json: class 'class 1'.*exactly .50. shots"):
        sample_shots(coco, 1, [50], 0)
    with pytest.raises(ValueError, match="from 1 on"):
        sample_shots(coco, 1, [0, 1], 0)


def test_fewx_rule_against_a_loop() -> None:
    rng = np.random.default_rng(3)
    content = random_content(3, num_images=400)
    for one in content["annotations"]:
        one["area"] = float(rng.uniform(50**2, 260**2))
    content["annotations"] = content["annotations"][::3]
    coco = parse_coco(Path("a.json"), content)
    taken: dict[int, list[int]] = {1: [], 2: []}
    for image in content["images"]:
        alone = [
            one
            for one in content["annotations"]
            if one["image_id"] == image["id"] and one["category_id"] in (1, 2)
        ]
        if len(alone) != 1 or alone[0]["iscrowd"] or not 4096 <= alone[0]["area"] <= 50176:
            continue
        if len(taken[alone[0]["category_id"]]) < 10:
            taken[alone[0]["category_id"]].append(alone[0]["id"])
    ids = coco.annotation_ids[fewx_rows(coco, (1, 2))].tolist()
    assert sorted(ids) == sorted(taken[1] + taken[2]) and len(ids) == 20
    with pytest.raises(DatasetError, match="FewX's rule finds"):
        fewx_rows(parse_coco(Path("a.json"), random_content(0)), (1,))


def test_files_have_the_published_names_and_format(tmp_path) -> None:
    content = random_content(4)
    (tmp_path / "a.json").write_text(json.dumps(content))
    out = tmp_path / "shots"
    facts = write_shot_files(tmp_path / "a.json", out, ["class 2"], [5, 1], [0, 3])
    assert ShotFacts.load(out) == facts
    assert (facts.shots, facts.seeds, facts.split.novel) == ((1, 5), (0, 3), (2,))
    files = {str(one.relative_to(out)) for one in out.rglob("*.json")} - {"split.json"}
    assert files == {
        f"{folder}full_box_{k}shot_class {i}_trainval.json"
        for folder in ("", "seed3/")
        for k in (1, 5)
        for i in (1, 2, 3)
    }
    raw = {one["id"]: one for one in content["annotations"]}
    images = {one["id"]: one for one in content["images"]}
    for name in files:
        found = json.loads((out / name).read_text())
        assert set(found) == {"info", "images", "annotations", "categories"}
        assert found["categories"] == content["categories"]
        assert all(one == raw[one["id"]] for one in found["annotations"])
        assert [one["id"] for one in found["images"]] == list(
            dict.fromkeys(one["image_id"] for one in found["annotations"])
        )
        assert all(one == images[one["id"]] for one in found["images"])
    with pytest.raises(FileExistsError, match="is there already"):
        write_shot_files(tmp_path / "a.json", out, ["class 2"], [1], [0])


def test_nothing_is_written_where_a_class_has_too_few(tmp_path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(random_content(4)))
    with pytest.raises(DatasetError, match="exactly"):
        write_shot_files(tmp_path / "a.json", tmp_path / "shots", ["class 1"], [1000], [0])
    assert not (tmp_path / "shots").exists()


@pytest.fixture(scope="module")
def command():
    path = REPOSITORY / "datasets" / "prepare_coco_few_shot.py"
    spec = importlib.util.spec_from_file_location("prepare_coco_few_shot", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_command(tmp_path, command, capsys) -> None:
    (tmp_path / "a.json").write_text(json.dumps(random_content(5)))
    (tmp_path / "novel.txt").write_text("class 3\n\nclass 1\n")
    arguments = ["--annotations", str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]
    arguments += ["--split", str(tmp_path / "novel.txt"), "--shots", "1", "2"]
    assert command(arguments) == 0
    assert ShotFacts.load(tmp_path / "out").split.novel == (1, 3)
    assert command(arguments) == 1
    assert command([*arguments, "--overwrite"]) == 0
    capsys.readouterr()
    assert command([*arguments[:4], "--novel", "no such", "--overwrite"]) == 1
    assert "no such" in capsys.readouterr().err
    assert command([*arguments[:4], "--split", "nowhere"]) == 1
    assert "none of ['coco', 'voc1'" in capsys.readouterr().err
