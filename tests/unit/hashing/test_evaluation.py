"""What all hashing methods share in their evaluation."""

import lightning as L
import pytest
import torch
from small_tasks import small_batch, small_task
from torch.utils.data import DataLoader

from lit_modules.hashing.classify import Classify
from lit_modules.metrics.hamming import HammingRetrieval
from records.notices import RunWarning


def evaluate(queries, database, **options):
    module = small_task(Classify)
    module.metric = HammingRetrieval(module.bits, **options)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.test(module, [DataLoader(part, batch_size=None) for part in (queries, database)], verbose=False)
    return module


def test_samples_that_come_twice_are_told_and_counted_once():
    queries, database = [small_batch(6)], [small_batch(8, seed=1)]
    plain = evaluate(queries, database).exact_metrics
    with pytest.warns(RunWarning, match="3 samples of the test database were evaluated more than once") as caught:
        twice = evaluate(queries, [*database, small_batch(3, seed=1)])
    assert [str(one.message) for one in caught if "test query" in str(one.message)] == []
    assert twice.exact_metrics == plain
    assert twice.retrieval_result.database.duplicates == 3


def test_counts_of_empty_queries_and_balls_are_logged():
    queries, database = [small_batch(6)], [small_batch(8, seed=1)]
    queries[0]["label"] = torch.tensor([0, 0, 0, 0, 0, 3])
    database[0]["label"] = torch.full((8,), 3)
    module = evaluate(queries, database)
    assert module.exact_metrics["test/empty_queries"] == module.retrieval_result.empty_queries == 5
    assert module.exact_metrics["test/empty_balls@radius2"] == module.retrieval_result.empty_balls


def test_features_reach_the_reranking():
    queries, database = [small_batch(6)], [small_batch(8, seed=1)]
    module = evaluate(queries, database, rerank=8, asymmetric=True).eval()
    result = module.retrieval_result
    images = {"query": queries[0], "database": database[0]}
    features = {part: module.encode(batch).detach() for part, batch in images.items()}
    torch.testing.assert_close(torch.from_numpy(result.database.features), features["database"])
    torch.testing.assert_close(torch.from_numpy(result.query.features), features["query"])
    values = module.head(features["query"])["h"].detach()
    torch.testing.assert_close(torch.from_numpy(result.query.values), values)
    assert result.database.values is None
    assert {"test/reranked_map@all", "test/asymmetric_map@all"} <= set(module.exact_metrics)
