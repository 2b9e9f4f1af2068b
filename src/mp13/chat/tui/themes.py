"""The chat's own themes, and Textual's by name. Calm: a quiet ground, one accent that is no adapter's colour."""

from textual.theme import Theme

from mp13.chat.settings.themes import DARK, LIGHT

OWN_THEMES = (
    Theme(
        name=DARK,
        primary="#b4bdf8",
        secondary="#8a94c8",
        accent="#b4bdf8",
        warning="#e2b86b",
        error="#ee7d8b",
        success="#8fc97a",
        foreground="#d9dde8",
        background="#15171e",
        surface="#1c1f28",
        panel="#252935",
        dark=True,
        variables={
            "border": "#b4bdf8",
            "block-cursor-background": "#2b3040",
            "block-cursor-foreground": "#f2f4fb",
            "block-cursor-text-style": "none",
            "block-cursor-blurred-background": "#2b3040",
            "block-cursor-blurred-foreground": "#f2f4fb",
            "input-selection-background": "#b4bdf8 30%",
        },
    ),
    Theme(
        name=LIGHT,
        primary="#3f4fb5",
        secondary="#6a75bd",
        accent="#3f4fb5",
        warning="#8a5a00",
        error="#b3263a",
        success="#3c7a22",
        foreground="#262a33",
        background="#fafaf8",
        surface="#f0f0ed",
        panel="#e6e6e2",
        dark=False,
        variables={
            "border": "#3f4fb5",
            "block-cursor-background": "#dfe2f4",
            "block-cursor-foreground": "#14171f",
            "block-cursor-text-style": "none",
            "block-cursor-blurred-background": "#dfe2f4",
            "block-cursor-blurred-foreground": "#14171f",
            "input-selection-background": "#3f4fb5 25%",
        },
    ),
)
