"""Who may use which model for what."""

import logging
from pathlib import Path

import pytest

from finetune.config import CommercialUse, ModelConfig, Use
from finetune.errors import ConfigError
from finetune.model.license import check_license, declared_license, license_notice


def model(license: str, commercial_use: CommercialUse = CommercialUse.unknown, **more: object) -> ModelConfig:
    values: dict[str, object] = {"name": "example", "hub_id": "owner/example", "context_length": 512} | more
    return ModelConfig(license=license, commercial_use=commercial_use, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "license",
    [
        *("cc-by-nc-4.0", "CC-BY-NC-SA-4.0", "cc-by-nc-nd-4.0", "other-nc", "Example Non-Commercial License"),
        *("fair-noncommercial-research-license", "qwen-research", "Mistral AI Research License", "mrl", "MNPL-0.1"),
        *("mistral-ai-non-production", "exaone-nc", "apple-amlr"),
    ],
)
def test_a_licence_that_excludes_commercial_use_stops_a_commercial_run(license: str) -> None:
    for declared in (CommercialUse.unknown, CommercialUse.allowed):
        with pytest.raises(ConfigError, match="forbids commercial use"):
            check_license(model(license, declared), Use.commercial)
    check_license(model(license), Use.research)
    assert "commercial use is forbidden" in license_notice(model(license))


def test_the_refusal_names_model_licence_page_and_a_way_out() -> None:
    refused = model("own terms", CommercialUse.forbidden, license_url="https://example.org/terms")
    with pytest.raises(ConfigError) as caught:
        check_license(refused, Use.commercial)
    for part in ("example (owner/example)", "own terms", "https://example.org/terms", "use=research"):
        assert part in str(caught.value)
    check_license(refused, Use.research)


@pytest.mark.parametrize("license", ["Apache-2.0", "MIT", "bsd-3-clause", "cc-by-4.0", "llama3.1", "gemma", "NCSA"])
def test_other_licences_pass(license: str) -> None:
    check_license(model(license), Use.commercial)
    check_license(model(license, CommercialUse.conditional), Use.commercial)


def test_an_unknown_licence_is_warned_of_in_a_commercial_run_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="finetune"):
        check_license(model("unknown"), Use.research)
        check_license(model("Apache-2.0"), Use.commercial)
        check_license(model("own terms", CommercialUse.allowed), Use.commercial)
        assert not caplog.records
        check_license(model("unknown"), Use.commercial)
    assert "model.commercial_use=" in caplog.text
    assert "example" in caplog.text


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlanguage:\n- en\nlicense: cc-by-nc-4.0\n---\n# Title\n", "cc-by-nc-4.0"),
        ("\ufeff---\r\nlicense: 'apache-2.0'  # open\r\n---\r\n", "apache-2.0"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: llama3.1\n---\n", "llama3.1"),
        ("---\ntags: [a]\n---\nlicense: mit\n", "unknown"),
        ("# Title\nlicense: mit\n", "unknown"),
        ("---\nlicense: mit\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_local_folder_declares_its_licence_in_its_card(card: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert declared_license(model("unknown", path=str(tmp_path), hub_id=None)) == found
    assert declared_license(model("MIT", path=str(tmp_path), hub_id=None)) == "MIT"


def test_a_card_that_forbids_stops_a_commercial_run(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", encoding="utf-8")
    local = model("unknown", path=str(tmp_path), hub_id=None)
    with pytest.raises(ConfigError, match=r"cc-by-nc-4\.0"):
        check_license(local, Use.commercial)
    check_license(local, Use.research)


def test_a_folder_without_a_card_has_no_known_licence(tmp_path: Path) -> None:
    assert declared_license(model("unknown", path=str(tmp_path), hub_id=None)) == "unknown"


def test_a_notice_says_the_conditions_in_one_line() -> None:
    llama = model("llama3.1", CommercialUse.conditional, license_url="https://example.org/l", gated=True)
    notice = license_notice(llama)
    assert "\n" not in notice
    for part in ("llama3.1", "https://example.org/l", "Built with Llama", "https://huggingface.co/owner/example"):
        assert part in notice
    assert license_notice(model("Apache-2.0", CommercialUse.allowed)).endswith("commercial use is allowed")
    assert "not known" in license_notice(model("unknown"))
    assert "read its terms" in license_notice(model("own", CommercialUse.conditional))


def test_a_notice_does_not_publish_where_a_local_model_lies() -> None:
    notice = license_notice(model("MIT", path="/home/somebody/secret/tiny", hub_id=None))
    assert "example (tiny)" in notice
    assert "somebody" not in notice
