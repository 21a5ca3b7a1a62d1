import json
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from lit_modules.metrics.hamming import HammingRetrieval
from retrieval.asymmetric import asymmetric_average_precision
from retrieval.average_precision import average_precision, stable_average_precision
from retrieval.bootstrap import mean_interval
from retrieval.codes import pack, unpack
from retrieval.counting import count_distances
from retrieval.cumulative_gain import count_gains, normalized_gain_at
from retrieval.curves import precision_recall_curve
from retrieval.evaluation import CodeTable, Measures, evaluate
from retrieval.reranking import reranked_average_precision

BITS, QUERIES, ITEMS, CLASSES = 12, 23, 151, 4


def samples(rows, seed, multi_label=False):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, BITS, generator=generator)
    values[0, 0] = 0.0
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    if multi_label:
        labels = torch.nn.functional.one_hot(labels, CLASSES).float()
        labels[:, 0] = 1 - labels[:, 1]
    return values, labels


def feed(metric, values, labels, part, batch=16, order=None):
    index = torch.arange(len(values)) if order is None else order
    for chunk in index.split(batch):
        metric.update(values[chunk], labels[chunk], chunk, part, features(len(values))[chunk])


def features(rows, width=5):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


def evaluated(multi_label=False, batch=16, shuffled=False, **options):
    metric = HammingRetrieval(BITS, **options)
    for part, rows, seed in (("query", QUERIES, 0), ("database", ITEMS, 1)):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(9)) if shuffled else None
        feed(metric, *samples(rows, seed, multi_label), part, batch, order)
    return metric.compute()


def reference_counts(multi_label=False):
    (query, query_labels), (database, database_labels) = (
        samples(QUERIES, 0, multi_label),
        samples(ITEMS, 1, multi_label),
    )
    codes = pack((query > 0).numpy()), pack((database > 0).numpy())
    labels = query_labels.numpy(), database_labels.numpy()
    return count_distances(*codes, BITS, *labels), codes, labels


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("device_counting", ["never", "always"])
def test_values_are_those_of_the_functions(multi_label, device_counting):
    result = evaluated(multi_label, cuts=("all", 20), precision_at=(5,), radius=3, device_counting=device_counting)
    counts, codes, _ = reference_counts(multi_label)
    metrics = result.metrics
    assert metrics["map@all"] == average_precision(counts).mean()
    assert metrics["map@20"] == average_precision(counts, 20).mean()
    assert set(metrics) == {
        "map@all",
        "map@20",
        "precision@5",
        "recall@5",
        "precision@radius3",
        "recall@radius3",
        "empty_queries",
        "empty_balls@radius3",
        "bit_balance",
        "bit_correlation",
        "distinct_codes",
        "quantization_error",
    }
    curve = precision_recall_curve(counts)
    np.testing.assert_array_equal(result.curve.precision, curve.precision)
    assert metrics["precision@radius3"] == pytest.approx(curve.precision[3])
    assert metrics["recall@radius3"] == pytest.approx(curve.recall[3])
    assert result.empty_balls == metrics["empty_balls@radius3"] == curve.empty_balls[3]
    assert (result.num_queries, result.num_database) == (QUERIES, ITEMS)
    assert result.num_distinct_codes == len(np.unique(codes[1]))
    assert metrics["distinct_codes"] == result.num_distinct_codes / ITEMS
    database = samples(ITEMS, 1)[0].double()
    assert metrics["quantization_error"] == pytest.approx(((database.abs() - 1) ** 2).mean().item(), rel=1e-12)
    json.dumps(metrics, allow_nan=False)


