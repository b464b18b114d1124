"""``convert``, ``export``, ``push`` and ``domains``: the wiring; what they do is tested with the library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from PIL import Image
from tiny import tiny_generator, token_set

from refinestyle_hub.cards.origins import origin
from refinestyle_hub.cli import main
from refinestyle_hub.convert import export_rosinality
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.tokens.token_set import TokenSet


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, object] | str]:
    """Exit code, and the report or the error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in args])
    out, err = capsys.readouterr()
    code = stopped.value.code
    assert isinstance(code, int)
    return code, json.loads(out) if code == 0 else err


@pytest.fixture
def domain_dir(tmp_path: Path) -> Path:
    """A saved domain of the tiny generator; it says nothing of a licence."""
    generator = tiny_generator()
    parameters = TokenParameters(generator.kernel_stats(), rank=2)
    with torch.no_grad():
        for p in parameters.parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "domain"
    parameters.token_set(base=generator.fingerprint()).detach().save_pretrained(folder)
    return folder


def test_convert_and_export_are_inverse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = tiny_generator()
    export_rosinality(generator, tmp_path / "theirs.pt")
    code, report = run(capsys, "convert", tmp_path / "theirs.pt", tmp_path / "ours", "--license", "mit", "--json")
    assert code == 0
    assert report["parts"] == ["generator"]
    converted = Generator.from_pretrained(tmp_path / "ours")
    w = generator.map(torch.randn(2, generator.config.z_dim))
    assert torch.equal(generator(w), converted(w))
    code, report = run(capsys, "export", tmp_path / "ours", tmp_path / "again.safetensors", "--json")
    assert report["layout"] == "nvidia"
    assert (tmp_path / "again.safetensors").stat().st_size == report["bytes"]


def test_the_licence_of_the_weights_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_rosinality(tiny_generator(), tmp_path / "theirs.pt")
    code, error = run(capsys, "convert", tmp_path / "theirs.pt", tmp_path / "ours")
    assert code == 1
    assert "licen" in str(error)
    assert not (tmp_path / "ours").exists()


