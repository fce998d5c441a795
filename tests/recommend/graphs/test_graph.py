import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmtoolkit.core.errors import DataError
from mmtoolkit.recommend.config import DataSettings, GraphSettings
from mmtoolkit.recommend.data.dataset import Modality, RecommendData
from mmtoolkit.recommend.graphs.graph import (
    Graph,
    behaviour_graph,
    edge_purity,
    list_graph,
    nearest_neighbours,
    normalise_symmetric,
    semantic_graph,
    user_item_graph,
    weighted_list_graph,
)

CPU = torch.device("cpu")


def test_behaviour_graph_by_hand():
    # items 0 and 1 share users 0, 1, 2; items 1 and 2 share users 2, 3
    train = sp.csr_array(np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]], np.float32))
    three = behaviour_graph(train, GraphSettings(co_occurrence_threshold=3)).toarray()
    assert three.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    two = behaviour_graph(train, GraphSettings(co_occurrence_threshold=2)).toarray()
    assert two.tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    one = behaviour_graph(train, GraphSettings(co_occurrence_threshold=2, behaviour_neighbours=1))
    assert one.toarray().tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 1]]
    share = behaviour_graph(train, GraphSettings(co_occurrence_threshold=2, behaviour_weights="count"))
    assert share.toarray()[1] == pytest.approx([1, 1, 2 / 3])


@pytest.mark.parametrize("k", [0, 2, 10])
@pytest.mark.parametrize("threshold", [1, 3])
@pytest.mark.parametrize("block", [700, 2**24])
def test_behaviour_graph_against_a_double_loop(k, threshold, block, monkeypatch):
    monkeypatch.setattr("mmtoolkit.recommend.graphs.graph.BLOCK_ENTRIES", block)
    train = sp.random_array((60, 25), density=0.3, format="csr", rng=1, dtype=np.float32)
    train.data[:] = 1
    dense = train.toarray()
    expected = np.eye(25)
    for i in range(25):
        counts = {j: dense[:, i] @ dense[:, j] for j in range(25) if j != i}
        kept = sorted((j for j in counts if counts[j] >= threshold), key=lambda j: (-counts[j], j))
        expected[i, kept[:k]] = 1
    settings = GraphSettings(co_occurrence_threshold=threshold, behaviour_neighbours=k)
    assert np.array_equal(behaviour_graph(train, settings).toarray(), expected)


def test_nearest_neighbours_against_brute_force():
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    lists = nearest_neighbours(x, 5, CPU)
    assert lists[:, 0].tolist() == list(range(50))
    assert [set(row) for row in lists] == [set(row) for row in np.argsort(-(unit @ unit.T))[:, :5]]


def test_items_without_features_are_alone():
    x = np.array([[1, 0], [0, 0], [1, 0.1]], np.float32)
    graph = list_graph(nearest_neighbours(x, 2, CPU)).toarray()
    assert graph.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_lists_longer_than_the_catalogue_are_cut():
    assert nearest_neighbours(np.eye(3, dtype=np.float32), 10, CPU).shape == (3, 3)


def data_with(**modalities: Modality) -> RecommendData:
    empty = sp.csr_array((1, 3), dtype=np.float32)
    return RecommendData("x", empty, empty, empty, modalities)


def test_semantic_graph_weighs_any_number_of_modalities():
    a = Modality(None, {2: np.array([[0, 1], [1, 0], [2, 0]])})
    b = Modality(None, {2: np.array([[0, 2], [1, 2], [2, 1]])})
    data = data_with(a=a, b=b)
    chosen = DataSettings(modalities={"a": 0.1, "b": 0.9})
    expected = [[1, 0.1, 0.9], [0.1, 1, 0.9], [0.1, 0.9, 1]]
    assert semantic_graph(data, chosen, 2, CPU).toarray() == pytest.approx(np.array(expected))
    alone = semantic_graph(data, DataSettings(modalities={"a": 1, "b": 0}), 2, CPU).toarray()
    assert alone.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1]]
    third = semantic_graph(data_with(a=a, b=b, c=a), DataSettings(), 2, CPU)
    assert third.sum() == pytest.approx(6)


def test_absent_modality_and_list_length_are_named():
    data = data_with(a=Modality(None, {2: np.zeros((3, 2), np.int64)}))
    with pytest.raises(DataError, match="modality 'text' is not in the data set, which has a"):
        semantic_graph(data, DataSettings(modalities={"text": 1.0}), 2, CPU)
    with pytest.raises(DataError, match=r"set graph\.neighbours to 2"):
        semantic_graph(data, DataSettings(), 10, CPU)


def test_symmetric_normalisation_by_hand_and_on_random_graphs():
    graph = sp.csr_array(np.array([[1, 1], [0, 4]], np.float32))
    assert normalise_symmetric(graph).toarray() == pytest.approx(np.array([[0.5, 1 / 8**0.5], [0, 1]]))
    graph = sp.random_array((30, 30), density=0.1, format="csr", rng=2)
    dense, degree = graph.toarray(), graph.toarray().sum(1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    assert normalise_symmetric(graph).toarray() == pytest.approx(scale[:, None] * dense * scale)


def test_user_item_graph_by_hand():
    graph = user_item_graph(sp.csr_array(np.array([[1.0, 1.0]]))).toarray()
    assert graph == pytest.approx(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]) / 2**0.5)


def test_graph_products_and_gradients_of_a_lopsided_matrix():
    matrix = sp.random_array((7, 5), density=0.4, format="csr", rng=3, dtype=np.float32)
    x = torch.randn(5, 3, requires_grad=True)
    dense = torch.from_numpy(matrix.toarray())
    graph = Graph.from_scipy(matrix, CPU)
    y = graph.propagate(x)
    edges, weights = graph.edges  # what GPUs multiply with
    assert torch.allclose(edges.matmul(x, weights), y, atol=1e-6)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    assert torch.allclose(y, dense @ x, atol=1e-6)
    assert torch.allclose(x.grad, dense.T @ weight, atol=1e-6)


def test_weighted_lists_and_purity():
    lists = torch.tensor([[0, 1], [1, 2], [2, 0]])
    scores = torch.tensor([[1.0, -0.5], [1.0, 0.5], [1.0, 0.25]])
    assert weighted_list_graph(lists, scores, "binary").toarray().sum() == 6
    graph = weighted_list_graph(lists, scores, "score")
    assert graph.toarray().tolist() == [[1, 0, 0], [0, 1, 0.5], [0.25, 0, 1]]
    assert edge_purity(weighted_list_graph(lists, scores, "binary"), np.array([0, 0, 1])) == 1 / 3