EVERYTHING = {"ndcg_at": (10, "all"), "asymmetric": True, "rerank": 30, "bootstrap": 50, "seed": 3}


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_options_give_the_values_of_the_functions(multi_label, ties):
    result = evaluated(multi_label, cuts=("all", 20), ties=ties, **EVERYTHING)
    counts, codes, labels = reference_counts(multi_label)
    metrics = result.metrics
    graded = count_gains(counts, *codes, *labels)
    both = features(QUERIES).numpy(), features(ITEMS).numpy()
    query = samples(QUERIES, 0)[0].numpy()
    for cut, k in (("all", None), (20, 20)):
        asymmetric = asymmetric_average_precision(query, codes[1], BITS, *labels, k, ties)
        reranked = reranked_average_precision(*codes, counts, *both, *labels, 30, k, ties)
        for name, values in ((f"asymmetric_map@{cut}", asymmetric), (f"reranked_map@{cut}", reranked)):
            assert metrics[name] == values.mean()
            assert (metrics[f"{name}_low"], metrics[f"{name}_high"]) == mean_interval(values, 50, 3)
            np.testing.assert_array_equal(result.average_precisions[name], values)
    assert metrics["ndcg@10"] == normalized_gain_at(counts, graded, 10).mean()
    assert metrics["ndcg@all"] == normalized_gain_at(counts, graded).mean()
    assert metrics["map@all_low"] < metrics["map@all"] < metrics["map@all_high"]
    json.dumps(metrics, allow_nan=False)


def test_options_leave_what_was_measured_as_it_was():
    plain, more = evaluated().metrics, evaluated(**EVERYTHING).metrics
    assert {name: more[name] for name in plain} == plain


def test_order_and_batches_do_not_change_a_digit_of_the_options():
    first = evaluated(batch=16, **EVERYTHING)
    for other in (evaluated(batch=7, shuffled=True, **EVERYTHING), evaluated(batch=1, **EVERYTHING)):
        assert other.metrics == first.metrics


def test_an_interval_is_of_the_queries_that_count():
    def metrics(empty_queries):
        metric = HammingRetrieval(BITS, empty_queries=empty_queries, bootstrap=100)
        values, labels = samples(QUERIES, 0)
        labels[:5] = CLASSES
        feed(metric, values, labels, "query")
        feed(metric, *samples(ITEMS, 1), "database")
        result = metric.compute()
        kept = result.average_precisions["map@all"][0 if empty_queries == "zero" else 5 :]
        return result.metrics, mean_interval(kept, 100)

    for empty_queries in ("zero", "drop"):
        found, interval = metrics(empty_queries)
        assert (found["map@all_low"], found["map@all_high"]) == interval


def test_reranking_without_features_is_refused():
    metric = HammingRetrieval(BITS, rerank=10)
    values, labels = samples(QUERIES, 0)
    with pytest.raises(ValueError, match="rerank needs features"):
        metric.update(values, labels, torch.arange(QUERIES), "query")
    with pytest.raises(ValueError, match=r"those of 23 codes are \(23, D\)"):
        metric.update(values, labels, torch.arange(QUERIES), "query", torch.zeros(QUERIES))


def test_what_no_option_asks_for_is_not_kept():
    names = {name for name in HammingRetrieval(BITS)._defaults if name.endswith(("values", "features"))}
    assert names == set()
    asymmetric = {name for name in HammingRetrieval(BITS, asymmetric=True)._defaults if name.endswith("values")}
    assert asymmetric == {"query_values"}


def table(rows=4, bits=8, labels=None):
    labels = np.zeros(rows, np.int64) if labels is None else labels
    codes = pack(np.zeros((rows, bits), bool)) if rows else np.zeros((0, 1), np.uint64)
    return CodeTable(bits, codes, labels, np.arange(rows), np.zeros(rows))