def test_a_domain_goes_to_the_hub_and_comes_back(
    hub: HubServer,
    domain_dir: Path,
    tiny_pipeline_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    hub.add("me/tiny", {"README.md": b"---\nlicense: cc-by-nc-4.0\n---\n"})
    push = ["push", domain_dir, "me/sketch", "--base-model", "me/tiny", "--json"]
    code, error = run(capsys, *push)
    assert code == 1
    assert "No licence is stated" in str(error)
    code, error = run(capsys, *push, "--license", "apache-2.0")
    assert code == 0, error
    code, report = run(capsys, "domains", "info", "me/sketch", "--base", tiny_pipeline_dir, "--json")
    assert (code, report["fits"], report["license"]) == (0, True, "apache-2.0")
    with pytest.raises(SystemExit):
        main(["domains", "info", "me/sketch"])
    assert capsys.readouterr().out.splitlines()[0].count("me/sketch") == 1
    code, report = run(capsys, "domains", "list", "--base", tiny_pipeline_dir, "--json")
    assert [d["repo_id"] for d in report["domains"]] == ["me/sketch"]
    code, report = run(capsys, "domains", "download", "me/sketch", "--out", tmp_path / "copy", "--json")
    assert code == 0
    ours, copy = (folder / "tokens.safetensors" for folder in (domain_dir, tmp_path / "copy"))
    assert ours.read_bytes() == copy.read_bytes()
    card = json.loads((tmp_path / "copy" / "card.json").read_text())
    assert card == {"base_license": "cc-by-nc-4.0", "base_model": "me/tiny", "license": "apache-2.0"}
    code, report = run(capsys, "push", domain_dir, "me/sketch", "--license", "mit", "--json")
    assert code == 0, report
    assert json.loads(hub.files("me/sketch")["card.json"]) == {**card, "license": "mit"}, "the rest is known"


def test_export_takes_domains_as_other_commands_do(
    domain_dir: Path, tiny_pipeline_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sketch.pt"
    for domain, strength in ((domain_dir, 1.0), (f"{domain_dir}=0.5", 0.5)):
        code, report = run(capsys, "export", tiny_pipeline_dir, out, "--domain", domain, "--json")
        assert code == 0, report
        assert report["domains"] == {str(domain_dir): strength}
    code, error = run(capsys, "export", tiny_pipeline_dir, tmp_path / "sketch.zip")
    assert code == 1
    assert "name a .pt for rosinality's layout, or a .safetensors" in str(error)
    assert not (tmp_path / "sketch.zip").exists()


def test_a_strangers_card_cannot_write_on_the_terminal(domain_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = {"title": "\x1b[2Jsketch\r\nfake", "summary": "\x9b31m\x07", "license": "mit\x1b]0;x\x07"}
    (domain_dir / "card.json").write_text(json.dumps(card))
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as stopped:
            main(["domains", "info", str(domain_dir), *more])
        assert stopped.value.code == 0
        out = capsys.readouterr().out
        assert "sketch" in out
        assert all(character.isprintable() or character == "\n" for character in out)
        assert out.count("\n") < 40


def test_a_mix_has_a_card(
    hub: HubServer,
    tiny_pipeline_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.write_token)
    base = RefineStylePipeline.from_pretrained(tiny_pipeline_dir).fingerprint
    drawn = {"name": "drawn", "pictures": 3, "rights": "Drawn by me", "method": "few-shot adaptation"}
    said = {"name": "said", "pictures": 0, "source_text": "a photo", "target_text": "a mask"}
    for n, made in enumerate((drawn, said)):
        replace(token_set(n, residual="pre"), base=base, metadata=made).save_pretrained(tmp_path / str(made["name"]))
    parts = [f"{tmp_path / 'drawn'}=0.5", f"{tmp_path / 'said'}=1.25"]
    options = ["--rank", 2, "--name", "a b", "--out", tmp_path / "mix", "--json"]
    code, report = run(capsys, "domains", "mix", tiny_pipeline_dir, *parts, *options)
    assert code == 0
    assert isinstance(report, dict)
    error = f"the relative error of the kernels is {max(report['errors'].values()):.3f} at most."
    with Image.open(tmp_path / "mix" / "preview.png") as sheet:
        plain, mixed = (sheet.crop((0, top, sheet.width, top + 32)) for top in (0, 34))
        assert sheet.size == (8 * 34 - 2, 2 * 34 - 2)
    assert plain.tobytes() != mixed.tobytes()
    card = json.loads((tmp_path / "mix" / "card.json").read_text())
    assert card.pop("pictures") == [
        {"caption": "Random seeds of the generator; below, the same in this domain.", "file": "preview.png"}
    ]
    assert card == {
        "limits": [f"Compressed to 2 tokens a layer; {error}"],
        "data": "A mix of domains.\n"
        "- drawn: Made from 3 pictures of the style, which are not part of this repo. Rights to them, as the maker "
        "states: Drawn by me.\n"
        '- said: Made without pictures, from the text "a photo" to "a mask".',
        "training": "refinestyle domains mix MODEL DOMAIN=0.5 DOMAIN=1.25 --out FOLDER --name 'a b' --rank 2",
    }
    hub.add("me/tiny", {"README.md": b"---\nlicense: mit\n---\n"})
    facts = ["--license", "mit", "--base-model", "me/tiny", "--json"]
    code, report = run(capsys, "push", tmp_path / "mix", "me/mix", *facts)
    assert code == 0, report
    pushed = hub.files("me/mix")["README.md"].decode()
    assert "Drawn by me." in pushed
    assert error in pushed


def test_the_card_of_a_mix_of_mixes_has_a_line_for_each_part() -> None:
    drawn, said = {"name": "drawn", "pictures": 1, "rights": "Mine."}, {"target_text": "a mask", "source_text": "it"}
    told = origin({"mixed_from": [{"mixed_from": [drawn, said]}, {"name": "again", "mixed_from": [drawn]}]})
    assert told.split("\n") == [
        "A mix of domains.",
        "- drawn: Made from 1 picture of the style, which are not part of this repo. Rights to them, as the maker "
        "states: Mine.",
        '- Made without pictures, from the text "it" to "a mask".',
    ]


def test_a_mix_is_saved_and_compressed(
    tiny_pipeline_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = RefineStylePipeline.from_pretrained(tiny_pipeline_dir)
    first, second = (replace(token_set(n, residual="pre"), base=pipe.fingerprint) for n in (1, 2))
    pipe.domains = {"first": replace(first, metadata={"name": "first"})}
    pipe.save_pretrained(tmp_path / "model")
    second.save_pretrained(tmp_path / "second")
    parts = ("first=0.5", f"{tmp_path / 'second'}=0.25")

    code, report = run(capsys, "domains", "mix", tmp_path / "model", *parts, "--out", tmp_path / "whole", "--json")
    assert code == 0
    assert isinstance(report, dict)
    assert (report["tokens"], report["errors"]) == (6, {})
    w = pipe.generator.sample(2, torch.Generator().manual_seed(0))
    mixed = pipe.generator(w, TokenSet.mix([(first, 0.5), (second, 0.25)]))
    whole = TokenSet.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(pipe.generator(w, whole), mixed)

    options = ("--rank", 2, "--name", "both", "--out", tmp_path / "small", "--json")
    code, report = run(capsys, "domains", "mix", tmp_path / "model", *parts, *options)
    assert code == 0
    assert isinstance(report, dict)
    small = TokenSet.from_pretrained(tmp_path / "small")
    assert small.metadata["name"] == "both"
    assert report["tokens"] == max(layer.rank for layer in small.layers.values()) == 2
    assert report["values"] == small.num_values < whole.num_values / 2
    assert report["errors"] == pytest.approx(whole.compress(2)[1])
    code, error = run(capsys, "domains", "mix", tmp_path / "model", "frist", "--out", tmp_path / "none")
    assert code == 1
    assert "Did you mean 'first'?" in str(error)

    for gone in (["first=0"], ["first=0.5", "first=-0.5"]):
        code, error = run(capsys, "domains", "mix", tmp_path / "model", *gone, "--out", tmp_path / "none")
        assert (code, "leave nothing" in str(error)) == (2, True)
        assert not (tmp_path / "none").exists()

    before = (tmp_path / "second" / "tokens.safetensors").read_bytes()
    code, error = run(capsys, "domains", "mix", tmp_path / "model", *parts, "--out", tmp_path / "second")
    assert (code, "Invalid value for --out" in str(error)) == (2, True), "a domain that is there stays"
    assert (tmp_path / "second" / "tokens.safetensors").read_bytes() == before
