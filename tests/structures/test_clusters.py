"""Cluster assignments: numbering by size, noise, round trip, damaged files."""

from __future__ import annotations

import re

import numpy as np
import pytest

from spil_d2.structures import NOISE, ClusterAssignment


def test_clusters_are_numbered_by_size_and_ties_by_their_first_member() -> None:
    clusters = ClusterAssignment.from_labels(np.array([7, 2, -1, 9, 9, 2, 9, 7, -5]))
    assert clusters.labels.tolist() == [1, 2, NOISE, 0, 0, 2, 0, 1, NOISE]
    assert clusters.sizes.tolist() == [3, 2, 2]
    assert (clusters.num_clusters, clusters.num_noise, len(clusters)) == (3, 2, 9)
    assert clusters.members(2).tolist() == [1, 5]
    with pytest.raises(IndexError, match=r"^cluster 3 is not one of 0 \.\. 2$"):
        clusters.members(3)


def test_members_of_clusters_beyond_the_largest_are_noise() -> None:
    clusters = ClusterAssignment.from_labels(np.array([5, 4, 4, 5, 5, 3]), max_clusters=1)
    assert clusters.labels.tolist() == [0, NOISE, NOISE, 0, 0, NOISE]


@pytest.mark.parametrize("labels", [[], [-1, -1]])
def test_there_may_be_no_cluster(labels: list[int]) -> None:
    clusters = ClusterAssignment.from_labels(np.array(labels, int), max_clusters=3)
    assert clusters.num_clusters == 0 and clusters.num_noise == len(labels)
    with pytest.raises(IndexError, match="cluster 0"):
        clusters.members(0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 1]), "largest first"),
        (np.array([0, 0, 2]), "without gaps"),
        (np.array([0, 0, 2, 2]), "without gaps"),
        (np.array([0, 0, 0, 1, 2, 2]), "largest first"),
        (np.array([0, 2]), "^2 regions have no cluster of number 2$"),
        (np.array([-2, 0]), "at least -1"),
        (np.array([0], np.int32), "int64"),
        (np.zeros((2, 2), np.int64), "int64"),
    ],
)
def test_other_labels_are_errors(labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterAssignment(labels)


def test_the_sizes_of_the_first_20_clusters_are_told() -> None:
    labels = np.array([*range(22), 21])
    message = (
        "clusters are numbered from 0 without gaps, the largest first, but their sizes are "
        f"{[1] * 20}; ClusterAssignment.from_labels numbers them"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ClusterAssignment(labels)


def test_clusters_survive_the_disk(tmp_path) -> None:
    clusters = ClusterAssignment.from_labels(np.array([3, -1, 3, 1]))
    clusters.save(tmp_path / "clusters.npz")
    assert np.array_equal(ClusterAssignment.load(tmp_path / "clusters.npz").labels, clusters.labels)


@pytest.mark.parametrize("content", [b"", b"junk", "cut"])
def test_a_damaged_file_is_named(tmp_path, content: bytes | str) -> None:
    path = tmp_path / "clusters.npz"
    ClusterAssignment.from_labels(np.arange(50)).save(path)
    path.write_bytes(path.read_bytes()[:60] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"clusters\.npz is not a readable cluster assignment: "):
        ClusterAssignment.load(path)
    with pytest.raises(FileNotFoundError):
        ClusterAssignment.load(tmp_path / "none.npz")


def test_small_integers_are_labels_and_other_numbers_are_not(tmp_path) -> None:
    np.savez(tmp_path / "small.npz", labels=np.array([0, -1, 0], np.int8))
    assert ClusterAssignment.load(tmp_path / "small.npz").labels.tolist() == [0, -1, 0]
    np.savez(tmp_path / "other.npz", labels=np.zeros(2))
    with pytest.raises(ValueError, match="labels is float64 .*, must be integers"):
        ClusterAssignment.load(tmp_path / "other.npz")
