"""The tables of methods in docs/ are those that conf/task/ and the methods' docstrings give."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from launch.check import check_overrides
from launch.compose import compose_config

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = generate
spec.loader.exec_module(generate)

PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def methods():
    return generate.read_methods()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- methods of " in page.read_text()], ids=lambda p: p.name
)
def test_tables_are_up_to_date(page, methods):
    text = page.read_text(encoding="utf-8")
    assert generate.filled(text, methods) == text, "run python docs/generate.py"


def test_every_task_is_a_row_of_its_pillar(methods):
    assert {method.name for method in methods} == {path.stem for path in (ROOT / "conf" / "task").glob("*.yaml")}
    table = generate.table_of("hashing", methods)
    assert table.count("\n| `") == sum(method.pillar == "hashing" for method in methods)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
    assert widths == {6}


def test_hashing_methods_tell_their_loss_and_defaults(methods):
    hashing = {method.name: method for method in methods if method.pillar == "hashing"}
    assert [name for name, method in hashing.items() if not method.loss] == []
    assert [name for name, method in hashing.items() if not method.paper] == ["classify"]
    greedyhash = hashing["greedyhash"]
    assert greedyhash.what.startswith("GreedyHash: classify the signs")
    assert greedyhash.paper.startswith("Su et al.: [Greedy Hash: Towards Fast")
    assert greedyhash.paper.endswith(", NeurIPS 2018")
    assert greedyhash.defaults["alpha"] == 0.1
    assert not {"bits", "name", "_target_", "defaults"} & set(greedyhash.defaults)
    assert hashing["itq"].defaults == {"iterations": 50, "fit_samples": None}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (
            'Li and Wang, "A Title", AAAI 2018. https://x.org/a.pdf',
            "Li and Wang: [A Title](https://x.org/a.pdf), AAAI 2018",
        ),
        ('A, B and C, "T: U", CVPR 2020; the code: github.com/x', "A et al.: T: U, CVPR 2020"),
        ("Loss: mean(x)", ""),
        ('With `a=1` as in B et al., "A Title", NeurIPS 2019.', ""),
        ("Nothing of that kind.", ""),
    ],
)
def test_references(text, reference):
    assert generate.as_reference(text) == reference


def test_a_task_takes_over_what_it_inherits(tmp_path):
    base = {"name": "a", "_target_": "lit_modules.hashing.dpsh.DPSH", "alpha": 1, "needs": ["retrieval"]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"defaults": ["a", "_self_"], "task": {"name": "b", "alpha": 2}}))
    method = generate.read_method(tmp_path / "b.yaml")
    assert (method.name, method.pillar, method.defaults, method.needs) == ("b", "hashing", {"alpha": 2}, ("retrieval",))


@pytest.mark.parametrize("target", ["", "retrieval.codes.pack"])
def test_a_task_without_a_module_is_named(tmp_path, target):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"name": "a", "_target_": target}))
    with pytest.raises(ValueError, match=r"a\.yaml: _target_"):
        generate.read_methods(tmp_path)


def test_a_stale_page_is_filled(methods):
    page = "before\n<!-- methods of hashing -->\nold\n<!-- end of methods -->\nafter\n"
    filled = generate.filled(page, methods)
    assert "old" not in filled
    assert "| `csq` |" in filled
    assert generate.filled(filled, methods) == filled


def test_transductive_methods_are_those_whose_class_says_so(methods):
    told = {method.name for method in methods if method.what.endswith("Transductive.")}
    assert told == {method.name for method in methods if is_transductive(method.name)}
    assert told >= {"inmap", "transclip", "cascade"}


def is_transductive(name):
    task = compose_config([f"task={name}"]).task
    heads = [task, *(stage.head for stage in (task.get("graph") or {}).values())]
    return any(getattr(get_object(head._target_), "transductive", False) is True for head in heads)


def test_whether_a_method_is_transductive_is_no_setting():
    (problem,) = check_overrides(["task=transclip", "task.transductive=false"])
    assert problem.key == "task.transductive"


def test_a_nested_default_is_left_to_its_file(methods):
    (cascade,) = [method for method in methods if method.name == "cascade"]
    row = next(line for line in generate.table_of("fewshot", methods).splitlines() if line.startswith("| `cascade`"))
    assert isinstance(cascade.defaults["graph"], dict)
    assert "`graph={...}`" in row
    assert "`encoders={}`" in row
