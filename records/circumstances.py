"""Under which circumstances figures came about: dates, data, protocol, weights, hardware, versions, commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from records.markdown import inline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from records.result import Result


def circumstance_rows(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return name and text of each circumstance of some runs, one at least; what differs between them is listed."""
    days = sorted({result.started[:10] for result in results})
    rows = [("runs", str(len(results))), ("dates", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")]
    rows.append(("classes", _joined(str(result.num_classes) for result in results)))
    rows.append(("samples", _joined(_sizes(result.data_sizes) for result in results)))
    for name in dict.fromkeys(name for result in results for name in result.protocol):
        told = [str(result.protocol[name]) for result in results if name in result.protocol]
        of_some = "" if len(told) == len(results) else f" (of {len(told)} of {len(results)} runs)"
        rows.append((name.replace("_", " "), _joined(told) + of_some))
    rows.append(("lists of samples", f"{len({result.fingerprint for result in results})} different"))
    rows.append(("weights tested", _joined(_weights(result) for result in results)))
    rows.append(("hardware", _joined(_machine(result.hardware) for result in results)))
    rows.append(("versions", _joined(_versions(result.versions) for result in results)))
    rows.append(("commits", _joined(_commit(result.git) for result in results)))
    return [(name, text) for name, text in rows if text]


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(inline(text) for text in texts if text and text != "None"))


def _weights(result: Result) -> str:
    return str(result.checkpoint_used) if result.is_trained_in_steps else "not trained in steps"


def _sizes(sizes: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} {size:,}" for name, size in (sizes or {}).items())


def _machine(hardware: Mapping[str, Any]) -> str:
    gpus: list[str] = hardware.get("gpus") or []
    memory = f"{hardware.get('memory_gib')} GiB"
    processor = f"{hardware.get('cpu')}, {hardware.get('cores')} cores, {memory}"
    return f"{', '.join(gpus)}; {processor}" if gpus else f"{processor}, no GPU"


def _versions(versions: Mapping[str, str | None]) -> str:
    shown = ("python", "torch", "lightning", "hash-tail-shot")
    return ", ".join(f"{name} {versions[name]}" for name in shown if versions.get(name))


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return ""
    return f"`{git['commit'][:10]}`" + (" with uncommitted changes" if git["dirty"] else "")
