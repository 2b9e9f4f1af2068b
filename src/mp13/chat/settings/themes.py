"""The names of the themes. What they look like is Textual's, or the screen's own; no Textual here."""

DARK, LIGHT = "mp13-dark", "mp13-light"
THEMES = (
    DARK, LIGHT, "ansi-dark", "ansi-light", "atom-one-dark", "atom-one-light", "catppuccin-frappe", "catppuccin-latte",
    "catppuccin-macchiato", "catppuccin-mocha", "dracula", "flexoki", "gruvbox", "monokai", "nord", "rose-pine",
    "rose-pine-dawn", "rose-pine-moon", "solarized-dark", "solarized-light", "textual-dark", "textual-light",
    "tokyo-night",
)  # fmt: skip