@pytest.mark.parametrize(
    ("query", "database", "message"),
    [
        (table(0), table(), "the query part holds no sample"),
        (table(), table(0), "the database part holds no sample"),
        (table(bits=8), table(bits=12), "query codes have 8 bits and database codes 12"),
        (table(labels=np.zeros((4, 3), bool)), table(labels=np.zeros((4, 5), bool)), r"\(4, 3\) and .* \(4, 5\)"),
        (table(labels=np.zeros((4, 3), bool)), table(), "single labels"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(query, database, message):
    with pytest.raises(ValueError, match=message):
        evaluate(query, database)


def test_measures_that_need_more_than_a_table_has_say_so():
    for measures, message in ((Measures(asymmetric=True), "real values"), (Measures(rerank=2), "features of both")):
        with pytest.raises(ValueError, match=message):
            evaluate(table(), table(), measures)


@pytest.mark.parametrize("ties", ["expected", "optimistic", "pessimistic"])
@pytest.mark.parametrize("denominator", ["found", "min(R,k)", "R"])
def test_choices_reach_the_average_precision(ties, denominator):
    metrics = evaluated(cuts=(7,), ties=ties, denominator=denominator).metrics
    assert metrics["map@7"] == average_precision(reference_counts()[0], 7, ties, denominator).mean()


def test_stable_follows_the_index_not_the_order_of_arrival():
    _, codes, labels = reference_counts()
    expected = stable_average_precision(*codes, BITS, *labels, 9, "R").mean()
    for shuffled in (False, True):
        metrics = evaluated(shuffled=shuffled, cuts=(9,), ties="stable", denominator="R").metrics
        assert metrics["map@9"] == expected


def test_order_and_batches_do_not_change_a_digit():
    first = evaluated(batch=16)
    for other in (evaluated(batch=7, shuffled=True), evaluated(batch=1)):
        assert other.metrics == first.metrics
        np.testing.assert_array_equal(other.database.codes, first.database.codes)


def test_samples_that_come_twice_count_once():
    metric = HammingRetrieval(BITS)
    query, database = samples(QUERIES, 0), samples(ITEMS, 1)
    feed(metric, *query, "query")
    feed(metric, *database, "database")
    feed(metric, *database, "database", order=torch.tensor([3, 3, 0]))
    result = metric.compute()
    assert result.metrics == evaluated().metrics
    assert (result.num_database, result.database.duplicates, result.query.duplicates) == (ITEMS, 3, 0)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_result_holds_what_a_gallery_needs(multi_label):
    result = evaluated(multi_label, shuffled=True)
    values, labels = samples(ITEMS, 1, multi_label)
    np.testing.assert_array_equal(unpack(result.database.codes, BITS), (values > 0).numpy())
    np.testing.assert_array_equal(result.database.labels, labels.numpy())
    assert result.database.labels.dtype == (np.bool_ if multi_label else np.int64)
    np.testing.assert_array_equal(result.database.index, np.arange(ITEMS))
    with pytest.raises(FrozenInstanceError):
        result.metrics = {}


def test_labels_beyond_float_precision_and_below_zero_survive():
    metric = HammingRetrieval(BITS)
    labels = torch.tensor([2**53 + 1, -7])
    feed(metric, samples(2, 0)[0], labels, "query")
    feed(metric, samples(2, 1)[0], labels, "database")
    assert metric.compute().database.labels.tolist() == labels.tolist()


def test_empty_queries_are_reported_and_dropped_on_request():
    def result(empty_queries):
        metric = HammingRetrieval(BITS, empty_queries=empty_queries)
        values, labels = samples(QUERIES, 0)
        labels[:5] = CLASSES
        feed(metric, values, labels, "query")
        feed(metric, *samples(ITEMS, 1), "database")
        return metric.compute()

    zero, drop = result("zero"), result("drop")
    assert zero.empty_queries == drop.empty_queries == 5
    assert zero.metrics["empty_queries"] == drop.metrics["empty_queries"] == 5.0
    for name in ("map@all", "precision@10", "recall@radius2"):
        assert drop.metrics[name] == pytest.approx(zero.metrics[name] * QUERIES / (QUERIES - 5))


def test_reset_forgets_codes_and_the_kind_of_labels():
    metric = HammingRetrieval(BITS)
    feed(metric, *samples(QUERIES, 0), "query")
    metric.reset()
    feed(metric, *samples(QUERIES, 0, multi_label=True), "query")
    feed(metric, *samples(ITEMS, 1, multi_label=True), "database")
    assert metric.compute().metrics == evaluated(multi_label=True).metrics


def test_states_take_a_few_bytes_a_sample():
    metric = HammingRetrieval(64)
    rows = 1000
    metric.update(torch.randn(rows, 64), torch.ones(rows, 81), torch.arange(rows), "database")
    states = [each for name in metric._defaults if name != "label_columns" for each in getattr(metric, name)]
    assert sum(state.nbytes for state in states) == rows * (8 + 11 + 8 + 8)


def test_a_copy_goes_on_where_the_metric_was():
    metric = HammingRetrieval(BITS)
    feed(metric, *samples(QUERIES, 0), "query")
    copy = pickle.loads(pickle.dumps(metric))
    for each in (metric, copy):
        feed(each, *samples(ITEMS, 1), "database")
    assert copy.compute().metrics == metric.compute().metrics == evaluated().metrics


@pytest.mark.parametrize(("given", "missing"), [("query", "database"), ("database", "query")])
def test_a_part_without_samples_is_named(given, missing):
    metric = HammingRetrieval(BITS)
    feed(metric, *samples(QUERIES, 0), given)
    with pytest.raises(ValueError, match=f"no {missing} sample"):
        metric.compute()


def test_ranks_with_labels_of_several_widths_are_refused():
    metric = HammingRetrieval(BITS)
    feed(metric, *samples(QUERIES, 0, multi_label=True), "query")
    feed(metric, *samples(ITEMS, 1, multi_label=True), "database")
    # as torchmetrics leaves the state of three ranks, one of which had no sample
    metric.label_columns = torch.tensor([4, -1, 5])
    with pytest.raises(
        ValueError, match="multi-hot over 4 classes on one rank and multi-hot over 5 classes on another"
    ):
        metric.compute()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(bad):
    metric = HammingRetrieval(BITS)
    values, labels = samples(QUERIES, 0)
    values[6, 2] = bad
    feed(metric, values, labels, "query")
    feed(metric, *samples(ITEMS, 1), "database")
    with pytest.raises(ValueError, match=r"1 query samples .* index 6"):
        metric.compute()


@pytest.mark.parametrize(
    ("values", "labels", "index", "part", "error", "message"),
    [
        ((2, BITS + 1), torch.zeros(2).long(), torch.arange(2), "query", ValueError, f"bits={BITS}"),
        ((2, BITS), torch.zeros(3).long(), torch.arange(2), "query", ValueError, "do not go with"),
        ((2, BITS), torch.zeros(2).long(), torch.arange(3), "query", ValueError, "do not go with"),
        ((2, BITS), torch.zeros(2), torch.arange(2), "query", TypeError, "integers"),
        ((2, BITS), torch.zeros(2).long(), torch.zeros(2), "query", TypeError, "integers"),
        ((2, BITS), torch.zeros(2).long(), torch.arange(2), "gallery", ValueError, "query, database"),
    ],
)
def test_batches_that_do_not_fit_are_refused(values, labels, index, part, error, message):
    with pytest.raises(error, match=message):
        HammingRetrieval(BITS).update(torch.zeros(values), labels, index, part)


def test_one_evaluation_has_one_kind_of_labels():
    metric = HammingRetrieval(BITS)
    feed(metric, *samples(QUERIES, 0), "query")
    with pytest.raises(ValueError, match="multi-hot over 4 classes, those before were single labels"):
        feed(metric, *samples(ITEMS, 1, multi_label=True), "database")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "at least 1 bit"),
        ({"bits": 8, "radius": 9}, "radius=9"),
        ({"bits": 8, "cuts": (0,)}, "k=0"),
        ({"bits": 8, "cuts": ("most",)}, "'all' and whole numbers"),
        ({"bits": 8, "precision_at": (0,)}, "k=0"),
        ({"bits": 8, "ties": "random"}, "expected, optimistic"),
        ({"bits": 8, "cuts": (), "precision_at": (), "denominator": "k"}, "found, min"),
        ({"bits": 8, "empty_queries": "skip"}, "zero, drop"),
        ({"bits": 8, "device_counting": True}, "auto, never, always"),
        ({"bits": 8, "ndcg_at": ("most",)}, "ndcg_at holds 'most'"),
        ({"bits": 8, "ndcg_at": (0,)}, "k=0"),
        ({"bits": 8, "ndcg_gain": "cubic"}, "exponential, linear"),
        ({"bits": 8, "rerank": 0}, "rerank=0"),
        ({"bits": 8, "bootstrap": -1}, "bootstrap=-1"),
    ],
)
def test_arguments_outside_their_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HammingRetrieval(**options)


@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_the_compiled_loops_leave_torch_its_threads(ties):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            evaluated(ties=ties, device_counting="never")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
