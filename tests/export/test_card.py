"""The exported folder's front matter."""

import yaml

from finetune.export.card import export_card


def front_matter(text: str) -> dict[str, object]:
    """Parse what stands between the two rules."""
    return yaml.safe_load(text.split("---\n")[1])


def test_known_licence_and_hub_base() -> None:
    text = export_card("# Body", license_name="Apache-2.0", base_model="Qwen/Qwen3-8B", tags=["legal"])
    assert front_matter(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "base_model": "Qwen/Qwen3-8B",
        "tags": ["finetune", "legal"],
    }
    assert text.endswith("---\n\n# Body\n")


def test_unknown_licence_is_named_and_linked() -> None:
    text = export_card("", license_name='Falcon "LLM": 2.0', license_url="https://falcon.example/terms#x: y")
    found = front_matter(text)
    assert found["license"] == "other"
    assert found["license_name"] == 'Falcon "LLM": 2.0'
    assert found["license_link"] == "https://falcon.example/terms#x: y"
    assert "base_model" not in found
