"""The YAML block of a card: what the Hub indexes, written and checked by its rules without asking it."""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import CardError
from ..storage.model_folder import is_repo_id
from .facts import Card
from .kinds import Kind


__all__ = ["NO_LICENCE", "WRITTEN", "base_tag", "check", "front_matter", "metadata", "split"]

LIBRARY_TAG = "refinestyle"

NO_LICENCE = (
    "No licence is stated, and none is assumed. Add one: Card(license=...), or --license on the command line, an id\n"
    "such as apache-2.0 or cc-by-nc-4.0; or 'other' with a license_name and a license_link."
)

LICENCE_KEYS = frozenset({"license", "license_name", "license_link"})
RESULTS = frozenset({"model-index", "model_name"})  # made of the metrics
WRITTEN = LICENCE_KEYS | RESULTS | {"library_name", "pipeline_tag", "base_model", "datasets", "tags"}  # keys of ours

# https://huggingface.co/docs/hub/repositories-licenses, without "unknown"
# fmt: off
LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
    "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1",
    "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "other",
})
# fmt: on


def metadata(kind: Kind, config: dict[str, Any], card: Card, name: str) -> dict[str, Any]:
    """What we say in the YAML block of the card of ``name``."""
    from huggingface_hub import EvalResult, ModelCardData

    base = config.get("base")
    network = [base["architecture"].partition("-")[0]] if base else []
    tags = [LIBRARY_TAG, f"{LIBRARY_TAG}-{kind.word}", *network, *kind.tags, *card.tags]
    results = [
        EvalResult(
            task_type=kind.task,
            dataset_type=re.sub(r"[^a-z0-9]+", "-", f.dataset.lower()).strip("-"),
            dataset_name=f.dataset,
            metric_type=re.sub(r"[^a-z0-9]+", "_", f.name.lower()).strip("_"),
            metric_name=f.name,
            metric_value=f.value,
            metric_config=f.version or None,
            metric_args={k: v for k, v in (("samples", f.samples), ("seed", f.seed)) if v is not None} or None,
        )
        for f in card.metrics
        if not f.reference
    ]
    data = ModelCardData(
        license=card.license,
        license_name=card.license_name,
        license_link=card.license_link,
        library_name="refinestyle-hub",
        pipeline_tag=kind.task,
        # the Hub refuses a base that is not a repo
        base_model=card.base_model if card.base_model and is_repo_id(card.base_model) else None,
        datasets=list(card.datasets) or None,
        tags=[*dict.fromkeys(tags), *([base_tag(base["digest"])] if base else [])],
        model_name=name,
        eval_results=results or None,
    )
    found: dict[str, Any] = data.to_dict()
    return found


def base_tag(digest: str) -> str:
    """The tag by which the Hub finds what was made for a generator."""
    return f"{LIBRARY_TAG}-base-{digest}"


def front_matter(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Our keys, then the ones that people added; their own tags and datasets stay too."""
    from huggingface_hub import CardData

    stale = {*ours, *RESULTS, *(LICENCE_KEYS if "license" in ours else ())}
    merged = {**ours, **{key: value for key, value in theirs.items() if key not in stale}}
    for key in ("tags", "datasets"):
        if isinstance(theirs.get(key), list):
            kept = [x for x in theirs[key] if not str(x).startswith(f"{LIBRARY_TAG}-")]
            merged[key] = list(dict.fromkeys([*ours.get(key, []), *kept]))
    return CardData(**merged).to_yaml()


def split(text: str) -> tuple[dict[str, Any], str]:
    """Metadata and body of a card. Raises CardError if its YAML cannot be read."""
    from huggingface_hub import ModelCard

    text = text.replace("\r\n", "\n")
    if not text.lstrip().startswith("---\n"):
        return {}, text
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except Exception as error:  # whatever the YAML library raises
        raise CardError(
            f"The YAML block of the model card cannot be read: {' '.join(str(error).split())[:200]}"
        ) from None
    return card.data.to_dict(), card.text


def check(text: str) -> None:
    """Check a card before anything is uploaded, by the Hub's rules and without asking it.

    Raises:
        CardError: There is no licence, or the Hub would refuse the metadata.
    """
    data, _ = split(text)
    licence = data.get("license")
    if licence in (None, "", "unknown"):
        raise CardError(NO_LICENCE)
    problems = []
    if not isinstance(licence, str) or licence not in LICENSES:
        problems.append(f"{licence!r} is not an id of the Hub's list of licences (use 'other' with a name and a link)")
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        problems.append("license 'other' needs license_name and license_link")
    bases = data.get("base_model") or []
    for base in bases if isinstance(bases, list) else [bases]:
        if not (isinstance(base, str) and is_repo_id(base)):
            problems.append(f"base_model {base!r} is not a Hub id (owner/name)")
    for key in ("tags", "datasets"):
        values = data.get(key) or []
        if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
            problems.append(f"{key} must be a list of words")
    for model in data.get("model-index") or []:
        values = [metric.get("value") for result in model["results"] for metric in result["metrics"]]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            problems.append("the value of a metric is not a finite number")
    if problems:
        raise CardError(f"The model card cannot be pushed: {'; '.join(problems)}.")
