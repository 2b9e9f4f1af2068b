"""The page on configuration is made from the declarations."""

from pathlib import Path

from mp13.chat.settings.docs import configuration_page
from mp13.chat.settings.schema import Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_in_step_with_the_declarations() -> None:
    assert PAGE.read_text() == configuration_page(), "run: python -m mp13.chat.settings.docs > docs/configuration.md"


def test_every_setting_is_described_on_the_page() -> None:
    for key, field in Settings.model_fields.items():
        assert f"| `{key}`" in configuration_page()
        assert field.description
